"""From rollouts to packed trees: all answers to a prompt in a batch share one prefix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaifv.learners.batch import TreeBatch, TreeCollator, by_prompt
from rlaifv.models.tree.packing import PackedTrees
from rlaifv.records import Prompt, Rollout


class RolloutBatch(TreeBatch):
    """N answers with S tokens; each answer is one branch.

    Attributes:
        old_logps: float32[S], of the policy that sampled the answers, in the order of the branches.
        advantages: float32[N], or with a critic float32[S].
        values: float32[S] of the critic as the iteration began, or None.
        returns: float32[S], what the critic learns, or None.
    """

    def __init__(
        self,
        trees: PackedTrees,
        images: dict[str, Tensor],
        old_logps: Tensor,
        advantages: Tensor,
        record_ids: tuple[str, ...],
        values: Tensor | None = None,
        returns: Tensor | None = None,
    ) -> None:
        super().__init__(trees, images, record_ids)
        self.old_logps, self.advantages = old_logps, advantages
        self.values, self.returns = values, returns


class RolloutCollator(TreeCollator):
    """Build batches from (prompt, rollout) items; arguments as of `TreeCollator`."""

    table = "rollouts"

    @staticmethod
    def check_record(record: Rollout) -> None:
        """Raise ValueError for a rollout without one log-prob per token, or with a part of what a critic gives."""
        size = len(record.token_ids)
        if not size or len(record.logps) != size:
            raise ValueError(f"Rollout {record.id!r} does not hold one log-prob for each of its tokens.")
        if {len(record.values), len(record.advantages), len(record.returns)} not in ({0}, {size}):
            raise ValueError(f"Rollout {record.id!r} does not hold one value and one advantage for each of its tokens.")

    def __call__(self, items: Sequence[tuple[Prompt, Rollout]]) -> RolloutBatch:
        groups = by_prompt(items).values()
        packed, images = self.pack([(prompt, [one.token_ids for one in some]) for prompt, some in groups])
        rollouts = [one for _, some in groups for one in some]
        has_critic = bool(rollouts[0].values)
        return RolloutBatch(
            trees=packed,
            images=images,
            old_logps=_flat([one.logps for one in rollouts]),
            advantages=_flat([one.advantages if has_critic else (one.advantage,) for one in rollouts]),
            record_ids=tuple(one.id for one in rollouts),
            values=_flat([one.values for one in rollouts]) if has_critic else None,
            returns=_flat([one.returns for one in rollouts]) if has_critic else None,
        )


def _flat(values: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor([value for some in values for value in some], dtype=torch.float32)
