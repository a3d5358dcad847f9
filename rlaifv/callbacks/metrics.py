"""Crash-safe metrics.csv: a resumed run keeps the logged rows and repeats no step."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from rlaifv.store.atomic import write_text


class MetricsLogger(CSVLogger):
    """CSV logger that appends to the metrics.csv of an earlier process instead of deleting it.

    Args:
        save_dir: directory of the file.
        flush_logs_every_n_steps: number of steps between writes to disk.
    """

    def __init__(self, save_dir: str, flush_logs_every_n_steps: int = 20) -> None:
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps)
        self.path = Path(save_dir) / "metrics.csv"
        self._kept = _read(self.path) if self.path.exists() else None

    @property
    def experiment(self) -> Any:
        """Lightning's CSV writer, which deletes an existing file when created; file and columns are restored."""
        is_new = self._experiment is None
        writer = super().experiment
        if is_new and self._kept is not None and self._experiment is not None:
            write_text(self.path, self._kept)
            writer.metrics_keys = next(csv.reader(io.StringIO(self._kept)), [])
        return writer

    def go_on_from(self, step: int) -> None:
        """Drop the rows of `step` and later steps, which this process will log again."""
        self.save()
        if self.path.exists():
            reader = csv.DictReader(io.StringIO(_read(self.path)))
            kept = io.StringIO()
            writer = csv.DictWriter(kept, list(reader.fieldnames or []))
            writer.writeheader()
            # A row truncated by a kill lacks columns or ends in a partial step.
            whole = (row for row in reader if None not in row.values())
            writer.writerows(row for row in whole if row["step"].isdigit() and int(row["step"]) < step)
            write_text(self.path, kept.getvalue())


def _read(path: Path) -> str:
    """Read a file without newline translation."""
    with path.open(newline="", encoding="utf-8") as file:
        return file.read()
