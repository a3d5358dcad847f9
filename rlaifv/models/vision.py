"""Cache a frozen vision tower's features on disk, within a size limit.

The projector usually trains, so the tower's hidden states are cached. The key is the bytes of the preprocessed pixels, so
another resolution, processor or backend has another key.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from rlaifv.models.digests import weights_digest
from rlaifv.store.atomic import make_directory, publish

_SUFFIX = ".safetensors"


class FeatureStore:
    """Tensors by key in a directory of safetensors files, with least-recently-used eviction.

    A file's name is `<key>-<digest of its bytes>.safetensors`, so a damaged one is noticed, removed and made again. Several
    processes may share a directory.

    Args:
        directory: created if it is missing.
        max_bytes: what the files may add up to; 1.2 MB an image for LLaVA-1.5 at 16 bits.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        make_directory(directory)
        self.directory, self.max_bytes = directory, max_bytes
        self._num_bytes = sum(size for _, size, _ in self._files())

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors of `key`, or None if they are missing or damaged."""
        for path in self.directory.glob(f"{key}-*{_SUFFIX}"):
            with suppress(OSError, SafetensorError):
                content = path.read_bytes()
                if path.name == self._name(key, content):
                    path.touch()
                    return load(content)
            path.unlink(missing_ok=True)
        return None

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store `tensors`, and evict others until all fit."""
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        with publish(self.directory / self._name(key, content)) as temporary:
            temporary.write_bytes(content)
        self._num_bytes += len(content)
        if self._num_bytes > self.max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        files = sorted(self._files())
        self._num_bytes = sum(size for _, size, _ in files)
        while files and self._num_bytes > self.max_bytes:
            _, size, path = files.pop(0)
            path.unlink(missing_ok=True)
            self._num_bytes -= size

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        for path in self.directory.glob(f"*{_SUFFIX}"):
            with suppress(FileNotFoundError):  # another process made room
                status = path.stat()
                yield status.st_mtime_ns, status.st_size, path

    @staticmethod
    def _name(key: str, content: bytes) -> str:
        return f"{key}-{hashlib.sha256(content).hexdigest()[:32]}{_SUFFIX}"


def keep_features(model: Any, store: FeatureStore) -> None:
    """Make the frozen vision tower of a LLaVA answer from `store`, and store what it computes.

    Raises:
        ValueError: the tower trains, or the family has none whose hidden states are read by layer.
    """
    tower, layers = getattr(model.base_model, "vision_tower", None), getattr(model.config, "vision_feature_layer", None)
    if tower is None or layers is None or any(parameter.requires_grad for parameter in tower.parameters()):
        raise ValueError(
            "engine.feature_store_bytes must be 0: it is for frozen vision towers of the LLaVA families, and that of this "
            f"{model.config.model_type!r} model trains or is of another kind."
        )
    layers = [layers] if isinstance(layers, int) else list(layers)
    run, made_by = tower.forward, f"{weights_digest(tower, is_cached=True)}{tower.dtype}{layers}"

    def look_up(pixel_values: Tensor, **arguments: Any) -> BaseModelOutputWithPooling:
        keys = [_digest(made_by, one) for one in pixel_values]
        found = [store.get(key) for key in keys]
        missing = [k for k, features in enumerate(found) if features is None]
        if missing:
            with torch.no_grad():
                states = run(pixel_values[missing], **arguments).hidden_states
            for place, k in enumerate(missing):
                made = {str(layer): states[layer][place] for layer in layers}
                store.put(keys[k], made)
                found[k] = made
        stacked = {
            layer: torch.stack([features[str(layer)].to(pixel_values.device) for features in found if features])
            for layer in layers
        }
        return BaseModelOutputWithPooling(hidden_states=stacked)  # type: ignore[arg-type]  # read by layer number only

    tower.forward = look_up


def _digest(made_by: str, pixels: Tensor) -> str:
    digest = hashlib.sha256(f"{made_by}{tuple(pixels.shape)}{pixels.dtype}".encode())
    digest.update(pixels.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
