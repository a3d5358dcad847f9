"""Attention in blocks against the dense one, and the blocks that a mask falls into."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlaifv.models.tree.block_attention import blocked_sdpa, in_blocks
from rlaifv.models.tree.packing import Branch, Tree, branch_logps, pack


def attend(run: Any, mask: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Output and the gradient of the keys, for two heads of random numbers."""
    torch.manual_seed(seed)
    query, key, value = (torch.randn(len(mask), 2, mask.shape[3], 4, requires_grad=True) for _ in range(3))
    output, weights = run(torch.nn.Module(), query, key, value, mask)
    assert weights is None
    output.square().sum().backward()
    assert key.grad is not None
    return output.detach(), key.grad


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(1, 3),
    length=st.integers(1, 20),
    block=st.integers(1, 25),
    share=st.floats(0, 1),
)
def test_any_mask_gives_what_the_dense_mask_gives(seed: int, rows: int, length: int, block: int, share: float) -> None:
    random = torch.rand(rows, 1, length, length, generator=torch.Generator().manual_seed(seed)) < share
    mask = random | torch.eye(length, dtype=torch.bool)  # whatever attends to nothing has no attention
    expected = attend(sdpa_attention_forward, mask)
    actual = attend(blocked_sdpa, in_blocks(mask, torch.float32, block))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_blocks_leave_siblings_out() -> None:
    """Prefix 0 1 2, branches 3 4 5 and 6 7 8: the last block of three reads the prefix and itself."""
    packed = pack([Tree([5, 6, 7], [Branch((1, 2, 3)), Branch((1, 2, 3))])])
    blocks: Any = in_blocks(packed.attention_mask, torch.float32, 3).blocks  # type: ignore[attr-defined]
    assert (blocks.queries, blocks.keys) == ((3, 3, 3), (3, 3, 3))
    assert blocks.reads == ((0,), (0, 1), (0, 2))
    assert [bias.shape[2:] for bias in blocks.biases] == [(3, 3), (3, 6), (3, 6)]
    assert blocks.biases[2][0, 0].eq(0).int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("num_branches", [20, 40])
def test_what_is_kept_grows_with_the_branches_not_with_their_square(num_branches: int) -> None:
    packed = pack([Tree([5] * 64, [Branch((1,) * 32)] * num_branches)])
    blocks: Any = in_blocks(packed.attention_mask, torch.float32, 64).blocks  # type: ignore[attr-defined]
    assert sum(bias.numel() for bias in blocks.biases) == 64 * 64 + num_branches // 2 * 64 * (64 + 64)


def test_ordinary_masks_go_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "rlaifv.models.tree.block_attention.sdpa_attention_forward", lambda *args, **_: seen.append(args) or 7
    )
    assert blocked_sdpa(torch.nn.Module(), *torch.zeros(3, 1), None) == 7  # type: ignore[arg-type,comparison-overlap]
    assert seen[0][-1] is None


def test_the_model_runs_in_blocks(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that a model asks for it: without blocks, each of its layers would be called once."""
    calls = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args[2].shape[2])
        return sdpa_attention_forward(*args, **kwargs)

    registered = AttentionInterface()["sdpa"]
    assert registered.__name__ == "blocked_sdpa"
    monkeypatch.setitem(registered.__globals__, "sdpa_attention_forward", counted)
    packed = pack([Tree([5] * 200, [Branch((7,) * 56), Branch((8,) * 100)])])
    branch_logps(model, packed, {})
    assert calls == 2 * [256, 300]  # keys of two blocks in two layers: the second block leaves the first branch out
