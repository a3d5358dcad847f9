"""Save random states in checkpoints so that a resumed run draws the same numbers as an uninterrupted one."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from rlaifv.runtime.ranks import rank, world_size


class RandomStateCallback(Callback):
    """Save and restore the random states of Python, NumPy and torch (including all CUDA devices) of every rank.

    When resuming with more ranks than the checkpoint has, the additional ranks keep the state set by the run's seed.
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
    """Return the random state of this process as tensors and plain values."""
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
