"""Iterations over Lightning's epochs: count them, begin them, and log their results."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from rlaifv.callbacks.metrics import MetricsLogger
from rlaifv.data.datamodule import IterationDataModule
from rlaifv.learners.policy import NonFiniteLoss, PolicyModule
from rlaifv.models.digests import weights_digest
from rlaifv.observers.held_out import evaluation_path
from rlaifv.report.console import iteration_summary
from rlaifv.runtime.console import console
from rlaifv.runtime.ranks import rank
from rlaifv.runtime.stopping import listen, stop, stop_requested
from rlaifv.store.atomic import write_json
from rlaifv.store.iteration import statistics_path
from rlaifv.store.manifest import Manifest, iteration_directory


class IterationCallback(Callback):
    """Advances the data module between epochs, begins each iteration in the learner's module, and logs its results.

    Lightning runs ordinary callbacks before `CheckpointCallback` at the end of an epoch, so the checkpoint written there holds
    the advanced counters, and a resumed run starts with what comes next.

    Args:
        run_dir: of the run.
        measure: measures the policy after a number of iterations.
        frozen: models beside the policy, which the trainer does not move to its device.
    """

    def __init__(self, run_dir: Path, measure: Callable[[int], None], frozen: Sequence[torch.nn.Module] = ()) -> None:
        self.run_dir = run_dir
        self.measure = measure
        self.frozen = frozen

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for model in self.frozen:
            model.to(pl_module.device)
        kill = getattr(trainer.strategy.launcher, "kill", None)
        if kill is not None:  # the launcher started the other processes of this machine
            listen(pass_on=kill)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data, module = parts(trainer, pl_module)
        if trainer.global_step == 0:  # whatever an earlier process logged before its first checkpoint
            _go_on_from(trainer, 0)
        if data.iteration == module.iteration:  # resumed within it
            self._check_policy(data.iteration, module.policy_digest)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        _go_on_from(trainer, checkpoint["global_step"])

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Drop the optimizer's moments between iterations, since the next one starts without any; keep masters."""
        data, module = parts(trainer, pl_module)
        if module.reset_optimizer and data.iteration != module.iteration:
            for states in checkpoint.get("optimizer_states", ()):
                of_masters = {k: {"master": s["master"]} for k, s in states["state"].items() if "master" in s}
                states["state"] = of_masters

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data, module = parts(trainer, pl_module)
        if data.iteration != module.iteration:
            module.policy_digest = weights_digest(module.policy, is_cached=True)
            self._check_policy(data.iteration, module.policy_digest)
            # The last batches of an epoch make a step of their own, however few they are.
            steps_per_epoch = -(-data.batches_per_epoch // trainer.accumulate_grad_batches)
            module.begin_iteration(data.iteration, data.epochs * steps_per_epoch)
            self._announce(trainer, data.iteration)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Give the batch its weight in its step. Stop after a signal if there is no checkpoint callback to do it."""
        asks = not trainer.checkpoint_callbacks
        if asks and trainer.strategy.reduce_boolean_decision(stop_requested(), all=False):
            raise stop()
        data, module = parts(trainer, pl_module)
        module.batch_weight = data.weight(module.units, trainer.accumulate_grad_batches)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        data, _ = parts(trainer, pl_module)
        pl_module.log("iteration", float(data.iteration + 1))
        data.batch += 1

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parts(trainer, pl_module)[0].advance()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data, _ = parts(trainer, pl_module)
        if data.iteration == data.num_iterations:
            self.measure(data.iteration)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data, _ = parts(trainer, pl_module)
        if data.iteration == data.num_iterations:  # also where a resumed run had only this left to do
            self._announce(trainer, data.iteration)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write where a non-finite loss occurred to nonfinite.json."""
        if isinstance(exception, NonFiniteLoss):
            data, _ = parts(trainer, pl_module)
            where = {"iteration": data.iteration, "epoch": data.epoch, "batch": data.batch, "step": trainer.global_step}
            path = self.run_dir / "nonfinite.json"
            write_json(path, {**where, "rank": rank(), **exception.found})
            exception.args = (f"{exception.args[0]} They are named in {path}; weights are those of the step before.",)

    def _check_policy(self, iteration: int, digest: str) -> None:
        """Raise ValueError if another policy made the iteration's data than the one that trains on them.

        Args:
            iteration: whose data they are.
            digest: of the policy as it was when the iteration began.
        """
        manifest = Manifest(iteration_directory(self.run_dir, iteration))
        if (made_by := manifest.producer.get("policy", digest)) != digest:
            raise ValueError(
                f"{manifest.path}: its pairs were made by a policy with digest {made_by}, but the one to train had {digest} "
                f"when the iteration began; delete {manifest.directory} to make them again."
            )

    def _announce(self, trainer: L.Trainer, num_iterations: int) -> None:
        """Print a summary of the iteration that ended; log its measurement and the next one's feedback."""
        evaluation = _read(evaluation_path(self.run_dir, num_iterations))
        statistics = _read(statistics_path(self.run_dir, num_iterations))
        if num_iterations > 0 and rank() == 0:
            before = _read(evaluation_path(self.run_dir, num_iterations - 1))
            ended = _read(statistics_path(self.run_dir, num_iterations - 1))
            console.print(iteration_summary(ended or {}, before, evaluation, num_iterations - 1))
        metrics = {**(evaluation or {}).get("metrics", {}), **(statistics or {})}
        for logger in trainer.loggers if metrics else ():
            logger.log_metrics(metrics, step=trainer.global_step)


def parts(trainer: L.Trainer, pl_module: L.LightningModule) -> tuple[IterationDataModule, PolicyModule]:
    """Return the trainer's data module and module with their types."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, IterationDataModule)
    assert isinstance(pl_module, PolicyModule)
    return data, pl_module


def _go_on_from(trainer: L.Trainer, step: int) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, MetricsLogger) and rank() == 0:
            logger.go_on_from(step)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
