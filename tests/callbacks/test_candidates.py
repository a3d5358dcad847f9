"""When candidates are taken and loaded, on the real trainer: a run that is stopped anywhere chooses as one that is not.

The policy, its data and the ways to stop it are those of test_checkpoint.py: two iterations of two passes of seven steps. A
candidate is measured by its weights, so that the best of an iteration is one in its middle.
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from rlaifv.callbacks.candidates import CandidateCallback
from rlaifv.callbacks.checkpoint import CheckpointCallback
from rlaifv.callbacks.metrics import MetricsLogger
from rlaifv.callbacks.rng import RandomStateCallback
from rlaifv.models.digests import weights_digest
from rlaifv.models.trained import trained_digest
from rlaifv.observers.candidates import Candidates
from rlaifv.observers.selection import SelectionRules
from rlaifv.runtime.stopping import Stopped, stop_if_requested, stoppable
from rlaifv.store.checkpoints import newest_checkpoint
from tests.callbacks import test_checkpoint as base
from tests.callbacks.test_checkpoint import BATCH_SIZE, Data, Policy, SignalAt, assert_equal, state
from tests.callbacks.trainers import quiet_trainer
from tests.learners.stand_ins import Collating

pytestmark = [*base.pytestmark, pytest.mark.filterwarnings("ignore:.*Experiment logs directory")]
# Of seven steps a pass, four candidates.
STEPS = [[2, 4, 6, 7, 9, 11, 13, 14], [16, 18, 20, 21, 23, 25, 27, 28]]


class Interrupted(Exception):
    """What a kill would be."""


def kill() -> None:
    raise Interrupted


def preempt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    stop_if_requested()


class Measuring:
    """Measures a candidate by its weights; may be stopped or killed at its n-th measurement."""

    def __init__(
        self, run_dir: Path, module: Policy, rules: SelectionRules, fail: dict[int, Callable[[], None]]
    ) -> None:
        self.run_dir = run_dir
        self.selection = rules
        self.policy: Any = SimpleNamespace(model=module.policy, answer_probabilities=self._answer)
        self.labeler: Any = self.policy
        self.fail = fail
        self.measured: list[str] = []
        self.seen_by: list[str] = []
        self.policies: list[str] = []

    def _digest(self) -> str:
        return trained_digest(self.policy.model)

    def _answer(self, asked: Any, advance: Any = None) -> str:
        return self._digest()

    def prompts(self, for_choice: bool) -> list[int]:
        return [1]

    def evaluate(self, prompts: Any, labeler: Any) -> Any:
        self.fail.pop(len(self.measured) + 1, lambda: None)()
        self.measured.append(self._digest())
        self.seen_by.append(labeler.answer_probabilities([]))
        rejected = int(self._digest()[:6], 16) / 16**6
        return SimpleNamespace(
            metrics={"rejected/mention": rejected, "rejected/response": 0.5, "claims_per_response": 1.0}
        )


class Noted(base.Trusting):
    """Notes which policy every iteration begins with."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop.run_dir)
        self.policies = loop.policies

    def _check_policy(self, iteration: int, digest: str) -> None:
        self.policies.append(f"{iteration} {digest}")


def run(
    run_dir: Path, *callbacks: Any, fail: dict[int, Callable[[], None]] | None = None, rules: Any = None, **options: Any
) -> tuple[list[Any], L.Trainer, Measuring]:
    """As `test_checkpoint.run`, with candidates."""
    journal: list[tuple[Any, ...]] = []
    module = Policy(journal)
    loop: Any = Measuring(run_dir, module, rules or SelectionRules(4), fail or {})
    trainer = quiet_trainer(
        logger=MetricsLogger(str(run_dir)),
        callbacks=[
            CheckpointCallback(str(run_dir / "checkpoints")),
            RandomStateCallback(),
            Noted(loop),
            CandidateCallback(Candidates(loop)),
            *callbacks,
        ],
        **options,
    )
    data = Data(base.prepare, Collating(lambda items: [int(pair.id) for _, pair in items]), BATCH_SIZE, 2, 2, seed=1)  # type: ignore[arg-type, return-value]
    torch.manual_seed(7)
    try:
        with stoppable():
            trainer.fit(module, data, ckpt_path=newest_checkpoint(run_dir / "checkpoints"))
    except (Stopped, Interrupted):
        journal.append("stopped")
    return journal, trainer, loop


def choice(run_dir: Path, iteration: int) -> Any:
    return json.loads((run_dir / "iterations" / f"{iteration:03d}" / "candidates.json").read_text())


def logged(run_dir: Path) -> list[str]:
    """Rows with a candidate's numbers: which steps, each once."""
    lines = (run_dir / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    return [
        f"{row['step']} {row['candidate/rejected/mention']}" for row in rows if row.get("candidate/rejected/mention")
    ]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], dict[str, Tensor], Measuring]:
    run_dir = tmp_path_factory.mktemp("oracle")
    journal, trainer, loop = run(run_dir)
    assert len(journal) == 28
    return run_dir, journal, state(trainer), loop


def test_the_best_candidate_is_what_goes_on(oracle: tuple[Path, list[Any], dict[str, Tensor], Measuring]) -> None:
    """The next iteration begins with it; the checkpoint of the iteration's end holds it, and what is left in the end."""
    run_dir, _, weights, loop = oracle
    for iteration, steps in enumerate(STEPS):
        found = choice(run_dir, iteration)
        assert [one["step"] for one in found["candidates"]] == steps
        assert [one["epoch"] for one in found["candidates"]] == pytest.approx([s / 7 - 2 * iteration for s in steps])
        best = min(found["candidates"], key=lambda one: one["metrics"]["rejected/mention"])
        assert found["chosen"] == best["step"] != steps[-1]
        after = choice(run_dir, 1)["start"]["digest"] if iteration == 0 else None
        module = Policy([])
        module.load_state_dict({name: tensor for name, tensor in weights.items() if name.startswith("policy.")})
        assert best["digest"] == (after or trained_digest(module.policy))
        checkpoint = torch.load(run_dir / "checkpoints" / "step=000028.ckpt", weights_only=True)
        assert checkpoint["state_dict"]["policy.0.weight"].equal(weights["policy.0.weight"])
    begun = Policy([])
    assert loop.policies[0] == f"0 {weights_digest(begun.policy)}"
    starts = [choice(run_dir, iteration)["start"]["digest"] for iteration in range(2)]
    assert loop.policies == [f"{iteration} {digest}" for iteration, digest in enumerate(starts)]


def test_one_labeler_judges_all_of_an_iteration(oracle: tuple[Path, list[Any], dict[str, Tensor], Measuring]) -> None:
    """The policy as its iteration began, although another one answers."""
    run_dir, *_, loop = oracle
    starts = [choice(run_dir, iteration)["start"]["digest"] for iteration in range(2)]
    assert loop.seen_by == [start for start in starts for _ in range(9)]
    assert len(set(loop.measured)) == 17  # the second iteration starts with a candidate of the first


def test_measurements_are_logged_with_the_steps_that_made_the_candidates(
    oracle: tuple[Path, list[Any], dict[str, Tensor], Measuring],
) -> None:
    run_dir = oracle[0]
    assert [int(row.split()[0]) for row in logged(run_dir)] == [step - 1 for steps in STEPS for step in steps]


def assert_as_the_oracle(
    run_dir: Path, trainer: L.Trainer, oracle: tuple[Path, list[Any], dict[str, Tensor], Measuring]
) -> None:
    found = state(trainer)
    # A run that was stopped after its last step has no moments: checkpoints leave them out between iterations.
    assert_equal(found, {name: oracle[2][name] for name in oracle[2] if name in found or "policy" in name})
    assert any("exp_avg" in name for name in found) or trainer.global_step == 28
    assert [choice(run_dir, k) for k in range(2)] == [choice(oracle[0], k) for k in range(2)]
    assert logged(run_dir) == logged(oracle[0])


@pytest.mark.parametrize("step", [0, 1, 5, 6, 8, 13, 15, 27])
def test_a_run_that_is_preempted_chooses_as_the_oracle(
    tmp_path: Path, oracle: tuple[Path, list[Any], dict[str, Tensor], Measuring], step: int
) -> None:
    """In steps that make a candidate (1, 5, 6, 8, 13, 15, 27) and in one that makes none: nothing is measured twice."""
    first, _, loop = run(tmp_path, SignalAt(step, signal.SIGTERM))
    second, trainer, later = run(tmp_path)
    assert [line for line in first + second if line != "stopped"] == oracle[1]
    assert loop.measured + later.measured == oracle[3].measured
    assert_as_the_oracle(tmp_path, trainer, oracle)


@pytest.mark.parametrize("measurement", [1, 2, 4, 5, 10, 11])
def test_preempted_while_a_candidate_is_measured(
    tmp_path: Path, oracle: tuple[Path, list[Any], dict[str, Tensor], Measuring], measurement: int
) -> None:
    """The start of an iteration (1, 10), a candidate within a pass (2, 4, 11), one at its end (5): no step is lost."""
    first, _, loop = run(tmp_path, fail={measurement: preempt})
    assert first[-1] == "stopped"
    second, trainer, later = run(tmp_path)
    assert [line for line in first + second if line != "stopped"] == oracle[1]
    assert loop.measured + later.measured == oracle[3].measured
    assert_as_the_oracle(tmp_path, trainer, oracle)


@pytest.mark.parametrize(
    ("measurement", "way", "steps"),
    [(3, kill, 4), (7, kill, 4), (9, kill, 7), (9, preempt, 7), (18, kill, 7), (18, preempt, 7)],
)
def test_killed_while_a_candidate_is_measured(
    tmp_path: Path,
    oracle: tuple[Path, list[Any], dict[str, Tensor], Measuring],
    measurement: int,
    way: Callable[[], None],
    steps: int,
) -> None:
    """The pass is made again (`steps` of it), but nothing is measured again. So it is by a signal after an iteration's last
    step (9, 18), since a checkpoint there would hold weights that nobody chose.
    """
    first, _, loop = run(tmp_path, fail={measurement: way})
    second, trainer, later = run(tmp_path)
    assert len(first) + len(second) == len(oracle[1]) + steps + 1  # and the word that it stopped
    assert loop.measured + later.measured == oracle[3].measured
    assert_as_the_oracle(tmp_path, trainer, oracle)


def test_killed_before_the_choice_is_in_a_checkpoint(
    tmp_path: Path, oracle: tuple[Path, list[Any], dict[str, Tensor], Measuring], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        save = CheckpointCallback.save
        fail = lambda self, trainer: kill() if trainer.global_step == 14 else save(self, trainer)  # noqa: E731
        patched.setattr(CheckpointCallback, "save", fail)
        _, _, loop = run(tmp_path)
    assert choice(tmp_path, 0) == choice(oracle[0], 0)
    _, trainer, later = run(tmp_path)
    assert loop.measured + later.measured == oracle[3].measured
    assert_as_the_oracle(tmp_path, trainer, oracle)


def test_a_damaged_checkpoint_of_the_choice_gives_way_to_the_one_before(
    tmp_path: Path, oracle: tuple[Path, list[Any], dict[str, Tensor], Measuring]
) -> None:
    """The first iteration's last pass is made again, and its choice, of what an earlier pass left, is the same."""
    run(tmp_path, fail={10: kill})
    path = tmp_path / "checkpoints" / "step=000014.ckpt"
    path.write_bytes(path.read_bytes()[:-9])
    _, trainer, later = run(tmp_path)
    assert later.measured == oracle[3].measured[9:]
    assert_as_the_oracle(tmp_path, trainer, oracle)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_candidates_are_taken_at_optimizer_steps(tmp_path: Path, accumulate: int) -> None:
    """Seven batches are four steps by twos and three by threes."""
    run(tmp_path, accumulate_grad_batches=accumulate)
    expected = {2: [1, 2, 3, 4, 5, 6, 7, 8], 3: [1, 2, 3, 4, 5, 6]}[accumulate]
    assert [one["step"] for one in choice(tmp_path, 0)["candidates"]] == expected
    assert [one["epoch"] for one in choice(tmp_path, 0)["candidates"]][-1] == 2.0


def test_the_last_one_goes_on_where_nobody_chooses(tmp_path: Path) -> None:
    """Then candidates change nothing of what is learned: the run is that without any."""
    journal, trainer, loop = run(tmp_path / "last", rules=SelectionRules(4, by="last"))
    assert [choice(tmp_path / "last", k)["chosen"] for k in range(2)] == [14, 28]
    plain, other, unmeasured = run(tmp_path / "none", rules=SelectionRules(0))
    assert plain == journal
    assert_equal(state(other), state(trainer))
    assert (len(loop.measured), unmeasured.measured) == (18, [])
    assert not list((tmp_path / "none").glob("iterations/*"))


def test_a_sharded_optimizer_takes_the_weights_over(tmp_path: Path) -> None:
    """DeepSpeed's would write its own back at the next step."""
    refreshed: list[int] = []

    class Sharded(Callback):
        def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            trainer.optimizers[0].refresh_fp32_params = lambda: refreshed.append(trainer.global_step)  # type: ignore[attr-defined]

    run(tmp_path, Sharded())
    assert refreshed == [14, 28]
