"""Check every row of a data set, including its images, and report what is wrong and where.

python tools/validate_data.py format=rlaifv path=openbmb/RLAIF-V-Dataset revision=COMMIT
python tools/validate_data.py format=trl path=pairs.parquet
python tools/validate_data.py format=llamafactory path=DIR image_root=/photos show=20
python tools/validate_data.py format=files path=prompts.jsonl

Further keys: split, streaming, num_rows, max_pixels and max_bytes, as in configs/data/rlaifv.yaml. For each kind of
fault, the first `show` (default 5) are printed, the first one with its row, and all are counted, with advice on how to
fix them; for a list of prompts (format=files), only the first fault is reported. The exit status is 1 if anything is
wrong, 2 if nothing could be read.
"""

import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from rich.table import Table as Lines

sys.path.insert(0, str(Path(__file__).parent.parent))

from rlaifv.app.arguments import parse_options, refuse
from rlaifv.data.drops import lines
from rlaifv.data.formats.pictures import shown
from rlaifv.data.formats.turns import RowError
from rlaifv.data.images import MAX_BYTES, MAX_PIXELS, ImageError, load_image
from rlaifv.data.rows import Row
from rlaifv.data.sources import read_prompts
from rlaifv.data.tables import Table
from rlaifv.runtime.console import console, progress_bar, set_up_logging


@dataclass
class Options:
    """Command-line options; see the module docstring."""

    format: str = MISSING
    path: str = MISSING
    revision: str | None = None
    split: str = "train"
    streaming: bool = False
    num_rows: int | None = None
    image_root: str | None = None
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES
    show: int = 5


@dataclass
class Findings:
    """Findings in the rows checked so far."""

    show: int
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    prompts: set[tuple[Any, ...]] = field(default_factory=set)

    def fault(self, reason: str, message: str, fields: Mapping[str, Any]) -> None:
        """Count a fault; print the first `show` of each kind, and the row of the first of each kind."""
        self.faults[reason] += 1
        if self.faults[reason] <= self.show:
            console.print(f"{reason}: {message}", markup=False, soft_wrap=True)
        if self.faults[reason] == 1:
            filled = {name: value for name, value in fields.items() if value is not None}
            console.print(f"    {shown(repr(_abridged(filled)), 300)}", markup=False, soft_wrap=True)

    def row(self, row: Row, images: tuple[bytes, ...]) -> None:
        """Count a valid row, given the digests of its images."""
        self.prompts.add((row.question, images, row.system, row.history))
        self.counts["pairs"] += row.chosen is not None
        self.counts["rows with several images"] += len(images) > 1
        for name, is_there in (("rows without an image", not images), ("rows of several turns", row.history)):
            self.counts.update([name] if is_there else [])


class ImageCheck:
    """Decode images within limits, each distinct content once.

    Embedded images are first written to a file, because only files are measured before they are opened.
    """

    def __init__(self, max_pixels: int, max_bytes: int, directory: Path) -> None:
        self.limits = max_pixels, max_bytes
        self.file = directory / "embedded"
        self.known: dict[bytes, ImageError | None] = {}

    def __call__(self, image: str | bytes) -> bytes:
        """Return the digest of an image. Raises ImageError if the image is unusable."""
        key = hashlib.sha256(image.encode() if isinstance(image, str) else image).digest()
        if key not in self.known:
            self.known[key] = self._error_of(image)
        if error := self.known[key]:
            raise error
        return key

    def _error_of(self, image: str | bytes) -> ImageError | None:
        if isinstance(image, bytes):
            self.file.write_bytes(image)
        try:
            load_image(image if isinstance(image, str) else self.file, *self.limits)
        except ImageError as error:
            return ImageError(str(error).replace(f"The image {self.file}", "The embedded image"), error.reason)
        return None


def main(arguments: Sequence[str]) -> int:
    """Check all rows, print the findings, and return the exit status."""
    set_up_logging()
    try:
        given = parse_options(Options, __doc__, arguments)
        found = Findings(show=given.show)
        limits = given.max_pixels, given.max_bytes
        rows, name = _rows(given)
    except (ValueError, OSError) as error:
        return refuse(error)
    with tempfile.TemporaryDirectory() as directory, progress_bar() as bars:
        check = ImageCheck(*limits, Path(directory))
        task = bars.add_task("check", total=len(rows), note="")
        for number in range(len(rows)):
            try:
                row = rows[number]
                found.row(row, tuple(check(image) for image in row.images))
            except RowError as error:
                found.fault(error.reason, str(error), _fields(rows, number))
            except ImageError as error:
                found.fault(error.reason, f"Row {number} of {name}: {error}", _fields(rows, number))
            bars.advance(task)
    console.print(name, markup=False, soft_wrap=True)
    console.print(_summary(found, len(rows), len(check.known)))
    for line in lines(found.faults).values():
        console.print(f"{line}.", markup=False, soft_wrap=True)
    return 1 if found.faults else 0


def _rows(given: Options) -> tuple[Sequence[Row], str]:
    """Return the rows to check and the name of the data in messages."""
    if given.format == "files":
        prompts = read_prompts(given.path, given.image_root)
        return [Row(prompt.id, prompt.question, prompt.image_paths, None, None) for prompt in prompts], given.path
    table = Table(
        given.format,
        given.path,
        revision=given.revision,
        split=given.split,
        streaming=given.streaming,
        num_rows=given.num_rows,
        image_root=given.image_root,
    )
    return table, table.name


def _fields(rows: Sequence[Row], number: int) -> dict[str, Any]:
    """Return the columns of an invalid row."""
    return rows.fields(number) if isinstance(rows, Table) else {}


def _abridged(value: Any) -> Any:
    """Return a copy with long texts shortened and bytes replaced by their size."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        return value if len(value) <= 60 else f"{value[:60]}…"
    if isinstance(value, Mapping):
        return {key: _abridged(inner) for key, inner in value.items()}
    return [_abridged(inner) for inner in value] if isinstance(value, list) else value


def _summary(found: Findings, num_rows: int, num_images: int) -> Lines:
    num_wrong = sum(found.faults.values())
    table = Lines(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    counts = {"rows": num_rows, "usable": num_rows - num_wrong, "distinct prompts": len(found.prompts)}
    counts |= {"distinct images": num_images, **found.counts, "wrong": num_wrong}
    for label, count in (*counts.items(), *((f"  {reason}", count) for reason, count in found.faults.most_common())):
        table.add_row(label, f"{count:,}")
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
