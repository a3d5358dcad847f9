"""Digests that are taken once: what a cached digest sees, and how often a tensor is hashed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlaifv.models import digests
from rlaifv.models.digests import tensors_digest, weights_digest


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the tensors that were hashed."""
    sizes: list[int] = []
    plain = digests.tensor_digest

    def counting(tensor: Tensor) -> str:
        sizes.append(tensor.numel())
        return plain(tensor)

    monkeypatch.setattr(digests, "tensor_digest", counting)
    return sizes


def frozen_and_trained() -> nn.Module:
    model = nn.ModuleDict({"frozen": nn.Linear(3, 5, bias=False), "trained": nn.Linear(2, 2, bias=False)})
    model["frozen"].requires_grad_(False)
    return model


def test_only_what_trains_is_hashed_again_after_a_step(hashed: list[int]) -> None:
    """Fused steps count no version of the tensors that they write to."""
    model = frozen_and_trained()
    first = weights_digest(model, is_cached=True)
    assert sorted(hashed) == [4, 15]
    assert weights_digest(model, is_cached=True) == first
    assert sorted(hashed) == [4, 15]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True)
    model["trained"](torch.ones(1, 2)).sum().backward()  # type: ignore[index]
    optimizer.step()
    after = weights_digest(model, is_cached=True)
    assert sorted(hashed) == [4, 4, 15]
    assert after != first
    assert after == weights_digest(model)


def test_a_cached_digest_sees_copies_and_other_storages(hashed: list[int]) -> None:
    model = frozen_and_trained()
    known = {weights_digest(model, is_cached=True)}
    weight: Any = model["frozen"].weight  # type: ignore[index]
    with torch.no_grad():
        weight.copy_(torch.zeros_like(weight))
    known.add(weights_digest(model, is_cached=True))
    weight.data = torch.ones(5, 3)
    known.add(weights_digest(model, is_cached=True))
    weight.data = weight.data.T.contiguous().T
    assert weights_digest(model, is_cached=True) in known  # the same numbers
    model.to(torch.bfloat16)
    known.add(weights_digest(model, is_cached=True))
    assert len(known) == 4
    assert weights_digest(model) == weights_digest(model, is_cached=True)


def test_names_shapes_and_bytes_count_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"b": torch.arange(12.0), "a": torch.tensor(1), "none": torch.zeros(0)}
    digest = tensors_digest(tensors)
    assert len(digest) == 64
    assert tensors_digest(dict(sorted(tensors.items()))) == digest
    monkeypatch.setattr(digests, "BLOCK_BYTES", 7)
    assert tensors_digest(tensors) == digest
    assert tensors_digest({**tensors, "b": torch.arange(12.0).view(3, 4)}) != digest
    assert tensors_digest({"c" if name == "b" else name: one for name, one in tensors.items()}) != digest


def test_tied_tensors_and_copies_are_hashed_once(hashed: list[int]) -> None:
    weight = nn.Parameter(torch.ones(6))
    copies = {"one": weight.detach().clone(), "two": weight.detach().clone()}
    digest = tensors_digest({"one": weight, "two": weight}, copies=copies)
    assert hashed == [6]
    assert tensors_digest({"one": weight, "two": weight}, is_cached=True) == digest == tensors_digest(copies)
