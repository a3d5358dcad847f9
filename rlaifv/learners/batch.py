"""What the batches and collators of all learners share: packed trees, and the images of their prefixes."""

import copy
from collections.abc import Mapping, Sequence
from typing import Self, TypeVar

import torch
from torch import Tensor

from rlaifv.engines.local import LocalEngine
from rlaifv.models.prompting import stack_images
from rlaifv.models.tree.packing import Branch, PackedTrees, Tree
from rlaifv.records import Prompt

RecordT = TypeVar("RecordT")


class TreeBatch:
    """One training batch.

    An ordinary class on purpose: precision plugins search dataclasses and containers for floating-point tensors and cast
    them, and log-probs of some hundred nats must not be rounded to 16 bits.

    Attributes:
        trees: the packed prefixes and answers.
        images: image arguments of the model's forward.
        record_ids: of the records that it was made of.
    """

    def __init__(self, trees: PackedTrees, images: dict[str, Tensor], record_ids: tuple[str, ...]) -> None:
        self.trees = trees
        self.images = images
        self.record_ids = record_ids

    def to(self, device: torch.device) -> Self:
        """Return a copy with all tensors on a device."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor | PackedTrees):
                setattr(moved, name, value.to(device))
        moved.images = {name: tensor.to(device) for name, tensor in self.images.items()}
        return moved


class TreeCollator:
    """Encode prompts and pack trees, all answers to a prompt as branches of one prefix.

    Args:
        policy: engine of the model that trains. It encodes prompts, and says whether its model is run on trees.
        row_tokens: most tokens of a row that several trees share; a row always has room for the longest tree.
    """

    def __init__(self, policy: LocalEngine, row_tokens: int = 0) -> None:
        self.policy = policy
        self.row_tokens = row_tokens

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Compare a tree with separate sequences; the run may have been resumed without running the policy yet."""
        self.policy.check(next((prompt for prompt in prompts if prompt.image_paths), prompts[0]))

    def pack(self, answered: Sequence[tuple[Prompt, Sequence[Sequence[int]]]]) -> tuple[PackedTrees, dict[str, Tensor]]:
        """Return packed trees of prompts with the ids of their answers, and their images in reading order."""
        encoded = [self.policy.prompter.encode(prompt) for prompt, _ in answered]
        trees = [
            Tree(prefix.ids, [Branch(ids) for ids in answers])
            for prefix, (_, answers) in zip(encoded, answered, strict=True)
        ]
        packed = self.policy.packer(trees, self.row_tokens)
        return packed, stack_images([encoded[k] for k in packed.tree_order])


def by_prompt(items: Sequence[tuple[Prompt, RecordT]]) -> Mapping[str, tuple[Prompt, list[RecordT]]]:
    """Group records by the id of their prompt, in order of first appearance."""
    groups: dict[str, tuple[Prompt, list[RecordT]]] = {}
    for prompt, record in items:
        groups.setdefault(prompt.id, (prompt, []))[1].append(record)
    return groups
