"""Take candidates within an iteration, and load the best at its end."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from rlaifv.callbacks.iteration import parts
from rlaifv.data.datamodule import IterationDataModule
from rlaifv.learners.optimizer import MasterAdamW
from rlaifv.models.trained import trained_tensors
from rlaifv.observers.candidates import Candidates
from rlaifv.observers.selection import Candidate, candidate_steps
from rlaifv.report.console import candidate_line
from rlaifv.runtime.console import console
from rlaifv.runtime.ranks import rank
from rlaifv.runtime.stopping import Stopped


class CandidateCallback(Callback):
    """Takes candidates within each pass, and loads the best before the iteration's last checkpoint is written.

    Place it after `IterationCallback`, which counts batches and epochs, and before `CheckpointCallback`. Without candidates it
    does nothing.
    """

    def __init__(self, candidates: Candidates) -> None:
        self.candidates = candidates
        self.rules = candidates.held_out.selection

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure a candidate whose measurement was interrupted; its weights are in the checkpoint."""
        data, module = parts(trainer, pl_module)
        if not self.rules.per_epoch or data.iteration != module.iteration:
            return
        step, done = trainer.global_step, _steps(data.batch, trainer)
        num_steps = _steps(int(trainer.num_training_batches), trainer)
        if done and done not in candidate_steps(num_steps, self.rules.per_epoch):
            return
        if step not in [candidate.step for candidate in self.candidates.taken(data.iteration)]:
            self._take(trainer, data.iteration, data.epoch + done / num_steps, previous=step - 1)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data, _ = parts(trainer, pl_module)
        if self.rules.per_epoch and data.epoch == data.batch == 0:
            self.candidates.tidy(data.iteration - 1)
            self.candidates.begin(data.iteration, trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        data, _ = parts(trainer, pl_module)
        made_a_step = data.batch % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        done, num_steps = _steps(data.batch, trainer), _steps(int(trainer.num_training_batches), trainer)
        steps = candidate_steps(num_steps, self.rules.per_epoch)
        if not made_a_step or done not in steps:
            return
        earlier = max((step for step in steps if step < done), default=0)
        try:
            epoch = data.epoch + done / num_steps
            self._take(trainer, data.iteration, epoch, trainer.global_step - done + earlier)
        except Stopped:
            if _is_end(trainer, data):  # a checkpoint from here on would hold weights that nobody chose
                raise
            # The checkpoint that is written now, or at the end of the pass, holds the weights to be measured.

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose and load the best candidate at an iteration's end: the epoch is counted already, so it is 0 then."""
        data, module = parts(trainer, pl_module)
        if not self.rules.per_epoch or data.epoch or not trainer.is_last_batch:
            return
        iteration = module.iteration
        chosen = self.candidates.choose(iteration, trainer.global_step) if rank() == 0 else None
        step = trainer.strategy.broadcast(0 if chosen is None else chosen.step)
        stored = self.candidates.load(iteration, step)
        trained = trained_tensors(module.policy)
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, MasterAdamW):
                optimizer.load_masters({trained[name]: tensor for name, tensor in stored.items()})
            elif hasattr(optimizer, "refresh_fp32_params"):  # DeepSpeed's masters, of what it took for the weights
                optimizer.refresh_fp32_params()
        if chosen is not None:
            num = len(self.candidates.taken(iteration))
            by = "as the last one" if self.rules.by == "last" else f"chosen by the {self.rules.by}"
            console.print(
                f"iteration {iteration + 1}  of {num} candidates that of epoch {chosen.epoch:.3g} goes on, {by}"
            )

    def _take(self, trainer: L.Trainer, iteration: int, epoch: float, previous: int) -> None:
        found = {k: v for one in trainer.optimizers if isinstance(one, MasterAdamW) for k, v in one.masters().items()}
        trained = trained_tensors(self.candidates.held_out.policy.model)
        masters = {name: found[parameter] for name, parameter in trained.items() if parameter in found}
        candidate = self.candidates.take(iteration, trainer.global_step, epoch, previous, masters)
        self._log(trainer, iteration, candidate)

    def _log(self, trainer: L.Trainer, iteration: int, candidate: Candidate) -> None:
        """Log with the step that made the candidate, which a run that is resumed after it does not log again."""
        metrics = {f"candidate/{name}": value for name, value in candidate.metrics.items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=candidate.step - 1)
        if rank() == 0:
            console.print(candidate_line(iteration, candidate.epoch, candidate.metrics))


def _steps(num_batches: int, trainer: L.Trainer) -> int:
    """Return optimizer steps of the first batches of a pass; the last ones make a step of their own, however few they are."""
    return -(-num_batches // trainer.accumulate_grad_batches)


def _is_end(trainer: L.Trainer, data: IterationDataModule) -> bool:
    return trainer.is_last_batch and data.epoch + 1 == data.epochs
