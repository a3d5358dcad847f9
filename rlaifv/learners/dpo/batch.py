"""From pairs to packed trees: all pairs of a prompt in a batch share one prefix, and each distinct answer is one branch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaifv.engines.local import LocalEngine
from rlaifv.learners.dpo.token_weights import changed_token_weights
from rlaifv.models.prompting import stack_images
from rlaifv.models.tree.packing import Branch, PackedTrees, Tree
from rlaifv.records import Pair, Prompt


class PreferenceBatch:
    """One training batch. Sides alternate: chosen, rejected, chosen, rejected, …, two per pair.

    An ordinary class on purpose: precision plugins search dataclasses and containers for floating-point tensors and cast
    them, and reference log-probs of some hundred nats must not be rounded to 16 bits.

    Attributes:
        trees: the packed prefixes and completions; an answer that is in several pairs of a prompt is one branch.
        images: image arguments of the model's forward.
        sides: the branch of each side, in the order of `trees.branch_lengths`; S tokens over all sides.
        reference_logps: float32[S].
        token_weights: float32[S], all 1 unless changed tokens weigh more.
        record_ids: in the order of the sides.
    """

    __slots__ = ("images", "record_ids", "reference_logps", "sides", "token_weights", "trees")

    def __init__(
        self,
        trees: PackedTrees,
        images: dict[str, Tensor],
        sides: tuple[int, ...],
        reference_logps: Tensor,
        token_weights: Tensor,
        record_ids: tuple[str, ...],
    ) -> None:
        self.trees = trees
        self.images = images
        self.sides = sides
        self.reference_logps = reference_logps
        self.token_weights = token_weights
        self.record_ids = record_ids

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each side."""
        return tuple(self.trees.branch_lengths[branch] for branch in self.sides)

    def of_sides(self, values: Tensor) -> Tensor:
        """Lay out per-token values of the branches, as `branch_logps` returns them, by side: float[S]."""
        branches = self.trees.split(values)
        return torch.cat([branches[branch] for branch in self.sides])

    def to(self, device: torch.device) -> "PreferenceBatch":
        return PreferenceBatch(
            self.trees.to(device),
            {name: tensor.to(device) for name, tensor in self.images.items()},
            self.sides,
            self.reference_logps.to(device),
            self.token_weights.to(device),
            self.record_ids,
        )


class PreferenceCollator:
    """Build batches from (prompt, pair) items.

    Args:
        policy: engine of the policy. It encodes prompts, and says whether its model is run on trees.
        row_tokens: most tokens of a row that several trees share; a row always has room for the longest tree.
        changed_weight: weight of tokens in which chosen and rejected answers differ; 1 weighs all tokens alike.
    """

    table = "pairs"

    def __init__(self, policy: LocalEngine, row_tokens: int = 0, changed_weight: float = 1.0) -> None:
        self.policy = policy
        self.row_tokens = row_tokens
        self.changed_weight = changed_weight

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Compare a tree with separate sequences; the run may have been resumed without running the policy yet."""
        self.policy.check(next((prompt for prompt in prompts if prompt.image_paths), prompts[0]))

    @staticmethod
    def check_record(record: Pair) -> None:
        """Raise ValueError for a pair without one reference log-prob per token."""
        counts = len(record.chosen_reference_logps), len(record.rejected_reference_logps)
        if counts != (len(record.chosen_token_ids), len(record.rejected_token_ids)) or 0 in counts:
            raise ValueError(f"Pair {record.id!r} does not hold one reference log-prob for each of its tokens.")

    def __call__(self, items: Sequence[tuple[Prompt, Pair]]) -> PreferenceBatch:
        by_prompt: dict[str, list[tuple[Prompt, Pair]]] = {}
        for prompt, pair in items:
            by_prompt.setdefault(prompt.id, []).append((prompt, pair))
        encoded = [self.policy.prompter.encode(some[0][0]) for some in by_prompt.values()]
        pairs = [pair for some in by_prompt.values() for _, pair in some]
        trees: list[Tree] = []
        sides: list[int] = []
        num_branches = 0
        for prefix, some in zip(encoded, by_prompt.values(), strict=True):
            answers = [ids for _, pair in some for ids in (pair.chosen_token_ids, pair.rejected_token_ids)]
            places = {ids: num_branches + k for k, ids in enumerate(dict.fromkeys(answers))}
            sides += [places[ids] for ids in answers]
            num_branches += len(places)
            trees.append(Tree(prefix.ids, [Branch(ids) for ids in places]))
        packed = self.policy.packer(trees, self.row_tokens)
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
            images=stack_images([encoded[k] for k in packed.tree_order]),
            sides=tuple(sides),
            reference_logps=torch.tensor(logps, dtype=torch.float32),
            token_weights=torch.tensor(weights, dtype=torch.float32),
            record_ids=tuple(pair.id for pair in pairs),
        )
