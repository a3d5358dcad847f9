"""Save and load the trainable weights of a model; frozen weights stay as they are."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlaifv.models.digests import tensors_digest
from rlaifv.models.loading import read_tensors
from rlaifv.store.atomic import publish


def trained_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that train, by name: of a model with adapters, these alone. Tied ones have one name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained_digest(model: nn.Module, copies: Mapping[str, Tensor] | None = None) -> str:
    """Return the digest of what trains, of a model's own tensors or of what `on_host` made of them."""
    return tensors_digest(trained_tensors(model), copies=copies)


def on_host(model: nn.Module) -> dict[str, Tensor]:
    """What trains, for reading on the host: the very tensors where they are there, one copy of each where they are not."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in trained_tensors(model).items()}


def write_trained(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Publish tensors from `on_host`, or their float32 masters, as a safetensors file.

    Raises:
        OSError: the file cannot be written; what was there before is still there.
    """
    with publish(path) as temporary:
        save_file(dict(tensors), temporary)


def read_trained(model: nn.Module, path: Path, digest: str) -> dict[str, Tensor]:
    """Load the trainable weights from a file, bit by bit, and return the file's tensors.

    Raises:
        ValueError: the file is missing, damaged, of another model, or not the one whose digest was recorded.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing.")
    stored = read_tensors(path)
    trained = trained_tensors(model)
    _check_shapes(trained, stored, str(path))
    is_master = {t.dtype for t in trained.values()} <= {torch.bfloat16, torch.float16}
    weights = {name: t.to(trained[name].dtype) for name, t in stored.items()} if is_master else stored
    if (found := tensors_digest(weights)) != digest:
        raise ValueError(
            f"{path} is not what was written: its weights have SHA-256 {found}, but {digest} was recorded."
        )
    _put(model, weights)
    return stored


@contextmanager
def other_weights(model: nn.Module, path: Path, digest: str) -> Iterator[None]:
    """Swap in the weights of a file inside the context, and restore the model's own afterwards. Raises as `read_trained`.

    Its own weights are kept in host memory.
    """
    own = {name: _copy(tensor) for name, tensor in trained_tensors(model).items()}
    try:
        read_trained(model, path, digest)
        yield
    finally:
        _put(model, own)


def _copy(tensor: Tensor) -> Tensor:
    """On the host, with memory of its own."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _check_shapes(trained: Mapping[str, Tensor], stored: Mapping[str, Tensor], where: str) -> None:
    for name in sorted({*trained, *stored}):
        shapes = [tuple(some[name].shape) if name in some else "missing" for some in (stored, trained)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{where}: {name} is {shapes[0]} there, but {shapes[1]} in what trains here.")


def _put(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trained_tensors(model).items():
            parameter.copy_(stored[name])
