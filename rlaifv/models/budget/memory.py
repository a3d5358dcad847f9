"""Device memory of a batch besides the weights: activations, logits, keys and values.

The activation formulas count the tensors that autograd saves in the Llama-like layers of transformers under "sdpa" with
a boolean mask, and agree with it to a few percent. `element_bytes` is the size of an activation throughout.
"""

from typing import Any

import torch
from transformers import PretrainedConfig

from rlaifv.models.budget.flops import ModelCost


def dtype_bytes(dtype: str, config: PretrainedConfig) -> int:
    """Return bytes of an element of `dtype`; "auto" is the checkpoint's, float32 where its config names none.

    Raises:
        ValueError: no such floating-point dtype.
    """
    name = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.") if dtype == "auto" else dtype
    found: Any = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"model.dtype={dtype!r} is no floating-point dtype; use float32, bfloat16, float16 or auto.")
    return found.itemsize


def layer_activation_bytes(cost: ModelCost, element_bytes: int, *, trains: bool, adapter_bytes: int = 0) -> int:
    """Return what one layer of the language model saves per token for its backward pass, the attention mask excluded.

    Args:
        cost: of the model.
        element_bytes: of an activation.
        trains: whether its own weights train; if not, linear layers need not keep their inputs.
        adapter_bytes: of an adapter's weight, 0 without adapters. Those of another dtype than the activations keep a
            copy of every input; dropout adds a byte for each.
    """
    hidden, queries, keys, mlp = cost.hidden_size, cost.attention_width, cost.kv_width, cost.mlp_width
    # Two norms keep their input in float32; attention keeps q, its output, and k and v repeated to as many heads; the
    # MLP keeps gate, activation and up.
    saved = 8 * hidden + element_bytes * (4 * queries + 3 * mlp)
    if trains:  # each norm keeps its normalized input, and the linear layers keep theirs
        saved += element_bytes * (4 * hidden + mlp)
    if cost.has_qk_norm:
        saved += (4 + element_bytes * trains) * (queries + keys)
    if adapter_bytes:
        shares_inputs = adapter_bytes == element_bytes
        saved += adapter_bytes * (2 * hidden + queries + mlp if shares_inputs else cost.adapter_inputs)
        saved += cost.adapter_inputs
    return saved


def training_activation_bytes(
    cost: ModelCost,
    num_tokens: int,
    element_bytes: int,
    *,
    trains: bool,
    adapter_bytes: int = 0,
    recompute: bool = False,
) -> int:
    """Return activations of the language model for one packed row; SDPA turns the mask into a bias, kept layer by layer."""
    per_layer = num_tokens * layer_activation_bytes(cost, element_bytes, trains=trains, adapter_bytes=adapter_bytes)
    per_layer += num_tokens**2 * element_bytes
    if recompute:
        return per_layer + cost.num_layers * num_tokens * cost.hidden_size * element_bytes
    return cost.num_layers * per_layer


def vision_activation_bytes(cost: ModelCost, element_bytes: int) -> int:
    """Return what a vision tower that trains saves for one image: norms, attention, and its MLP before and after."""
    per_position = cost.vision_layers * (10 * cost.vision_width + 2 * cost.vision_mlp_width)
    return element_bytes * per_position * cost.image.num_tiles * cost.image.tile_positions


def head_bytes(cost: ModelCost, num_scored: int, element_bytes: int, *, with_gradients: bool = False) -> int:
    """Return logits of the tokens scored at a time, their float32 copy, and the gradients of both where there are any."""
    return num_scored * cost.vocab_size * (4 + element_bytes) * (2 if with_gradients else 1)


def inference_bytes(cost: ModelCost, batch_tokens: int, row_tokens: int, element_bytes: int) -> int:
    """Return what one layer works on, without gradients: residual, norm, and the wider of MLP and attention; and the mask."""
    wide = max(3 * cost.mlp_width, 4 * cost.attention_width)
    return batch_tokens * (element_bytes * (2 * cost.hidden_size + wide) + row_tokens)


def kv_cache_bytes(cost: ModelCost, num_tokens: int, element_bytes: int) -> int:
    """Return keys and values of so many tokens: 512 KiB each in LLaVA-1.5-7B at 16 bits."""
    return num_tokens * cost.kv_elements * element_bytes
