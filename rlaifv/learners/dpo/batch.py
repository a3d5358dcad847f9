"""From pairs to packed trees: all pairs of a prompt in a batch share one prefix, and each distinct answer is one branch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaifv.engines.local import LocalEngine
from rlaifv.learners.batch import TreeBatch, TreeCollator, by_prompt
from rlaifv.learners.dpo.token_weights import changed_token_weights
from rlaifv.models.tree.packing import PackedTrees
from rlaifv.records import Pair, Prompt


class PreferenceBatch(TreeBatch):
    """One training batch. Sides alternate: chosen, rejected, chosen, rejected, …, two per pair.

    Attributes:
        sides: the branch of each side, in the order of `trees.branch_lengths`; S tokens over all sides. An answer that is in
            several pairs of a prompt is one branch.
        reference_logps: float32[S].
        token_weights: float32[S], all 1 unless changed tokens weigh more.
    """

    def __init__(
        self,
        trees: PackedTrees,
        images: dict[str, Tensor],
        sides: tuple[int, ...],
        reference_logps: Tensor,
        token_weights: Tensor,
        record_ids: tuple[str, ...],
    ) -> None:
        super().__init__(trees, images, record_ids)
        self.sides = sides
        self.reference_logps = reference_logps
        self.token_weights = token_weights

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each side."""
        return tuple(self.trees.branch_lengths[branch] for branch in self.sides)

    def of_sides(self, values: Tensor) -> Tensor:
        """Lay out per-token values of the branches, as `branch_logps` returns them, by side: float[S]."""
        branches = self.trees.split(values)
        return torch.cat([branches[branch] for branch in self.sides])


class PreferenceCollator(TreeCollator):
    """Build batches from (prompt, pair) items.

    Args:
        policy: see `TreeCollator`, as `row_tokens`.
        row_tokens: of a row that several trees share.
        changed_weight: weight of tokens in which chosen and rejected answers differ; 1 weighs all tokens alike.
    """

    table = "pairs"

    def __init__(self, policy: LocalEngine, row_tokens: int = 0, changed_weight: float = 1.0) -> None:
        super().__init__(policy, row_tokens)
        self.changed_weight = changed_weight

    @staticmethod
    def check_record(record: Pair) -> None:
        """Raise ValueError for a pair without one reference log-prob per token."""
        counts = len(record.chosen_reference_logps), len(record.rejected_reference_logps)
        if counts != (len(record.chosen_token_ids), len(record.rejected_token_ids)) or 0 in counts:
            raise ValueError(f"Pair {record.id!r} does not hold one reference log-prob for each of its tokens.")

    def __call__(self, items: Sequence[tuple[Prompt, Pair]]) -> PreferenceBatch:
        groups = by_prompt(items).values()
        pairs = [pair for _, some in groups for pair in some]
        sides: list[int] = []
        answered: list[tuple[Prompt, list[tuple[int, ...]]]] = []
        num_branches = 0
        for prompt, some in groups:
            answers = [ids for pair in some for ids in (pair.chosen_token_ids, pair.rejected_token_ids)]
            places = {ids: num_branches + k for k, ids in enumerate(dict.fromkeys(answers))}
            sides += [places[ids] for ids in answers]
            num_branches += len(places)
            answered.append((prompt, list(places)))
        packed, images = self.pack(answered)
        weights = [
            weight
            for pair in pairs
            for side in changed_token_weights(pair.chosen_token_ids, pair.rejected_token_ids, self.changed_weight)
            for weight in side
        ]
        logps = [
            logp
            for pair in pairs
            for side in (pair.chosen_reference_logps, pair.rejected_reference_logps)
            for logp in side
        ]
        return PreferenceBatch(
            trees=packed,
            images=images,
            sides=tuple(sides),
            reference_logps=torch.tensor(logps, dtype=torch.float32),
            token_weights=torch.tensor(weights, dtype=torch.float32),
            record_ids=tuple(pair.id for pair in pairs),
        )
