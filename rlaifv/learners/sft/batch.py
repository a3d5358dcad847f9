"""From targets to packed trees: all targets of a prompt in a batch share one prefix."""

from collections.abc import Sequence

from rlaifv.learners.batch import TreeBatch, TreeCollator, by_prompt
from rlaifv.records import Prompt, Target


class TargetBatch(TreeBatch):
    """Targets, each a branch."""


class TargetCollator(TreeCollator):
    """Build batches from (prompt, target) items; arguments as of `TreeCollator`."""

    table = "targets"

    @staticmethod
    def check_record(record: Target) -> None:
        """Raise ValueError for a target without tokens."""
        if not record.token_ids:
            raise ValueError(f"Target {record.id!r} has no tokens.")

    def __call__(self, items: Sequence[tuple[Prompt, Target]]) -> TargetBatch:
        groups = by_prompt(items).values()
        packed, images = self.pack([(prompt, [one.token_ids for one in some]) for prompt, some in groups])
        return TargetBatch(packed, images, tuple(one.id for _, some in groups for one in some))
