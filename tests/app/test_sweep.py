import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rlaifv.app.sweep import SweepSummary

Launch = Callable[..., tuple[int, str]]
TINY = (
    "iteration.num_iterations=1",
    "iteration.num_prompts=8",
    "iteration.epochs=1",
    "iteration.min_pairs=1",
    "iteration.decoding.max_new_tokens=60",
    "data.num_held_out=2",
)


@pytest.fixture
def sweep_config(tmp_path: Path) -> DictConfig:
    return OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})


def job(run_dir: Path, *overrides: str, mode: RunMode = RunMode.MULTIRUN, status: JobStatus | None = None) -> JobReturn:
    """What Hydra reports of a job that ended in `run_dir`."""
    hydra = {"mode": mode, "runtime": {"output_dir": str(run_dir)}}
    settings = OmegaConf.create({"hydra": hydra})
    return JobReturn(overrides, OmegaConf.create(), settings, status=status or JobStatus.COMPLETED)


def measured(run_dir: Path, **metrics: tuple[float, ...]) -> Path:
    """A run directory with these values of each metric, of the base model first."""
    (run_dir / "evaluations").mkdir(parents=True)
    for k, values in enumerate(zip(*metrics.values(), strict=True)):
        evaluation = {"num_iterations": k, "metrics": dict(zip(metrics, values, strict=True)), "examples": []}
        (run_dir / "evaluations" / f"{k:03d}.json").write_text(json.dumps(evaluation))
    return run_dir


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_row_tells_what_differs_and_how_each_run_ended(
    sweep_config: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = SweepSummary()
    truth = {
        "hallucination/response": (0.5, 0.4, 0.25),
        "hallucination/mention": (0.2, 0.1, 0.05),
        "coverage": (1, 1, 1),
    }
    summary.on_job_end(sweep_config, job(measured(tmp_path / "0", **truth), "seed=0", "learner.beta=0.1", "a=[1, 2]"))
    summary.on_job_end(sweep_config, job(measured(tmp_path / "1", **truth), "seed=0", "learner.beta=0.2", "a=[1, 2]"))
    summary.on_multirun_end(sweep_config)
    assert rows_of(tmp_path / "sweep.csv") == [
        {
            "run": str(k),
            "overrides": f"learner.beta=0.{k + 1}",
            "status": "done",
            "hallucination/response": "0.500 -> 0.250",
            "hallucination/mention": "0.200 -> 0.050",
            "coverage": "1.000 -> 1.000",
        }
        for k in range(2)
    ]
    printed = capsys.readouterr().out
    assert "learner.beta=0.2" in printed
    assert "0.500 -> 0.250" in printed
    assert f"written to {tmp_path / 'sweep.csv'}" in " ".join(printed.split())


def test_runs_that_differ_in_their_seed_alone_are_averaged(
    sweep_config: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Means and standard deviations of n - 1; a failed run does not count, and one seed has no spread."""
    summary = SweepSummary()
    ends = {("0.1", 0): 0.2, ("0.1", 1): 0.4, ("0.2", 0): 0.5, ("0.2", 1): None, ("0.3", 0): 0.1, ("0.3", 1): 0.1}
    for k, ((beta, seed), end) in enumerate(ends.items()):
        run_dir = tmp_path / str(k)
        if end is None:
            run_dir.mkdir()
        else:
            measured(
                run_dir, **{"rejected/response": (0.9, end), "rejected/mention": (0.9, end), "length/words": (9, 8)}
            )
        status = JobStatus.FAILED if end is None else None
        summary.on_job_end(sweep_config, job(run_dir, f"seed={seed}", f"learner.beta={beta}", "a=1", status=status))
    with pytest.raises(SystemExit):
        summary.on_multirun_end(sweep_config)
    assert rows_of(tmp_path / "sweep_means.csv") == [
        {
            "overrides": f"learner.beta={beta}",
            "runs": "2",
            "rejected/response": rate,
            "rejected/mention": rate,
            "length/words": "8.000 ± 0.000",
        }
        for beta, rate in (("0.1", "0.300 ± 0.141"), ("0.3", "0.100 ± 0.000"))
    ]
    picture = (tmp_path / "sweep_means.svg").read_text()
    assert "rejected/response, means: learner.beta=0.1 0.300, learner.beta=0.3 0.100" in picture
    assert "means over seeds" in capsys.readouterr().out


def test_failed_run_has_no_numbers_and_fails_the_sweep(sweep_config: DictConfig, tmp_path: Path) -> None:
    summary = SweepSummary()
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "error.txt").write_text("ValueError: no")
    (tmp_path / "1").mkdir()
    unknown = {"rejected/response": (0.5, 0.4), "rejected/mention": (0.2, 0.1), "length/words": (20.0, 21.0)}
    summary.on_job_end(sweep_config, job(tmp_path / "0", "seed=0"))
    summary.on_job_end(sweep_config, job(tmp_path / "1", "seed=1", status=JobStatus.FAILED))
    summary.on_job_end(sweep_config, job(measured(tmp_path / "2", **unknown), "seed=2"))
    with pytest.raises(SystemExit) as ended:
        summary.on_multirun_end(sweep_config)
    assert ended.value.code == 1
    rows = rows_of(tmp_path / "sweep.csv")
    assert [row["status"] for row in rows] == ["failed", "failed", "done"]
    assert [row["rejected/mention"] for row in rows] == ["", "", "0.200 -> 0.100"]
    assert list(rows[0]) == ["run", "overrides", "status", *unknown]


def test_single_runs_are_not_summarised(
    sweep_config: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = SweepSummary()
    summary.on_job_end(sweep_config, job(tmp_path, mode=RunMode.RUN))
    summary.on_multirun_end(sweep_config)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_sweep_goes_on_after_a_failed_run(launch: Launch, tmp_path: Path) -> None:
    status, output = launch("-m", "run_dir=sweep", "learner.beta=-1,0.1", *TINY)
    assert status == 1, output
    assert "error: learner.beta=-1 must be above 0." in output
    assert "Traceback" not in output
    rows = rows_of(tmp_path / "sweep" / "sweep.csv")
    assert [(row["overrides"], row["status"]) for row in rows] == [
        ("learner.beta=-1", "failed"),
        ("learner.beta=0.1", "done"),
    ]
    assert not rows[0]["coverage"]
    assert "->" in rows[1]["coverage"]
    assert (tmp_path / "sweep" / "0" / "error.txt").exists()
    assert (tmp_path / "sweep" / "1" / "export" / "model.safetensors").exists()
    assert "result: response hallucination" in output
