"""Journal of the batches trained on: one line per batch, written to disk before the next batch begins."""

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
    """Write iteration, epoch, batch, step, loss and pair ids of every batch to one file per rank.

    `step` is the number of optimizer steps before the batch. A resumed run first removes the entries after its
    checkpoint, so each step appears once, with the batches that produced the current weights.

    Args:
        directory: directory of the journal files.
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
            "pairs": batch.record_ids,
        }
        append_line(self.directory / f"rank-{rank():03d}.jsonl", json.dumps(entry))


def _until(path: Path, step: int) -> list[str]:
    """Return the lines of all batches before `step`, without lines that a crash left incomplete."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    return [line for line in whole if json.loads(line)["step"] < step]
