"""Save checkpoints after every epoch and on a stop request, and verify them before resuming."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from rlaifv.callbacks.iteration import parts
from rlaifv.runtime.phases import timed
from rlaifv.runtime.ranks import rank
from rlaifv.runtime.stopping import stop, stop_requested
from rlaifv.store.atomic import make_directory
from rlaifv.store.checkpoints import checkpoint_path, keep_newest, seal_directory, write_checkpoint
from rlaifv.store.run_dir import require_space

# Checkpoint keys that resuming requires, and their names in error messages.
REQUIRED = {
    "state_dict": "weights",
    "optimizer_states": "optimizer state",
    "lr_schedulers": "learning rate schedule",
    "loops": "counters of the trainer",
    "iteration": "iteration",
    "random_state": "random state",
}


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoint IO that writes atomically with a digest and loads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_checkpoint(Path(path), partial(torch.save, checkpoint))

    @timed("checkpoint")
    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Load a checkpoint with `weights_only=True`.

        Raises:
            ValueError: the file cannot be read without running code, or lacks state that resuming requires.
        """
        try:
            checkpoint = super().load_checkpoint(path, map_location, weights_only=True)
        except Exception as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise ValueError(
                f"{path} cannot be loaded as a checkpoint of tensors and plain values: {reason}"
            ) from error
        missing = [name for key, name in REQUIRED.items() if not checkpoint.get(key)]
        if missing:
            raise ValueError(f"{path} holds no {', no '.join(missing)}; a run cannot go on from it as it was.")
        return checkpoint


class CheckpointCallback(Checkpoint):
    """Save a checkpoint at the end of every epoch, and after the next optimizer step once a signal requests a stop.

    As a `Checkpoint` callback it runs after all others, so the saved counters already point to the next step.

    Args:
        directory: directory of the checkpoints.
        num_kept: number of checkpoints to keep.
        min_free_bytes: free disk space required before writing a checkpoint.
        save_last: whether to also save at the end of the last epoch, right before the export. Without it, a run that
            stops before the export completes, or that is later given more iterations, resumes from the previous epoch.
    """

    def __init__(self, directory: str, num_kept: int = 2, min_free_bytes: int = 0, save_last: bool = True) -> None:
        self.directory = Path(directory)
        self.num_kept = num_kept
        self.min_free_bytes = min_free_bytes
        self.save_last = save_last
        self._saved_to_stop = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._saved_to_stop:  # stop only now, after the metrics of the last step are logged
            raise stop()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        made_a_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        # The end of an epoch saves anyway; the start of the next stage or epoch then handles the request.
        if made_a_step and not trainer.is_last_batch:
            self._saved_to_stop = trainer.strategy.reduce_boolean_decision(stop_requested(), all=False)
            if self._saved_to_stop:
                self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data, _ = parts(trainer, pl_module)
        if self.save_last or data.iteration < data.num_iterations:  # the counter already includes this epoch
            self.save(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.strategy.reduce_boolean_decision(stop_requested(), all=False):
            raise stop()

    @timed("checkpoint")
    def save(self, trainer: L.Trainer) -> None:
        """Write a checkpoint and remove old ones. Call on all ranks."""
        for logger in trainer.loggers:
            logger.save()  # a resumed run does not log these steps again
        path = checkpoint_path(self.directory, trainer.global_step)
        if rank() == 0:
            require_space(self.directory, self.min_free_bytes)
            make_directory(self.directory)
        trainer.save_checkpoint(path)
        if rank() == 0:
            if path.is_dir():
                seal_directory(path)
            keep_newest(self.directory, path, self.num_kept)
