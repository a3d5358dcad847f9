"""The training bar: one per epoch, with what is known, and gone when the epoch is over."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.progress import Progress

from rlaifv.callbacks import progress as progress_module
from rlaifv.callbacks.progress import TrainingProgress
from rlaifv.data.datamodule import IterationDataModule
from rlaifv.learners.dpo.module import DPOModule
from tests.learners.stand_ins import Collating


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Progress]:
    made: list[Progress] = []

    def make() -> Progress:
        made.append(Progress(disable=True))
        return made[-1]

    monkeypatch.setattr(progress_module, "progress_bar", make)
    return made


@pytest.fixture
def run() -> tuple[Any, DPOModule]:
    """A trainer in the second epoch of the third iteration, and its module."""
    data = IterationDataModule(None, Collating(), 1, num_iterations=4, epochs=2, seed=0)  # type: ignore[arg-type]
    data.iteration, data.epoch = 2, 1
    trainer = SimpleNamespace(datamodule=data, num_training_batches=3, callback_metrics={})
    return trainer, DPOModule(torch.nn.Linear(1, 1), torch.optim.SGD)


def test_a_bar_says_which_epoch_of_which_iteration(bars: list[Progress], run: tuple[Any, DPOModule]) -> None:
    """Counted from 1, as people do."""
    TrainingProgress().on_train_batch_start(*run, None, 0)
    (task,) = bars[0].tasks
    assert task.description == "iteration 3  train 2/2"
    assert (task.completed, task.total, task.fields["note"]) == (0, 3, "")


def test_a_bar_goes_on_where_its_epoch_did(bars: list[Progress], run: tuple[Any, DPOModule]) -> None:
    run[0].datamodule.batch = 2
    progress = TrainingProgress()
    for batch in (2, 3):
        progress.on_train_batch_start(*run, None, batch)
    assert [bar.tasks[0].completed for bar in bars] == [2]


def test_a_bar_advances_with_the_metrics(bars: list[Progress], run: tuple[Any, DPOModule]) -> None:
    progress = TrainingProgress()
    progress.on_train_batch_start(*run, None, 0)
    progress.on_train_batch_end(*run, None, None, 0)
    (task,) = bars[0].tasks
    assert (task.completed, task.fields["note"]) == (1, "")
    run[0].callback_metrics.update({"loss": torch.tensor(0.69315), "rewards/accuracies": torch.tensor(0.5), "x": 1})
    progress.on_train_batch_end(*run, None, None, 1)
    assert (task.completed, task.fields["note"]) == (2, "loss 0.693  accuracy 0.500")


@pytest.mark.parametrize("ends_by_error", [False, True])
def test_a_bar_ends_with_its_epoch(
    bars: list[Progress], run: tuple[Any, DPOModule], monkeypatch: pytest.MonkeyPatch, ends_by_error: bool
) -> None:
    """Also by an exception, whose message must not be painted over; an exception before any epoch has no bar to stop."""
    stopped: list[Progress] = []
    monkeypatch.setattr(Progress, "stop", lambda self: stopped.append(self))
    progress = TrainingProgress()
    progress.on_exception(*run, KeyError())
    progress.on_train_batch_start(*run, None, 0)
    assert stopped == []
    if ends_by_error:
        progress.on_exception(*run, KeyError())
    else:
        progress.on_train_epoch_end(*run)
    assert stopped == bars[:1]
    progress.on_train_batch_end(*run, None, None, 2)  # after the end nothing moves
    assert bars[0].tasks[0].completed == 0
    progress.on_train_batch_start(*run, None, 0)
    assert len(bars) == 2


def test_it_takes_the_place_of_lightnings_bar() -> None:
    """Lightning switches bars off on other ranks through these, and adds its own bar unless it finds one."""
    from lightning.pytorch.callbacks import ProgressBar

    progress = TrainingProgress()
    assert isinstance(progress, ProgressBar)
    progress.disable()
    progress.enable()
