"""Attention over a tree's mask that leaves out what the mask rules out: queries in blocks, each with the keys it may see.

A dense mask makes every branch pay for all its siblings: a hundred questions about an image cost five times the attention
that they need. Here a block of queries is given its prefix, itself, and nothing between. The mask alone decides, so this
holds for any mask. It is a drop-in for "sdpa": ordinary masks go to transformers' own function untouched, and a mask whose
blocks got lost on the way is still a mask.

Shapes: B rows, L tokens per row, H heads, E head size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# Small enough to step over siblings, large enough to be worth a kernel call.
BLOCK_QUERIES = 128


@dataclass(frozen=True, slots=True)
class QueryBlock:
    """Queries that share their keys.

    queries: their places in the row
    keys: runs of places that at least one of them attends to, in some row
    bias: float[B, 1, queries, keys], 0 where a query may attend, the dtype's lowest number where not
    """

    queries: slice
    keys: tuple[slice, ...]
    bias: Tensor


def in_blocks(allowed: Tensor, dtype: torch.dtype, block_queries: int = BLOCK_QUERIES) -> Tensor:
    """`allowed` bool[B, 1, L, L] with its blocks attached, biases in `dtype`, for models that run "sdpa"."""
    blocks = []
    for start in range(0, allowed.shape[2], block_queries):
        queries = slice(start, min(start + block_queries, allowed.shape[2]))
        some = allowed[:, :, queries]
        keys = _runs(some.any(dim=2).any(dim=0).squeeze(0))
        bias = torch.zeros((), dtype=dtype, device=allowed.device).where(_take(some, keys), torch.finfo(dtype).min)
        blocks.append(QueryBlock(queries, keys, bias))
    allowed.query_blocks = tuple(blocks)  # type: ignore[attr-defined]
    return allowed


def _runs(seen: Tensor) -> tuple[slice, ...]:
    """Where bool[L] is True, as slices."""
    edges = torch.diff(seen.int(), prepend=seen.new_zeros(1).int(), append=seen.new_zeros(1).int()).nonzero()
    places = edges.flatten().tolist()
    return tuple(slice(start, stop) for start, stop in zip(places[::2], places[1::2], strict=True))


def _take(tensor: Tensor, keys: tuple[slice, ...], dim: int = -1) -> Tensor:
    parts = [tensor.narrow(dim, run.start, run.stop - run.start) for run in keys]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def blocked_sdpa(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """What transformers calls for "sdpa": query, key, value float[B, H, L, E] to float[B, L, H, E]."""
    blocks: tuple[QueryBlock, ...] = getattr(attention_mask, "query_blocks", ())
    if not blocks:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    parts = [
        sdpa_attention_forward(
            module,
            query[:, :, block.queries],
            _take(key, block.keys, 2),
            _take(value, block.keys, 2),
            block.bias,
            **kwargs,
        )[0]
        for block in blocks
    ]
    return torch.cat(parts, 1), None


AttentionInterface.register("sdpa", blocked_sdpa)
