"""From labelled answers to packed trees: all answers to a prompt in a batch, and a mismatched one, share one prefix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaifv.learners.batch import TreeBatch, TreeCollator, by_prompt
from rlaifv.models.tree.packing import PackedTrees
from rlaifv.records import LabelledAnswer, Prompt


class LabelledBatch(TreeBatch):
    """N labelled answers, and M mismatched ones: one for each prompt that has one. S tokens over all of them.

    Attributes:
        reference_logps: float32[S], in the order of the branches.
        is_mismatched: bool[N + M], for each branch.
        is_desirable: bool[N], for the branches that are not mismatched.
        weights: float32[N].
    """

    def __init__(
        self,
        trees: PackedTrees,
        images: dict[str, Tensor],
        reference_logps: Tensor,
        is_mismatched: Tensor,
        is_desirable: Tensor,
        weights: Tensor,
        record_ids: tuple[str, ...],
    ) -> None:
        super().__init__(trees, images, record_ids)
        self.reference_logps, self.is_mismatched = reference_logps, is_mismatched
        self.is_desirable, self.weights = is_desirable, weights


class LabelledCollator(TreeCollator):
    """Build batches from (prompt, labelled answer) items; arguments as of `TreeCollator`.

    The mismatched answer of a prompt is the last branch of its tree, once, however many of the prompt's answers are in the
    batch.
    """

    table = "labelled_answers"

    @staticmethod
    def check_record(record: LabelledAnswer) -> None:
        """Raise ValueError for an answer without one reference log-prob per token, its own or the mismatched one's."""
        counts = len(record.reference_logps), len(record.mismatched_reference_logps)
        if not counts[0] or counts != (len(record.token_ids), len(record.mismatched_token_ids)):
            raise ValueError(
                f"Labelled answer {record.id!r} does not hold one reference log-prob for each of its tokens."
            )

    def __call__(self, items: Sequence[tuple[Prompt, LabelledAnswer]]) -> LabelledBatch:
        answered: list[tuple[Prompt, list[tuple[int, ...]]]] = []
        logps: list[float] = []
        is_mismatched: list[bool] = []
        groups = by_prompt(items).values()
        for prompt, some in groups:
            branches = [(one.token_ids, one.reference_logps) for one in some]
            is_mismatched += [False] * len(some)
            if some[0].mismatched_token_ids:
                branches.append((some[0].mismatched_token_ids, some[0].mismatched_reference_logps))
                is_mismatched.append(True)
            answered.append((prompt, [ids for ids, _ in branches]))
            logps += [logp for _, of_branch in branches for logp in of_branch]
        packed, images = self.pack(answered)
        answers = [one for _, some in groups for one in some]
        return LabelledBatch(
            trees=packed,
            images=images,
            reference_logps=torch.tensor(logps, dtype=torch.float32),
            is_mismatched=torch.tensor(is_mismatched),
            is_desirable=torch.tensor([one.is_desirable for one in answers]),
            weights=torch.tensor([one.weight for one in answers], dtype=torch.float32),
            record_ids=tuple(one.id for one in answers),
        )
