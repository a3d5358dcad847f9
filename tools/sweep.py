"""The table of a multirun: what was overridden in each run, and how it ended."""

import csv
import io
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.table import Table

from rlaifv.report.run import read_evaluations
from rlaifv.report.summary import change, headlines
from rlaifv.runtime import console
from rlaifv.store.atomic import write_text
from tools.launch import ERROR_NAME

FILE_NAME = "sweep.csv"


class SweepSummary(Callback):
    """Prints one row per run of a multirun and writes them to sweep.csv beside the runs.

    A run that failed left its traceback in error.txt; with one of those, the multirun ends with exit status 1.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Collect a run; called at the end of single runs too, which are not summarised."""
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
        self.rows.append(row)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table and write it down.

        Raises:
            SystemExit: a run failed.
        """
        if not self.rows:
            return
        _keep_differing_overrides(self.rows)
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        table = Table(title="sweep", title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in self.rows:
            table.add_row(*(row.get(name, "") for name in columns))
        console.print(table)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        path = Path(config.hydra.sweep.dir) / FILE_NAME
        write_text(path, text.getvalue())
        console.print(f"written to {path}", soft_wrap=True)
        if any(row["status"] == "failed" for row in self.rows):
            raise SystemExit(1)


def _keep_differing_overrides(rows: list[dict[str, str]]) -> None:
    """Leave out of each row what all of them share."""
    overrides = [row["overrides"].split("\n") for row in rows]
    shared = set.intersection(*map(set, overrides)) if len(rows) > 1 else set()
    for row, items in zip(rows, overrides, strict=True):
        row["overrides"] = " ".join(item for item in items if item not in shared)
