"""Attention masks and positions in the form that each model family expects.

Packing and decoding describe attention as a boolean tensor; this module converts it to what a model's forward takes.

Shapes: B rows, Q new tokens of a row, K tokens of a row that may be attended to (in a tree Q = K = L; when decoding, K is
what the cache holds with the Q new ones at its end), n tokens of a prefix.
"""

from collections.abc import Mapping, Sequence
from inspect import signature
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from rlaifv.models.families import FAMILIES
from rlaifv.models.tree.block_attention import BLOCK_QUERIES, in_blocks


def attention_masks(model: Any, allowed: Tensor, query_positions: Tensor, key_positions: Tensor) -> Any:
    """Return `allowed` in the form that the model's attention implementation reads.

    Args:
        model: a Hugging Face image-text-to-text model (not wrapped in PEFT).
        allowed: bool[B, 1, Q, K], True where a query may attend; at least one key for every query.
        query_positions: int64[B, Q], which token of its own sequence (prefix and branch) each query is, counted from 0.
            Independent of M-RoPE.
        key_positions: int64[B, K], the same of the keys. Only layers with a sliding window look at them.

    Returns:
        What to pass as `attention_mask` to `model.base_model`: bool[B, 1, Q, K] for sdpa, the model's dtype (0 or its
        lowest number) for eager, a BlockMask for flex_attention; and a dict of them by kind of layer where some of the
        model's layers see a window of their sequence only. A cache must then hold all tokens for all layers, as a
        `DynamicCache()` made without a config does.

    Raises:
        ValueError: the implementation takes no mask of this kind.
    """
    text: Any = model.config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or ()
    if window is None or (kinds and "sliding_attention" not in kinds):
        return _in_the_form_of(text._attn_implementation, allowed, model.dtype)
    near = query_positions[:, None, :, None] - key_positions[:, None, None, :] < window
    windowed = _in_the_form_of(text._attn_implementation, allowed & near, model.dtype)
    if not kinds:  # Mistral: all layers slide
        return windowed
    return {
        "full_attention": _in_the_form_of(text._attn_implementation, allowed, model.dtype),
        "sliding_attention": windowed,
    }


def _in_the_form_of(attention: str, allowed: Tensor, dtype: torch.dtype) -> Any:
    if attention == "sdpa":
        return in_blocks(allowed, dtype) if allowed.shape[2] > BLOCK_QUERIES else allowed
    if attention == "eager":  # adds its mask to the scores instead of selecting by it
        return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    if attention == "flex_attention":  # would add a dense mask too
        rows, _, queries, keys = allowed.shape
        return create_block_mask(
            lambda row, _, query, key: allowed[row, 0, query, key], rows, None, queries, keys, device=allowed.device
        )
    raise ValueError(f"model.attention={attention!r} cannot run trees; use auto, sdpa, eager or flex_attention.")


def open_images(model: Any, allowed: Tensor, input_ids: Tensor, positions: Tensor) -> Tensor:
    """Allow bidirectional attention within images, for families that were trained with it (Gemma 3).

    Args:
        model: a Hugging Face image-text-to-text model.
        allowed: bool[B, 1, L, L], causal within an image.
        input_ids: int64[B, L]
        positions: int64[B, L], which token of its own sequence each one is; a sequence starts where it is 0.

    Returns:
        bool[B, 1, L, L]; `allowed` itself for all other families.
    """
    family = FAMILIES.get(model.config.model_type)
    if family is None or not family.sees_whole_images:
        return allowed
    is_image: Tensor = torch.eq(input_ids, _placeholder(model))
    begins = is_image.clone()
    begins[:, 1:] &= ~is_image[:, :-1] | (positions[:, 1:] == 0)
    run = begins.cumsum(1)
    same = (run[:, :, None] == run[:, None, :]) & is_image[:, :, None] & is_image[:, None, :]
    return allowed | same[:, None]


def image_arguments(model: Any, images: Mapping[str, Any]) -> dict[str, Any]:
    """Return the image arguments of a model's forward on its device, pixels in the type of its weights."""
    return {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in images.items()
    }


def prefix_positions(model: Any, prefixes: Sequence[Sequence[int]], images: Mapping[str, Any]) -> list[Tensor]:
    """Return position ids of prompts, as the model's own forward numbers each of them alone.

    Args:
        model: a Hugging Face image-text-to-text model (not wrapped in PEFT). It is left unchanged.
        prefixes: the ids of each prompt, image placeholders expanded.
        images: the image arguments of the model's forward, images in the order of the prefixes.

    Returns:
        For each prefix int64[n] that counts from 0, or with M-RoPE (Qwen-VL; arXiv 2409.12191, section 2.1) int64[3, n]:
        time, row and column. What follows a prefix goes on at its largest position plus 1, on all three axes. On the CPU.
    """
    counted = [torch.arange(len(ids)) for ids in prefixes]
    if not uses_mrope(model):
        return counted
    grids = images.get("image_grid_thw")
    positions, first = [], 0
    for ids, plain in zip(prefixes, counted, strict=True):
        is_image = torch.eq(torch.tensor(ids), _placeholder(model))
        num_images = sum(flag for flag, _ in groupby(is_image.tolist()))
        if grids is None or num_images == 0:
            positions.append(plain.expand(3, -1))
            continue
        of_prefix = grids[first : first + num_images].cpu()
        found, _ = model.base_model.get_rope_index(
            torch.tensor([list(ids)]), mm_token_type_ids=is_image[None].int(), image_grid_thw=of_prefix
        )
        positions.append(found[:, 0])
        first += num_images
    return positions


def stock_arguments(model: Any, input_ids: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """Return a processor's further outputs (masks, token types), from which the model derives its own mask and positions.

    Args:
        model: a Hugging Face image-text-to-text model (not wrapped in PEFT).
        input_ids: int64[B, L], plain sequences.
        seen: bool[B, L], False in padding.
    """
    known = signature(model.base_model.forward).parameters
    is_image = (torch.eq(input_ids, _placeholder(model)) & seen).long()
    types = {name: is_image for name in ("mm_token_type_ids", "token_type_ids") if name in known}
    return {"attention_mask": seen.long(), **types}


def _placeholder(model: Any) -> int:
    """Return the id that image features replace, or -1 if the config names none."""
    config = model.config
    found = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    return -1 if found is None else found


def uses_mrope(model: Any) -> bool:
    """Return whether the model uses M-RoPE: three-axis positions computed from the images' grids."""
    return hasattr(model.base_model, "get_rope_index")
