"""Benchmarks during training: when they run, what they leave, and what the loggers are told."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from rlaifv.callbacks import benchmarks as module
from rlaifv.callbacks.benchmarks import BenchmarkCallback, benchmarks_path
from rlaifv.callbacks.metrics import MetricsLogger
from rlaifv.data.datamodule import IterationDataModule
from rlaifv.engines.local import LocalEngine
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from rlaifv.runtime.stopping import Stopped, stoppable
from tests.benchmarks.fakes import register, write_exam
from tests.benchmarks.test_answering import Knowing
from tests.learners.stand_ins import Collating

CONFIG = Path(__file__).parents[2] / "configs/evaluation/quick.yaml"


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def root(prompts: list[Prompt], tmp_path: Path) -> Path:
    """Four images with two questions each."""
    write_exam(tmp_path / "data", prompts[:4])
    return tmp_path / "data"


def make(root: Path, **changed: Any) -> BenchmarkCallback:
    settings = {
        "names": ["exam"],
        "num_items": 3,
        "max_new_tokens": 6,
        "suffix": "",
        "pictures": str(root / "pictures"),
        "parsers": {},
    }
    return BenchmarkCallback(**{"data_root": str(root), **settings, **changed})


class Policy(Knowing):
    """With weights, which say whose answers they are."""

    def __init__(self, model: Any, most: int = 99) -> None:
        super().__init__(most)
        self.model = model


def test_what_is_measured_lies_in_the_run(root: Path, model: Any, prompter: Prompter, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    make(root).measure(2, LocalEngine(model, prompter), run_dir)
    stored = json.loads((run_dir / "evaluations" / "002-benchmarks.json").read_text())
    assert stored["num_iterations"] == 2
    assert stored["benchmarks"]["exam"]["counts"] == {"questions": 8, "answers": 4}
    assert stored["benchmarks"]["exam"]["protocol"]["decoding"]["max_new_tokens"] == 6
    (place,) = (run_dir / "evaluations" / "benchmarks" / "002").iterdir()
    assert place.name.startswith("exam-")
    assert len((place / "answers.jsonl").read_text().splitlines()) == 4


def test_an_iteration_is_measured_once(root: Path, model: Any, tmp_path: Path) -> None:
    policy = Policy(model)
    for _ in range(2):
        make(root).measure(0, policy, tmp_path)  # type: ignore[arg-type]
    assert len(policy.asked) == 1
    make(root).measure(1, policy, tmp_path)  # type: ignore[arg-type]
    assert policy.asked[1] == policy.asked[0]  # the same questions every time


def test_what_was_answered_before_a_crash_is_not_asked_again(
    root: Path, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.Asking
    monkeypatch.setattr(module, "Asking", lambda *settings: real(*settings, shard_items=2))
    with pytest.raises(KeyError):
        make(root).measure(0, Policy(model, most=1), tmp_path)  # type: ignore[arg-type]
    assert not benchmarks_path(tmp_path, 0).exists()
    policy = Policy(model)
    make(root).measure(0, policy, tmp_path)  # type: ignore[arg-type]
    assert len(policy.asked) == 1  # of two shards


def test_other_weights_or_settings_ask_anew(root: Path, model: Any, tmp_path: Path) -> None:
    policy = Policy(model)
    make(root).measure(0, policy, tmp_path)  # type: ignore[arg-type]
    benchmarks_path(tmp_path, 0).unlink()
    make(root, suffix=" Now.").measure(0, policy, tmp_path)  # type: ignore[arg-type]
    benchmarks_path(tmp_path, 0).unlink()
    next(model.parameters()).data += 1
    make(root, suffix=" Now.").measure(0, policy, tmp_path)  # type: ignore[arg-type]
    assert len(policy.asked) == 3


def test_other_ranks_wait_for_the_first(
    root: Path, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, waited = Policy(model), []
    monkeypatch.setattr(module, "rank", lambda: 1)
    monkeypatch.setattr(module, "wait_until", lambda is_done: waited.append(is_done()))
    make(root).measure(0, policy, tmp_path)  # type: ignore[arg-type]
    assert (policy.asked, waited) == ([], [False])


def test_a_signal_stops_it(root: Path, model: Any, tmp_path: Path) -> None:
    class Slow(Policy):
        def decode(self, token_ids: Any) -> str:
            os.kill(os.getpid(), signal.SIGTERM)
            return "No"

    callback = make(root, num_items=None)
    callback.how = module.Asking(shard_items=2)
    with stoppable(), pytest.raises(Stopped):
        callback.measure(0, Slow(model), tmp_path)  # type: ignore[arg-type]
    assert not benchmarks_path(tmp_path, 0).exists()


def hooks(
    run_dir: Path, data: IterationDataModule, callback: BenchmarkCallback, hook: str, step: int
) -> dict[str, str]:
    """What a logger has after a hook, in its last row."""
    logger = MetricsLogger(str(run_dir / "log"))
    trainer: Any = SimpleNamespace(datamodule=data, loggers=[logger], global_step=step, default_root_dir=str(run_dir))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "parts", lambda trainer, _: (trainer.datamodule, None))
        getattr(callback, hook)(trainer, None)
    logger.save()
    path = run_dir / "log" / "metrics.csv"
    if not path.exists():
        return {}
    head, *_, last = path.read_text().splitlines()
    return dict(zip(head.split(","), last.split(","), strict=True))


def test_numbers_are_logged_by_benchmark_and_metric(root: Path, model: Any, tmp_path: Path) -> None:
    """Yes to the first question about each image and no to the second is right for two of four images."""
    callback = make(root, num_items=None)
    callback.measure(0, Policy(model), tmp_path)  # type: ignore[arg-type]
    data = IterationDataModule(lambda iteration: None, Collating(), 1, 1, 2, 0)  # type: ignore[arg-type, return-value]
    logged = hooks(tmp_path, data, callback, "on_train_epoch_start", 7)
    assert {name: float(value) for name, value in logged.items()} == {
        "benchmark/exam/accuracy": 50.0,
        "benchmark/exam/split/yes_ratio": 50.0,
        "step": 7,
    }


@pytest.mark.parametrize(
    ("iteration", "epoch", "hook", "says"),
    [
        (0, 0, "on_train_epoch_start", True),
        (0, 1, "on_train_epoch_start", False),
        (0, 0, "on_fit_end", False),
        (1, 0, "on_fit_end", True),
    ],
)
def test_when_numbers_are_logged(
    root: Path, model: Any, tmp_path: Path, iteration: int, epoch: int, hook: str, says: bool
) -> None:
    """At the start of an iteration, and at the end of a run of one."""
    callback = make(root)
    callback.measure(iteration, Policy(model), tmp_path)  # type: ignore[arg-type]
    data = IterationDataModule(lambda iteration: None, Collating(), 1, 1, 2, 0)  # type: ignore[arg-type, return-value]
    data.iteration, data.epoch = iteration, epoch
    assert bool(hooks(tmp_path, data, callback, hook, 3)) == says


def test_nothing_was_measured(root: Path, tmp_path: Path) -> None:
    data = IterationDataModule(lambda iteration: None, Collating(), 1, 1, 2, 0)  # type: ignore[arg-type, return-value]
    assert hooks(tmp_path, data, make(root), "on_train_epoch_start", 0) == {}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"names": []}, r"evaluation\.benchmarks\.names=\[\] must name at least one benchmark, and none twice\."),
        ({"names": ["exam", "exam"]}, "must name at least one benchmark, and none twice"),
        ({"names": ["exams"]}, "benchmark=exams is not one of"),
        ({"names": ["judged"]}, "names has judged, which needs reviews; use tools/evaluate.py"),
        ({"num_items": 0}, r"evaluation\.benchmarks\.num_items=0 must be at least 1\."),
        ({"max_new_tokens": 0}, r"evaluation\.benchmarks\.max_new_tokens=0 must be at least 1\."),
        ({"data_root": "nowhere"}, "data_root=nowhere holds no directory exam"),
    ],
)
def test_what_cannot_run_is_refused_when_it_is_made(root: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(root, **changed)


def test_a_missing_image_is_refused_when_it_is_made(root: Path) -> None:
    (root / "exam" / "images" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"^Question 0 of benchmark=exam: "):
        make(root, num_items=None)


def test_every_key_of_the_configuration_arrives(
    root: Path, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed one by one, each makes something else."""
    write_exam(root / "copy", prompts[:4])
    monkeypatch.setattr(module, "needs_reviews", lambda benchmark: False)
    write_exam(root, prompts[:4], "judged")
    keys = [key for key in OmegaConf.load(CONFIG).benchmarks if key != "_target_"]
    others = {
        "names": ["judged"],
        "data_root": str(root / "copy"),
        "num_items": 1,
        "max_new_tokens": 7,
        "suffix": "!",
        "pictures": str(root / "others"),
        "parsers": {"exam": "strict"},
    }
    assert {*keys} == {*others}

    def made(**changed: Any) -> str:
        callback = make(root, **{"num_items": 8, **changed})
        return repr([callback.how, [(one.name, *others) for one, *others in callback.asked]])

    before = made()
    assert made() == before
    assert [key for key in keys if made(**{key: others[key]}) == before] == []
