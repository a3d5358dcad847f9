"""Progress bar of training, in the style of the bars of the feedback stages."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import Progress, TaskID

from rlaifv.callbacks.iteration import parts
from rlaifv.runtime.console import progress_bar


class TrainingProgress(ProgressBar):
    """One bar per epoch with iteration, epoch, steps, rate, remaining time, loss and reward accuracy."""

    def __init__(self) -> None:
        super().__init__()
        self._bars: Progress | None = None
        self._task: TaskID | None = None

    def disable(self) -> None:
        """Do nothing: the bar is already hidden on all ranks but the first."""

    def enable(self) -> None:
        """Do nothing; see `disable`."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Create the bar at the first batch: for an epoch resumed midway, `on_train_epoch_start` is not called."""
        if self._bars is not None:
            return
        data, _ = parts(trainer, pl_module)
        name = f"iteration {data.iteration + 1}  train {data.epoch + 1}/{data.epochs}"
        self._bars = progress_bar()
        self._bars.start()
        self._task = self._bars.add_task(name, total=trainer.num_training_batches, completed=data.batch, note="")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bars is not None and self._task is not None:
            seen = trainer.callback_metrics
            note = "  ".join(
                f"{label} {float(seen[name]):.3f}"
                for label, name in (("loss", "loss"), ("accuracy", "rewards/accuracies"))
                if name in seen
            )
            self._bars.update(self._task, advance=1, note=note)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
