"""A run that is stopped anywhere and resumed ends as if it had not been, bitwise, on the real trainer.

A policy of a few weights with dropout reads made-up pairs: two iterations of two epochs of seven batches.
"""

import os
import signal
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

from rlaifv.callbacks.checkpoint import CheckpointCallback, CheckpointFiles
from rlaifv.callbacks.iteration import IterationCallback
from rlaifv.callbacks.rng import RandomStateCallback
from rlaifv.data.datamodule import IterationDataModule
from rlaifv.data.training_set import PromptBatchSampler
from rlaifv.learners.dpo.module import DPOModule
from rlaifv.models.digests import weights_digest
from rlaifv.records import Pair, Prompt
from rlaifv.runtime.stopping import Stopped, stoppable
from rlaifv.store.checkpoints import newest_checkpoint
from rlaifv.store.manifest import Manifest
from tests.callbacks.trainers import quiet_trainer
from tests.learners.stand_ins import Collating

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*ended before the epoch ended and your dataloader is"),
]
NUM_PAIRS, BATCH_SIZE, STEPS = 27, 4, 28


class Policy(DPOModule):
    """Its loss depends on the pairs of the batch and on what dropout leaves."""

    def __init__(self, journal: list[tuple[Any, ...]]) -> None:
        torch.manual_seed(3)
        layers = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        super().__init__(layers, partial(torch.optim.AdamW, lr=0.01), warmup_ratio=0.2)
        self.journal = journal

    def training_step(self, batch: list[int], batch_idx: int) -> Tensor:
        numbers = torch.tensor(batch, dtype=torch.float32)[:, None] / NUM_PAIRS
        loss = self.policy(numbers).square().mean()
        self.log("loss", loss)
        self.journal.append((self.trainer.datamodule.iteration, self.global_step, *batch, loss.item()))  # type: ignore[attr-defined]
        return loss


class Data(IterationDataModule):
    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch


def prepare(iteration: int) -> Any:
    pairs = [Pair(str(k), "p", "+", "-", "a", "b", (1,), (2,), 0.0, -1.0, (-1.0,), (-1.0,)) for k in range(NUM_PAIRS)]
    return SimpleNamespace(records={"prompts": [Prompt("p", "?", ())], "pairs": pairs}.get)


class Trusting(IterationCallback):
    """Every iteration was made by whom it has to be made."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir, lambda num_iterations: None)

    def _check_policy(self, iteration: int, digest: str) -> None: ...


class SignalAt(Callback):
    """A preemption while a step is in work."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step = step
        self.number = number

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def run(
    run_dir: Path, *callbacks: Callback, with_random_state: bool = True, **options: Any
) -> tuple[list[Any], L.Trainer]:
    """Start, or resume where a checkpoint is; gives the journal of the steps that were made."""
    journal: list[tuple[Any, ...]] = []
    checkpoint = CheckpointCallback(str(run_dir / "checkpoints"))
    trainer = quiet_trainer(
        callbacks=[checkpoint, RandomStateCallback(), Trusting(run_dir), *callbacks],
        **{"logger": False, **options},
    )
    data = Data(prepare, Collating(lambda items: [int(pair.id) for _, pair in items]), BATCH_SIZE, 2, 2, seed=1)  # type: ignore[arg-type, return-value]
    module = Policy(journal)
    torch.manual_seed(7)
    with stoppable():
        trainer.fit(module, data, ckpt_path=newest_checkpoint(run_dir / "checkpoints"))
    return journal, trainer


def stop_at(run_dir: Path, step: int, number: signal.Signals = signal.SIGTERM, **options: Any) -> list[Any]:
    journal: list[Any] = []

    class Keep(Callback):
        def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
            journal.append(module.journal)

    with pytest.raises(Stopped) as stopped:
        run(run_dir, SignalAt(step, number), Keep(), **options)
    assert stopped.value.code == {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}[number]
    return journal[0]


def state(trainer: L.Trainer) -> dict[str, Tensor]:
    moments = {
        f"{k}.{name}": value
        for k, moment in trainer.optimizers[0].state_dict()["state"].items()
        for name, value in moment.items()
    }
    return trainer.lightning_module.state_dict() | moments


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], dict[str, Tensor]]:
    """What an uninterrupted run does and ends with."""
    journal, trainer = run(tmp_path_factory.mktemp("oracle"))
    assert len(journal) == STEPS
    return journal, state(trainer)


@pytest.mark.parametrize(
    ("step", "number"),
    [(9, signal.SIGINT), (9, signal.SIGUSR1), *((step, signal.SIGTERM) for step in (0, 5, 6, 9, 13, 16, 26))],
)
def test_a_run_that_is_preempted_ends_as_the_oracle(
    tmp_path: Path, oracle: tuple[list[Any], dict[str, Tensor]], step: int, number: signal.Signals
) -> None:
    """In an epoch's first, middle or last step (6, 13), and in both iterations: same pairs, losses and weights."""
    first = stop_at(tmp_path, step, number)
    assert len(first) == step + 1  # the step in work was finished, none was begun
    second, trainer = run(tmp_path)
    assert first + second == oracle[0]
    assert_equal(state(trainer), oracle[1])
    third, _ = run(tmp_path)  # a run that is done makes no step
    assert third == []


def test_stopped_again_and_again(tmp_path: Path, oracle: tuple[list[Any], dict[str, Tensor]]) -> None:
    journal = []
    for step in (2, 3, 10, 20):
        journal += stop_at(tmp_path, step)
    rest, trainer = run(tmp_path)
    assert journal + rest == oracle[0]
    assert_equal(state(trainer), oracle[1])


@pytest.mark.parametrize("step", [0, 1, 2])
def test_with_accumulation_a_run_stops_between_optimizer_steps(tmp_path: Path, step: int) -> None:
    """Three batches a step, seven an epoch: the last step of an epoch has one."""
    whole, trainer = run(tmp_path / "whole", accumulate_grad_batches=3)
    expected = state(trainer)
    first = stop_at(tmp_path / "run", step, accumulate_grad_batches=3)
    assert len(first) == [3, 6, 7][step]
    second, trainer = run(tmp_path / "run", accumulate_grad_batches=3)
    assert first + second == whole
    assert_equal(state(trainer), expected)


@pytest.mark.parametrize("removed", ["random state", "batches done"])
def test_without_the_defence_the_run_would_differ(
    tmp_path: Path, oracle: tuple[list[Any], dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch, removed: str
) -> None:
    first = stop_at(tmp_path, 9)
    if removed == "random state":
        monkeypatch.setattr(RandomStateCallback, "on_load_checkpoint", lambda *arguments: None)
    else:
        monkeypatch.setattr(PromptBatchSampler, "__iter__", lambda self: iter(self.batches))
    second, _ = run(tmp_path)
    assert first + second != oracle[0]


class Recorder(Callback):
    """Ordinary hooks of the trainer, and what each of them finds."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def note(self, what: str, trainer: L.Trainer) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.seen.append(f"{what} {data.iteration}.{data.epoch}.{data.batch} step {trainer.global_step}")

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.note("train starts", trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, module: Any) -> None:
        self.note("epoch starts", trainer)

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.note(f"batch {batch_idx} starts", trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        self.note("epoch ends", trainer)


def test_the_order_of_hooks_after_a_stop_within_an_epoch(tmp_path: Path) -> None:
    """The epoch does not start again, its batches keep their numbers, and the next epoch starts as any other."""
    stop_at(tmp_path, 11)
    recorder = Recorder()
    run(tmp_path, recorder)
    assert recorder.seen[:6] == [
        "train starts 0.1.5 step 12",
        "batch 5 starts 0.1.5 step 12",
        "batch 6 starts 0.1.6 step 13",
        "epoch ends 1.0.0 step 14",
        "epoch starts 1.0.0 step 14",
        "batch 0 starts 1.0.0 step 14",
    ]


def test_the_trainers_own_handlers_are_not_left_in_place(tmp_path: Path) -> None:
    """Lightning's would end the run at the next batch, with its gradients half gathered, and wait for other ranks."""
    handlers = []

    class Look(Callback):
        def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path, Look())
    assert handlers[0].__module__ == "rlaifv.runtime.stopping"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_checkpoint_holds_plain_values_only(tmp_path: Path) -> None:
    run(tmp_path)
    paths = sorted((tmp_path / "checkpoints").glob("*.ckpt"))
    assert [path.name for path in paths] == ["step=000021.ckpt", "step=000028.ckpt"]
    for path in paths:
        checkpoint = torch.load(path, weights_only=True)
        assert len(checkpoint["random_state"]) == 1
        assert len(checkpoint["iteration"]["policy_digest"]) == 64


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("optimizer_states", "optimizer state"),
        ("lr_schedulers", "learning rate schedule"),
        ("random_state", "random state"),
        ("loops", "counters of the trainer"),
        ("iteration", "iteration"),
    ],
)
def test_a_checkpoint_that_lacks_a_part_is_refused(tmp_path: Path, key: str, name: str) -> None:
    """Rather than go on with a fresh optimizer, or other random numbers, in silence."""
    stop_at(tmp_path, 9)
    path = newest_checkpoint(tmp_path / "checkpoints")
    assert path is not None
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint[key]
    CheckpointFiles().save_checkpoint(checkpoint, path)
    with pytest.raises(ValueError, match=f"step=000010.ckpt holds no {name}; a run cannot go on from it as it was"):
        run(tmp_path)


@pytest.mark.parametrize("is_pickle", [True, False])
def test_a_file_that_is_no_checkpoint_is_refused_and_runs_nothing(tmp_path: Path, is_pickle: bool) -> None:
    trace = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(trace),)

    path = tmp_path / "step=000001.ckpt"
    if is_pickle:
        torch.save({"state_dict": Evil()}, path)
    else:
        path.write_text("nothing")
    with pytest.raises(ValueError, match="cannot be loaded as a checkpoint of tensors and plain values"):
        CheckpointFiles().load_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("moment", ["begins", "goes on"])
def test_pairs_of_another_policy_are_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Where an iteration begins the policy itself is asked, and where it goes on the digest that it began with."""
    monkeypatch.setattr(Trusting, "_check_policy", IterationCallback._check_policy)
    maker = weights_digest(Policy([]).policy)
    Manifest.open(tmp_path, 0, {"policy": maker})
    if moment == "goes on":
        stop_at(tmp_path, 9)
    path = tmp_path / "iterations" / "000" / "manifest.json"
    path.write_text(path.read_text().replace(maker, "another"))
    with pytest.raises(ValueError, match=f"made by a policy with digest another, but the one to train had {maker}"):
        run(tmp_path)


class Status(Logger):
    """Knows how the run ended."""

    name = version = "status"

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None: ...

    def finalize(self, status: str) -> None:
        self.ended.append(status)


@pytest.mark.parametrize(
    "hook",
    [
        "setup",
        "on_fit_start",
        "on_train_start",
        "on_train_epoch_start",
        "on_train_batch_start",
        "on_before_optimizer_step",
        "on_train_batch_end",
        "on_train_epoch_end",
        "on_save_checkpoint",
        "on_train_end",
        "on_fit_end",
    ],
)
def test_a_callback_that_fails_ends_the_run_and_is_not_swallowed(tmp_path: Path, hook: str) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise KeyError(hook)

    callback, logger = Callback(), Status()
    setattr(callback, hook, fail)
    with pytest.raises(KeyError, match=hook):
        run(tmp_path, callback, logger=logger)
    assert logger.ended == ["failed"]
    _, trainer = run(tmp_path)  # and nothing that it left stands in the way of the next
    assert trainer.global_step in (0, STEPS)


def test_no_room_for_a_checkpoint_ends_the_run_with_the_last_one_whole(
    tmp_path: Path, oracle: tuple[list[Any], dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stop_at(tmp_path, 5)
    with monkeypatch.context() as patched:
        patched.setattr(
            "rlaifv.callbacks.checkpoint.require_space", lambda *arguments: (_ for _ in ()).throw(OSError("no room"))
        )
        with pytest.raises(OSError, match="no room"):
            run(tmp_path)
    second, trainer = run(tmp_path)
    assert first + second == oracle[0]
    assert_equal(state(trainer), oracle[1])
