"""A journal of training: one line per batch, written before the next batch begins."""

import json
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from rlaifv.callbacks.iteration import parts
from rlaifv.learners.dpo.batch import PreferenceBatch
from rlaifv.runtime.ranks import rank
from rlaifv.store.atomic import append_line, make_directory, write_text


class JournalCallback(Callback):
    """Writes iteration, epoch, batch, step, loss and the ids of the pairs of every batch, in a file for each rank.

    `step` is the number of optimizer steps before the batch. A resumed run first takes back what was trained after its
    checkpoint, so each step stands there once, with the batches that made the weights what they are.

    Args:
        directory: where the files lie.
    """

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if rank() == 0:
            make_directory(self.directory)
            for path in self.directory.glob("*.jsonl"):
                write_text(path, "".join(_until(path, trainer.global_step)))
        trainer.strategy.barrier()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: PreferenceBatch, batch_idx: int
    ) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: PreferenceBatch, batch_idx: int
    ) -> None:
        data, _ = parts(trainer, pl_module)
        entry = {
            "iteration": data.iteration,
            "epoch": data.epoch,
            "batch": batch_idx,
            "step": self._step,
            "loss": float(outputs["loss"]) * trainer.accumulate_grad_batches,
            "pairs": batch.pair_ids,
        }
        append_line(self.directory / f"rank-{rank():03d}.jsonl", json.dumps(entry))


def _until(path: Path, step: int) -> list[str]:
    """Return the lines of all batches before a step. What a crash left of a line is of none of them."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    return [line for line in whole if json.loads(line)["step"] < step]
