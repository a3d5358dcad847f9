"""Where the loop hooks into Lightning, pinned on the installed version: every assumption of the design is an assertion.

A module with one weight and a data module with made-up pairs run under the real trainer: two iterations of two epochs of
three batches.
"""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from rlaifv.callbacks import iteration as iteration_module
from rlaifv.callbacks.checkpoint import CheckpointCallback
from rlaifv.callbacks.iteration import IterationCallback
from rlaifv.callbacks.rng import RandomStateCallback
from rlaifv.data.datamodule import IterationDataModule
from rlaifv.learners.dpo.module import DPOModule
from rlaifv.observers.held_out import evaluation_path
from rlaifv.records import Pair, Prompt
from rlaifv.store.iteration import statistics_path
from tests.callbacks.trainers import quiet_trainer
from tests.learners.stand_ins import Collating

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


class OneWeight(DPOModule):
    """A policy that a step costs microseconds."""

    def __init__(self, events: list[str]) -> None:
        super().__init__(torch.nn.Linear(1, 1, bias=False), partial(torch.optim.SGD, lr=0.1))
        self.events = events

    def begin_iteration(self, iteration: int, num_steps: int) -> None:
        self.events.append(f"begin iteration {iteration} with {num_steps} steps")
        super().begin_iteration(iteration, num_steps)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.events.append(f"step {self.global_step}")
        return self.policy(batch).mean()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        self.events.append("save")


class Data(IterationDataModule):
    """Says when it is asked, and what the trainer's and its own counters are then."""

    def __init__(self, events: list[str]) -> None:
        def finish(num_iterations: int) -> None:
            events.append(f"finish {num_iterations}")

        super().__init__(self._prepare, Collating(lambda items: torch.ones(1, 1)), 2, 2, 2, seed=0, finish=finish)  # type: ignore[arg-type, return-value]
        self.events = events

    def _prepare(self, iteration: int) -> Any:
        self.events.append(f"prepare {iteration}")
        pair = Pair("", "p", "+", "-", "a", "b", (1,), (2,), 0.0, -1.0, (-1.0,), (-1.0,))
        records = {"prompts": [Prompt("p", "?", ())], "pairs": [pair] * 6}
        return SimpleNamespace(records=records.get)

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        self.events.append(f"loader {self.iteration}.{self.epoch} at trainer epoch {self.trainer.current_epoch}")
        return super().train_dataloader()


class Recorder(Callback):
    """An ordinary callback, registered after the checkpoint."""

    def __init__(self, events: list[str], stop_after_steps: int | None = None) -> None:
        self.events = events
        self.stop_after_steps = stop_after_steps

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.events.append(f"epoch starts, counters {counters(trainer)}")

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *others: Any) -> None:
        if trainer.global_step == self.stop_after_steps:
            raise KeyError("stopped")

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.events.append(f"epoch ends, counters {counters(trainer)}")


class Noted(IterationCallback):
    """Notes what it measures and checks."""

    def __init__(self, run_dir: Path, events: list[str]) -> None:
        super().__init__(run_dir, lambda num_iterations: events.append(f"measure {num_iterations}"))
        self.events = events

    def _check_policy(self, iteration: int, digest: str) -> None:
        self.events.append(f"policy of iteration {iteration} checked")


class MemoryLogger(Logger):
    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((step, dict(metrics)))

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        pass


def counters(trainer: L.Trainer) -> str:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return f"{data.iteration}.{data.epoch}"


def fit(
    run_dir: Path, ckpt_path: Path | None = None, stop_after_steps: int | None = None, **options: Any
) -> tuple[list[str], L.Trainer]:
    events: list[str] = []
    checkpoint = CheckpointCallback(str(run_dir / "checkpoints"), num_kept=9)
    trainer = quiet_trainer(
        # The checkpoint stands first in the list, and is still to come last.
        callbacks=[checkpoint, RandomStateCallback(), Noted(run_dir, events), Recorder(events, stop_after_steps)],
        **{"logger": False, **options},
    )
    trainer.fit(OneWeight(events), Data(events), ckpt_path=ckpt_path)
    return events, trainer


FIRST_ITERATION = [
    "loader 0.0 at trainer epoch 0",
    "prepare 0",
    "policy of iteration 0 checked",
    "begin iteration 0 with 6 steps",
    "epoch starts, counters 0.0",
    *("step 0", "step 1", "step 2"),
    "epoch ends, counters 0.1",
    "save",
    "loader 0.1 at trainer epoch 1",
    "epoch starts, counters 0.1",
    *("step 3", "step 4", "step 5"),
    "epoch ends, counters 1.0",
    "save",
]
SECOND_ITERATION = [
    "policy of iteration 1 checked",
    "begin iteration 1 with 6 steps",
    "epoch starts, counters 1.0",
    *("step 6", "step 7", "step 8"),
    "epoch ends, counters 1.1",
    "save",
    "loader 1.1 at trainer epoch 3",
    "epoch starts, counters 1.1",
    *("step 9", "step 10", "step 11"),
    "epoch ends, counters 2.0",
    "save",
    "measure 2",
]


def test_the_order_of_hooks(tmp_path: Path) -> None:
    """Loader first, then the epoch's start; ordinary callbacks' end first, then the checkpoint: it carries what is next.

    The loader is asked for anew before every epoch, after which the trainer's own epoch number is right, and never
    between the last epoch and the end.
    """
    events, _ = fit(tmp_path)
    assert events == [*FIRST_ITERATION, "loader 1.0 at trainer epoch 2", "prepare 1", *SECOND_ITERATION]


def test_checkpoints_carry_the_advanced_counters(tmp_path: Path) -> None:
    fit(tmp_path)
    states = []
    for path in sorted((tmp_path / "checkpoints").glob("*.ckpt")):
        checkpoint = torch.load(path, weights_only=True)
        states.append((path.name, checkpoint["Data"], checkpoint["iteration"]["iteration"], checkpoint["global_step"]))
    assert states == [
        ("step=000003.ckpt", {"iteration": 0, "epoch": 1, "batch": 0, "num_ranks": 1}, 0, 3),
        ("step=000006.ckpt", {"iteration": 1, "epoch": 0, "batch": 0, "num_ranks": 1}, 0, 6),
        ("step=000009.ckpt", {"iteration": 1, "epoch": 1, "batch": 0, "num_ranks": 1}, 1, 9),
        ("step=000012.ckpt", {"iteration": 2, "epoch": 0, "batch": 0, "num_ranks": 1}, 1, 12),
    ]


def test_resuming_between_iterations(tmp_path: Path) -> None:
    """The first loader is wanted while the trainer's epoch is one too small, and a second one when it is right.

    The counters of the data module are right both times, and the second time everything is there already.
    """
    fit(tmp_path)
    events, _ = fit(tmp_path, tmp_path / "checkpoints/step=000006.ckpt")
    assert events == [
        "loader 1.0 at trainer epoch 1",
        "prepare 1",
        "loader 1.0 at trainer epoch 2",
        *SECOND_ITERATION,
    ]


def test_resuming_within_an_iteration(tmp_path: Path) -> None:
    """The iteration goes on: it is not begun again, so its learning rate and optimizer states stay."""
    fit(tmp_path)
    events, _ = fit(tmp_path, tmp_path / "checkpoints/step=000009.ckpt")
    assert events == [
        "loader 1.1 at trainer epoch 2",
        "prepare 1",
        "policy of iteration 1 checked",
        *SECOND_ITERATION[SECOND_ITERATION.index("loader 1.1 at trainer epoch 3") :],
    ]


def test_resuming_after_the_last_epoch(tmp_path: Path) -> None:
    """The trainer wants a loader and then stops without a hook; the last measurement is asked for all the same."""
    fit(tmp_path)
    events, trainer = fit(tmp_path, tmp_path / "checkpoints/step=000012.ckpt")
    assert events == ["loader 2.0 at trainer epoch 3", "finish 2", "prepare 1"]
    assert trainer.global_step == 12


def test_a_run_that_stops_in_the_middle_measures_nothing_and_counts_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fit(tmp_path, stop_after_steps=8)
    checkpoints = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.ckpt"))
    assert checkpoints == ["step=000003.ckpt", "step=000006.ckpt"]
    events, _ = fit(tmp_path, tmp_path / "checkpoints/step=000006.ckpt")
    assert [event for event in events if event.startswith("step")] == [f"step {k}" for k in range(6, 12)]
    assert events[-1] == "measure 2"


def test_steps_that_end_a_run_early_leave_it_unmeasured(tmp_path: Path) -> None:
    events, _ = fit(tmp_path, max_steps=4)
    assert not [event for event in events if event.startswith("measure")]


@pytest.mark.parametrize(("accumulate", "num_steps"), [(2, 4), (3, 2), (4, 2)])
def test_accumulation_makes_fewer_steps(tmp_path: Path, accumulate: int, num_steps: int) -> None:
    """Three batches an epoch, two epochs: in twos 2 * 2 steps, in threes or fours 2 * 1."""
    events, trainer = fit(tmp_path, accumulate_grad_batches=accumulate)
    assert f"begin iteration 0 with {num_steps} steps" in events
    assert trainer.global_step == 2 * num_steps


@pytest.mark.parametrize("has_other", [False, True])
def test_the_labeler_and_another_model_are_put_where_the_policy_is(has_other: bool) -> None:
    moved: list[torch.device] = []
    frozen: Any = [SimpleNamespace(to=moved.append)] * (1 + has_other)
    module = SimpleNamespace(device=torch.device("meta"))
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=None))
    IterationCallback(Path(), lambda _: None, frozen).on_fit_start(trainer, module)  # type: ignore[arg-type]
    assert moved == [torch.device("meta")] * (1 + has_other)


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_feedback_and_measurements_are_logged_and_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start of an iteration what was measured before it and what its feedback found, at step 0, 6 and 12.

    Each iteration that ended is summed up once, the last one too.
    """
    for k in range(3):
        write(evaluation_path(tmp_path, k), {"num_iterations": k, "metrics": {"coverage": k / 10}, "examples": []})
    for k in range(2):
        write(statistics_path(tmp_path, k), {"pairs_kept": 100 + k})
    summaries: list[tuple[Any, ...]] = []
    monkeypatch.setattr(iteration_module, "iteration_summary", lambda *arguments: summaries.append(arguments))
    logger = MemoryLogger()
    fit(tmp_path, logger=logger)
    feedback = [(step, metrics) for step, metrics in logger.logged if "coverage" in metrics]
    assert feedback == [
        (0, {"coverage": 0.0, "pairs_kept": 100}),
        (6, {"coverage": 0.1, "pairs_kept": 101}),
        (12, {"coverage": 0.2}),
    ]
    ended = [
        (statistics["pairs_kept"], before["metrics"]["coverage"], after["metrics"]["coverage"], iteration)
        for statistics, before, after, iteration in summaries
    ]
    assert ended == [(100, 0.0, 0.1, 0), (101, 0.1, 0.2, 1)]
    steps = [metrics for _, metrics in logger.logged if "iteration" in metrics]
    assert [metrics["iteration"] for metrics in steps] == [1.0] * 6 + [2.0] * 6


def test_a_run_without_measurements_says_nothing_wrong(tmp_path: Path) -> None:
    logger = MemoryLogger()
    events, _ = fit(tmp_path, logger=logger)
    assert events[-1] == "measure 2"
    assert all({*metrics} <= {"iteration", "epoch"} for _, metrics in logger.logged)
