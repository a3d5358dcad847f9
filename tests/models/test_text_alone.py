"""Prompts without an image, alone and beside others, on a tiny model of every family: the same numbers, and gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaifv.models.families import FAMILIES
from rlaifv.models.prompting import stack_images
from rlaifv.models.tree.packing import Branch, Packer, Tree, branch_logps
from tests.models.conftest import Tiny

ANSWERS = ((60, 61, 2), (62, 63, 64, 2))
TEXT = 3  # which of a family's prompts has no picture


def logps(tiny: Tiny, some: Sequence[int]) -> tuple[Tensor, ...]:
    """Of both answers to each of some prompts, in one batch."""
    packer = Packer(separately=tiny.model.config.model_type not in FAMILIES)
    trees = [Tree(tiny.prompts[k].ids, [Branch(ids) for ids in ANSWERS]) for k in some]
    packed = packer(trees)
    images = stack_images([tiny.prompts[some[k]] for k in packed.tree_order])
    return packed.split(branch_logps(tiny.model, packed, images))


def test_text_beside_pictures_is_the_same_as_text_alone(tiny: Tiny) -> None:
    with torch.no_grad():
        alone, others = logps(tiny, [TEXT]), logps(tiny, [0, 1, 2])
        mixed = logps(tiny, [0, TEXT, 1, 2])
    expected = (*others[:2], *alone, *others[2:])
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(mixed, expected, strict=True))


def test_a_batch_of_text_alone_trains_the_language_model(tiny: Tiny) -> None:
    tiny.model.train()
    try:
        torch.cat(logps(tiny, [TEXT])).sum().backward()
        gradients = {
            name: parameter.grad for name, parameter in tiny.model.named_parameters() if parameter.grad is not None
        }
    finally:
        tiny.model.eval()
        tiny.model.zero_grad(set_to_none=True)
    assert any("layers" in name and bool(gradient.any()) for name, gradient in gradients.items())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())
