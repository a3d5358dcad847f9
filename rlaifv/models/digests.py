"""Digests of weights: SHA-256 of every tensor, several at a time, and one over these by name.

Tensors are hashed separately, to use all cores and to hash frozen weights once: `is_cached` reuses the digest of an unchanged
tensor. A tensor counts as unchanged while its storage, offset, dtype, shape and version counter are the same and, if it
trains, no torch optimizer has made a step (fused optimizers do not increment the version). Writes through `.data` are not
noticed; only loading and merging do that, outside the time in which a run takes digests.
"""

import hashlib
import os
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakTensorKeyDictionary

from rlaifv.runtime.phases import timed

# What of a tensor on a GPU is on the host at a time, for each thread.
BLOCK_BYTES = 1 << 26


class _Known:
    """Cached digests of tensors. One per process, as are optimizer hooks."""

    digests: Any = WeakTensorKeyDictionary()
    num_steps = 0


def _count_step(*_: Any) -> None:
    _Known.num_steps += 1


register_optimizer_step_post_hook(_count_step)


def weights_digest(model: nn.Module, is_cached: bool = False) -> str:
    """Return a digest over names, shapes and bytes of all parameters and buffers: which policy produced a shard.

    Args:
        model: on any device.
        is_cached: whether tensors that did not change since they were last hashed are not hashed again.
    """
    return tensors_digest(model.state_dict(keep_vars=True), is_cached)


@timed("digest")
def tensors_digest(
    tensors: Mapping[str, Tensor], is_cached: bool = False, copies: Mapping[str, Tensor] | None = None
) -> str:
    """Return SHA-256, in hexadecimal, over names, shapes and SHA-256 of the bytes of tensors, in the order of the names.

    Args:
        tensors: by name. A tensor with two names is hashed once.
        is_cached: see `weights_digest`.
        copies: copies of tensors on the host, hashed in their place.
    """
    found = {id(one): _look_up(one) if is_cached else None for one in tensors.values()}
    missing = {id(one): name for name, one in tensors.items() if found[id(one)] is None}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        digests = pool.map(tensor_digest, [(copies or tensors)[name] for name in missing.values()])
        found |= dict(zip(missing, digests, strict=True))
    for key, name in missing.items():
        _remember(tensors[name], str(found[key]))
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name}{tuple(tensor.shape)}{found[id(tensor)]}\n".encode())
    return whole.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """Return SHA-256 over the bytes of a tensor, which are read where they are on the CPU, and copied once from elsewhere."""
    digest = hashlib.sha256()
    for block in tensor.detach().contiguous().flatten().view(torch.uint8).split(BLOCK_BYTES):
        digest.update(block.cpu().numpy())
    return digest.hexdigest()


def _look_up(tensor: Tensor) -> str | None:
    state, storage, digest = _Known.digests.get(tensor, (None, None, None))
    # The address alone would be that of another storage too, once this one was freed.
    is_same = digest is not None and not tensor.is_inference() and storage() is tensor.untyped_storage()
    return digest if is_same and state == _state(tensor) else None


def _remember(tensor: Tensor, digest: str) -> None:
    if not tensor.is_inference():  # it has no version
        _Known.digests[tensor] = _state(tensor), weakref.ref(tensor.untyped_storage()), digest


def _state(tensor: Tensor) -> tuple[Any, ...]:
    place = (tensor.device, tensor.storage_offset(), tensor.stride(), tuple(tensor.shape), tensor.dtype)
    return (*place, tensor._version, _Known.num_steps if tensor.requires_grad else None)
