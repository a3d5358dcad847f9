"""From comparisons and labelled segments to packed trees: all answers to a prompt in a batch share one prefix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaifv.engines.local import LocalEngine
from rlaifv.learners.batch import TreeBatch, TreeCollator, by_prompt
from rlaifv.models.reward_head import RewardSpec
from rlaifv.models.tree.packing import PackedTrees
from rlaifv.records import Comparison, LabelledSegments, Prompt


class ComparisonBatch(TreeBatch):
    """N comparisons by H criteria, of answers that are branches.

    Attributes:
        places: int64[2 N], flat index of the last token of the first, second, first, … answer.
        preferences: float32[N, H].
        margins: float32[N, H].
    """

    def __init__(
        self,
        trees: PackedTrees,
        images: dict[str, Tensor],
        record_ids: tuple[str, ...],
        places: Tensor,
        preferences: Tensor,
        margins: Tensor,
    ) -> None:
        super().__init__(trees, images, record_ids)
        self.places, self.preferences, self.margins = places, preferences, margins


class SegmentBatch(TreeBatch):
    """T labelled segments of answers that are branches.

    Attributes:
        places: int64[T], flat index of the last token of each segment.
        labels: int64[T, H].
    """

    def __init__(
        self, trees: PackedTrees, images: dict[str, Tensor], record_ids: tuple[str, ...], places: Tensor, labels: Tensor
    ) -> None:
        super().__init__(trees, images, record_ids)
        self.places, self.labels = places, labels


class _RewardCollator(TreeCollator):
    def __init__(self, policy: LocalEngine, spec: RewardSpec, row_tokens: int = 0) -> None:
        super().__init__(policy, row_tokens)
        self.spec = spec

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Also raises ValueError if the reward model reads facts and a prompt has none."""
        super().check([self.spec.asked(prompt) for prompt in prompts])


class ComparisonCollator(_RewardCollator):
    """Build batches from (prompt, comparison) items. An answer that is in several comparisons of a prompt is one branch.

    Args:
        policy: see `TreeCollator`, as `row_tokens`.
        spec: of the reward model; says how facts are read.
        row_tokens: of a row that several trees share.
    """

    table = "comparisons"

    def check_record(self, record: Comparison) -> None:
        """Raise ValueError for a comparison without one preference for each head."""
        counts = len(record.preferences), len(record.margins)
        if counts != (len(self.spec.heads),) * 2 or not (record.first_token_ids and record.second_token_ids):
            raise ValueError(
                f"Comparison {record.id!r} does not hold answers and one preference for each of {self.spec.heads}."
            )

    def __call__(self, items: Sequence[tuple[Prompt, Comparison]]) -> ComparisonBatch:
        groups = by_prompt(items).values()
        sides: list[int] = []
        answered: list[tuple[Prompt, list[tuple[int, ...]]]] = []
        num_branches = 0
        for prompt, some in groups:
            answers = [ids for one in some for ids in (one.first_token_ids, one.second_token_ids)]
            places = {ids: num_branches + k for k, ids in enumerate(dict.fromkeys(answers))}
            sides += [places[ids] for ids in answers]
            num_branches += len(places)
            answered.append((self.spec.asked(prompt), list(places)))
        packed, images = self.pack(answered)
        comparisons = [one for _, some in groups for one in some]
        return ComparisonBatch(
            packed,
            images,
            tuple(one.id for one in comparisons),
            packed.last_index[torch.tensor(sides)],
            torch.tensor([one.preferences for one in comparisons], dtype=torch.float32),
            torch.tensor([one.margins for one in comparisons], dtype=torch.float32),
        )


class SegmentCollator(_RewardCollator):
    """Build batches from (prompt, labelled segments) items.

    Args:
        policy: see `TreeCollator`, as `row_tokens`.
        spec: of the reward model; says how facts are read.
        row_tokens: of a row that several trees share.
    """

    table = "segments"

    def check_record(self, record: LabelledSegments) -> None:
        """Raise ValueError for an answer without one label for each segment and head, or with segments outside of it."""
        is_inside = all(0 <= end < len(record.token_ids) for end in record.ends)
        if len(record.labels) != len(record.ends) * len(self.spec.heads) or not (record.ends and is_inside):
            raise ValueError(
                f"Answer {record.id!r} does not hold one label for each segment and each of {self.spec.heads}."
            )

    def __call__(self, items: Sequence[tuple[Prompt, LabelledSegments]]) -> SegmentBatch:
        groups = by_prompt(items).values()
        packed, images = self.pack(
            [(self.spec.asked(prompt), [one.token_ids for one in some]) for prompt, some in groups]
        )
        answers = [one for _, some in groups for one in some]
        places = [own[list(one.ends)] for own, one in zip(packed.split(packed.own_index), answers, strict=True)]
        labels = torch.tensor([label for one in answers for label in one.labels], dtype=torch.int64)
        return SegmentBatch(
            packed, images, tuple(one.id for one in answers), torch.cat(places), labels.view(-1, len(self.spec.heads))
        )
