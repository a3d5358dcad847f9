"""Time training as a phase of the run's clock."""

from contextlib import ExitStack

import lightning as L
from lightning.pytorch.callbacks import Callback

from rlaifv.runtime.phases import save, timed


class PhaseCallback(Callback):
    """Counts an epoch's steps as training, without the phases of other callbacks in between.

    It stands after `IterationCallback`, which takes a digest where an iteration begins.
    """

    def __init__(self) -> None:
        self._training = ExitStack()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        save()
        self._training.enter_context(timed("train"))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._training.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._training.close()
