"""Record training time as a phase of the run, and write the phase times at the start of every epoch."""

from contextlib import ExitStack

import lightning as L
from lightning.pytorch.callbacks import Callback

from rlaifv.runtime.phases import save, timed


class PhaseCallback(Callback):
    """Count the time of an epoch as the phase "train", except phases that other callbacks time in between.

    Must come after `IterationCallback`, which computes a digest at the start of an iteration.
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
