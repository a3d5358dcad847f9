"""Random state in checkpoints, so that a resumed run draws what the uninterrupted one would have drawn."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from rlaifv.runtime.ranks import rank, world_size


class RandomStateCallback(Callback):
    """Saves and restores the generators of Python, NumPy and torch (all CUDA devices included) of every rank.

    A checkpoint of fewer ranks says nothing of the others; those go on with what the run's seed gave them.
    """

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        states: list[Any] = [_state()]
        if world_size() > 1:
            states = [None] * world_size()
            dist.all_gather_object(states, _state())
        checkpoint["random_state"] = states

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["random_state"]
        if rank() < len(states):
            _restore(states[rank()])


def _state() -> dict[str, Any]:
    """Return this process's random state as tensors and plain values."""
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
