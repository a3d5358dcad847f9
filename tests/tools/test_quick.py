"""evaluation=quick from outside: what a run leaves, and what it does again when it is resumed."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaifv.callbacks.benchmarks import benchmarks_path
from rlaifv.records import Prompt
from tests.benchmarks.fakes import register, write_exam

Launch = Callable[..., tuple[int, str]]
SMALL = (
    "iteration.num_prompts=6",
    "iteration.shard_prompts=4",
    "iteration.min_pairs=1",
    "iteration.decoding.max_new_tokens=60",
    "data.num_held_out=2",
    "evaluation=quick",
    "evaluation.benchmarks.names=[exam]",
    "evaluation.benchmarks.data_root=data",
    "evaluation.benchmarks.num_items=2",
)


@pytest.fixture
def root(prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four images with two questions each."""
    register(monkeypatch)
    write_exam(tmp_path / "data", prompts[:4])
    return tmp_path / "data"


def test_a_run_measures_and_logs_and_goes_on(launch: Launch, root: Path, tmp_path: Path) -> None:
    """Two iterations, the second one in a resumed run; what was measured is not measured again."""
    status, output = launch("run_dir=run", *SMALL, "iteration.num_iterations=1")
    assert status == 0, output
    run_dir = tmp_path / "run"
    before = {path.name: path.stat().st_mtime_ns for path in (run_dir / "evaluations").glob("*.json")}
    assert {*before} == {"000.json", "000-benchmarks.json", "001.json", "001-benchmarks.json"}
    status, output = launch("resume=run", "iteration.num_iterations=2")
    assert status == 0, output
    after = {path.name: path.stat().st_mtime_ns for path in (run_dir / "evaluations").glob("*.json")}
    assert {*after} - {*before} == {"002.json", "002-benchmarks.json"}
    assert {name: after[name] for name in before} == before
    stored = [json.loads(benchmarks_path(run_dir, k).read_text()) for k in range(3)]
    assert [one["num_iterations"] for one in stored] == [0, 1, 2]
    assert len({one["model_sha256"] for one in stored}) == 3
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("benchmark/exam/accuracy")]
    assert [float(row["benchmark/exam/accuracy"]) for row in rows] == [
        one["benchmarks"]["exam"]["accuracy"] for one in stored
    ]
    assert (run_dir / "report" / "index.html").exists()


def test_a_run_whose_files_are_missing_is_refused_before_weights_are_loaded(
    launch: Launch, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlaifv.app.build.load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    status, output = launch("run_dir=run", *SMALL, "evaluation.benchmarks.names=[exam,pope]")
    assert status == 2
    assert f"data_root={root} holds no directory pope, where its files would be." in output
