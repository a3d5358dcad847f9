"""Summarise a multirun: overrides and results of each run, and means over seeds."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.table import Table

from rlaifv.app.launch import ERROR_NAME
from rlaifv.report.dots import DotPanel, dot_plot
from rlaifv.report.run import read_evaluations
from rlaifv.report.summary import change, headlines
from rlaifv.runtime.console import console
from rlaifv.store.atomic import write_text

FILE_NAME = "sweep.csv"
MEANS_NAME = "sweep_means.csv"
PICTURE_NAME = "sweep_means.svg"


class SweepSummary(Callback):
    """Print one row per run of a multirun and write the rows to sweep.csv in the sweep directory.

    If some runs differ only in their seed, sweep_means.csv holds the mean and standard deviation of their final metrics
    per setting, and sweep_means.svg plots the individual runs.

    A failed run leaves its traceback in error.txt. If any run failed, the multirun ends with exit status 1.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []
        self.ends: dict[str, dict[str, float]] = {}

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Record the result of a run; single runs, for which Hydra calls this too, are ignored."""
        assert job_return.cfg is not None
        assert job_return.hydra_cfg is not None
        hydra = job_return.hydra_cfg.hydra
        if hydra.mode != RunMode.MULTIRUN:
            return
        run_dir = Path(hydra.runtime.output_dir)
        failed = job_return.status != JobStatus.COMPLETED or (run_dir / ERROR_NAME).exists()
        status = "failed" if failed else "done"
        row = {"run": run_dir.name, "overrides": "\n".join(job_return.overrides or []), "status": status}
        metrics = {evaluation.num_iterations: evaluation.metrics for evaluation in read_evaluations(run_dir)}
        for name in headlines(metrics) if metrics else ():
            before, after = change(metrics, name)
            row[name] = "" if before is None or after is None else f"{before:.3f} -> {after:.3f}"
        ends = {name: change(metrics, name)[1] for name in dict.fromkeys((*headlines(metrics), "length/words"))}
        self.ends[row["run"]] = {} if failed else {name: value for name, value in ends.items() if value is not None}
        self.rows.append(row)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print and write the tables.

        Raises:
            SystemExit: a run failed.
        """
        if not self.rows:
            return
        _keep_differing_overrides(self.rows)
        directory = Path(config.hydra.sweep.dir)
        _show("sweep", self.rows, directory / FILE_NAME)
        if groups := by_setting([(row["overrides"], self.ends[row["run"]]) for row in self.rows]):
            _show("means over seeds", means_over_seeds(groups), directory / MEANS_NAME)
            write_text(directory / PICTURE_NAME, _picture(groups))
        if any(row["status"] == "failed" for row in self.rows):
            raise SystemExit(1)


def by_setting(runs: Sequence[tuple[str, Mapping[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Group metrics by setting and name, for settings that were run with more than one seed.

    Args:
        runs: (overrides separated by spaces, metrics) of each run; runs with empty metrics (failed ones) are skipped.

    >>> runs = [("a=1 seed=0", {"coverage": 0.5}), ("a=1 seed=1", {"coverage": 0.7}), ("a=2 seed=0", {"coverage": 0.1})]
    >>> by_setting(runs)
    {'a=1': {'coverage': [0.5, 0.7]}}
    """
    groups: dict[str, list[Mapping[str, float]]] = {}
    for overrides, metrics in runs:
        setting = " ".join(item for item in overrides.split(" ") if not item.startswith("seed="))
        if metrics and setting != overrides:
            groups.setdefault(setting, []).append(metrics)
    return {
        setting: {
            name: [metrics[name] for metrics in several]
            for name in several[0]
            if all(name in metrics for metrics in several)
        }
        for setting, several in groups.items()
        if len(several) > 1
    }


def means_over_seeds(groups: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, str]]:
    """Return one row per setting: mean ± sample standard deviation (n - 1).

    >>> means_over_seeds({"a=1": {"coverage": [0.5, 0.7]}})
    [{'overrides': 'a=1', 'runs': '2', 'coverage': '0.600 ± 0.141'}]
    """
    return [
        {
            "overrides": setting,
            "runs": str(max(map(len, values.values()))),
            **{name: f"{mean(some):.3f} ± {stdev(some):.3f}" for name, some in values.items()},
        }
        for setting, values in groups.items()
    ]


def _picture(groups: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    names = dict.fromkeys(name for values in groups.values() for name in values)
    rows = {name: tuple(tuple(values.get(name, ())) for values in groups.values()) for name in names}
    return dot_plot([setting or "all" for setting in groups], [DotPanel(name, rows[name]) for name in names])


def _show(title: str, rows: Sequence[Mapping[str, str]], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in columns:
        table.add_column(name.replace("/", "/\n"), overflow="fold")
    for row in rows:
        table.add_row(*(row.get(name, "") for name in columns))
    console.print(table)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
    console.print(f"written to {path}", soft_wrap=True)


def _keep_differing_overrides(rows: list[dict[str, str]]) -> None:
    """Remove the overrides that all rows share."""
    overrides = [row["overrides"].split("\n") for row in rows]
    shared = set.intersection(*map(set, overrides)) if len(rows) > 1 else set()
    for row, items in zip(rows, overrides, strict=True):
        row["overrides"] = " ".join(item for item in items if item not in shared)
