"""A metrics.csv that survives crashes: nothing is lost, and no step is in it twice."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from rlaifv.store.atomic import write_text


class MetricsLogger(CSVLogger):
    """Writes metrics.csv as Lightning does, and continues an earlier process's file.

    Args:
        save_dir: where the file lies.
        flush_logs_every_n_steps: steps between two writes to disk.
    """

    def __init__(self, save_dir: str, flush_logs_every_n_steps: int = 20) -> None:
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps)
        self.path = Path(save_dir) / "metrics.csv"
        self._kept = _read(self.path) if self.path.exists() else None

    @property
    def experiment(self) -> Any:
        """Lightning's writer, with the earlier file that it deletes put back, and that file's columns."""
        is_new = self._experiment is None
        writer = super().experiment
        if is_new and self._kept is not None and self._experiment is not None:
            write_text(self.path, self._kept)
            writer.metrics_keys = next(csv.reader(io.StringIO(self._kept)), [])
        return writer

    def go_on_from(self, step: int) -> None:
        """Drop the rows of `step` and later steps, which an earlier process logged and this one logs again."""
        self.save()
        if self.path.exists():
            reader = csv.DictReader(io.StringIO(_read(self.path)))
            kept = io.StringIO()
            writer = csv.DictWriter(kept, list(reader.fieldnames or []))
            writer.writeheader()
            # A row that a kill cut off has no step, or less than it.
            whole = (row for row in reader if None not in row.values())
            writer.writerows(row for row in whole if row["step"].isdigit() and int(row["step"]) < step)
            write_text(self.path, kept.getvalue())


def _read(path: Path) -> str:
    """Read the file with its line ends."""
    with path.open(newline="", encoding="utf-8") as file:
        return file.read()
