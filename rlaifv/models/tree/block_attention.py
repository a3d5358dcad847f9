"""Block-sparse attention for tree masks: blocks of queries, each with only the keys that it may attend to.

A dense mask makes every branch pay for all its siblings: a hundred questions about an image cost five times the attention
that they need. Here a block of queries is given its prefix, itself, and nothing between. The mask alone decides, so this
holds for any mask. It is a drop-in for "sdpa": ordinary masks go to transformers' own function untouched, and a mask whose
blocks got lost on the way is still a mask.

Shapes: B rows, L tokens per row, H heads, E head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# Small enough to step over siblings, large enough to be worth a kernel call.
BLOCK_QUERIES = 256


@dataclass(frozen=True, slots=True)
class Blocks:
    """A row cut into queries that share their keys, and into stretches of keys that the same blocks read.

    queries: length of each block of queries, together L
    keys: length of each stretch of keys, together L
    reads: for each block, the stretches in which some query of some row attends to some key
    biases: for each block, float[B, 1, queries, keys read]: 0 where a query may attend, the dtype's lowest where not
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]
    biases: tuple[Tensor, ...]


def in_blocks(allowed: Tensor, dtype: torch.dtype, block_queries: int = BLOCK_QUERIES) -> Tensor:
    """Return `allowed` bool[B, 1, L, L] with its blocks attached, biases in `dtype`, for models that run "sdpa"."""
    rows = allowed.split(block_queries, 2)
    seen = torch.stack([some.any(2).any(0).squeeze(0) for some in rows])  # [blocks, L]
    edges = (seen[:, 1:] != seen[:, :-1]).any(0).nonzero().flatten().tolist()
    starts = [0, *(edge + 1 for edge in edges)]
    keys = tuple(stop - start for start, stop in pairwise([*starts, allowed.shape[3]]))
    reads = tuple(tuple(k for k, read in enumerate(block) if read) for block in seen[:, starts].tolist())
    zero = torch.zeros((), dtype=dtype, device=allowed.device)
    biases = tuple(
        zero.where(_chosen(some.split(keys, 3), places, 3), torch.finfo(dtype).min)
        for some, places in zip(rows, reads, strict=True)
    )
    allowed.blocks = Blocks(tuple(some.shape[2] for some in rows), keys, reads, biases)  # type: ignore[attr-defined]
    return allowed


def _chosen(stretches: Sequence[Tensor], places: Sequence[int], dim: int) -> Tensor:
    return stretches[places[0]] if len(places) == 1 else torch.cat([stretches[k] for k in places], dim)


def blocked_sdpa(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Compute attention as transformers' "sdpa" function: query, key, value float[B, H, L, E] to float[B, L, H, E]."""
    blocks: Blocks | None = getattr(attention_mask, "blocks", None)
    if blocks is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    # Cut once: slices of their own would each fill a gradient of the whole length.
    keys, values = key.split(blocks.keys, 2), value.split(blocks.keys, 2)
    parts = [
        sdpa_attention_forward(module, some, _chosen(keys, places, 2), _chosen(values, places, 2), bias, **kwargs)[0]
        for some, places, bias in zip(query.split(blocks.queries, 2), blocks.reads, blocks.biases, strict=True)
    ]
    return torch.cat(parts, 1), None


AttentionInterface.register("sdpa", blocked_sdpa)
