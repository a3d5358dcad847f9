"""Preference data read with `datasets`: a hub id, a directory, a file, or a stream of the first rows."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import datasets
import pyarrow.parquet as pq

from rlaifv.data.formats.openbmb import TSV_COLUMNS, from_tsv
from rlaifv.data.formats.turns import RowError
from rlaifv.data.rows import FORMATS, Row, parse_row

# Loader of each file extension. A directory is read with the first one that matches.
LOADERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".tsv": "csv"}
# Base64 fields make lines of a megabyte, so few are read at a time. No field is quoted or numeric.
TSV_OPTIONS = {
    "sep": "\t",
    "quoting": 3,
    "header": None,
    "column_names": list(TSV_COLUMNS),
    "features": datasets.Features(dict.fromkeys(TSV_COLUMNS, datasets.Value("string"))),
    "keep_default_na": False,
    "chunksize": 64,
}
# Files that lie beside the data without being part of it.
OTHER_FILES = ("dataset_info", "dataset_infos", "provenance")
# Key that replaces the columns of an unreadable line.
BROKEN = "\0broken"
SPLITS = ("train", "test", "validation")


class Table(Sequence[Row]):
    """The rows of a data set, parsed on access. Images are never decoded here.

    Args:
        form: a key of `FORMATS`.
        path: a hub id (owner/name), a directory, or a file with an extension of `LOADERS`.
        revision: commit, tag or branch of a hub id.
        split: split of a hub id, or of a directory whose files are named by split.
        streaming: read only the first `num_rows` rows into memory instead of downloading all data first.
        num_rows: number of leading rows to use; None for all.
        image_root: directory that image paths are relative to, itself relative to the data's; None for the data's.

    Raises:
        ValueError: the data set does not exist, cannot be read, or lacks columns.
    """

    def __init__(
        self,
        form: str,
        path: str,
        *,
        revision: str | None = None,
        split: str = "train",
        streaming: bool = False,
        num_rows: int | None = None,
        image_root: str | None = None,
    ) -> None:
        if form not in FORMATS:
            raise ValueError(f"{form!r} is no format of preference data; there are {', '.join(FORMATS)}.")
        if streaming and num_rows is None:
            raise ValueError(
                "data.streaming=true needs data.num_rows, since a stream has no end that could be waited for."
            )
        self.form = form
        place = Path(path).expanduser()
        is_local = place.exists()
        self.name = str(path) if place.is_file() else f"{path}, split {split}"
        self._is_tsv = False
        if is_local:
            datasets.disable_progress_bars()  # the caller shows its own; downloads have none
            files = [place] if place.is_file() else _files(place, split)
            loader = LOADERS.get(files[0].suffix)
            if loader is None:
                raise ValueError(f"{files[0]} does not end with one of {', '.join(LOADERS)}.")
            self._is_tsv = loader == "csv"
            options: dict[str, Any] = {"path": loader, "data_files": {split: [str(file) for file in files]}}
            options |= TSV_OPTIONS if self._is_tsv else {}
            folder = place if place.is_dir() else place.parent
            self.image_root: Path | None = (folder / Path(image_root or "").expanduser()).absolute()
            if not self.image_root.is_dir():
                raise ValueError(f"data.image_root={image_root} is not a directory.")
        else:
            options = {"path": path, "revision": revision}
            self.image_root = None if image_root is None else Path(image_root).expanduser().absolute()
        try:
            self._data, columns = _load(self.name, options | {"split": split, "streaming": streaming}, num_rows)
        except ValueError:
            # One broken line makes the loader reject the whole file, so read it line by line.
            self._data, columns = _read_lines(files, num_rows) if is_local else ([], [])
            if not columns:
                raise
        missing = FORMATS[form].missing(columns)
        if missing:
            raise ValueError(
                f"{self.name} has no column {', '.join(missing)}, which data={form} needs; its columns are "
                f"{', '.join(columns)}."
            )

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} rows, so there is no row {index}.")
        number = index % len(self)
        return self._parse(self._data[number], number)

    def __iter__(self) -> Iterator[Row]:
        for number, fields in enumerate(self._data):
            yield self._parse(fields, number)

    def rows_and_errors(self) -> Iterator[Row | RowError]:
        """Yield every row in order, or the error of an unusable one."""
        for number, fields in enumerate(self._data):
            try:
                yield self._parse(fields, number)
            except RowError as error:
                yield error

    def fields(self, number: int) -> dict[str, Any]:
        """Return the columns of a row as read, unparsed."""
        return dict(self._data[number])

    def _parse(self, fields: Mapping[str, Any], number: int) -> Row:
        where = f"row {number} of {self.name}"
        if BROKEN in fields:
            raise RowError(f"The line of {where} is no JSON object.", "not_json")
        return parse_row(self.form, from_tsv(fields, where) if self._is_tsv else fields, number, where, self.image_root)


def _files(directory: Path, split: str) -> list[Path]:
    """Return a directory's data files of a single kind, restricted to the split if they are named by split."""
    for suffix in LOADERS:
        found = [
            path
            for path in sorted(directory.rglob(f"*{suffix}"))
            if path.stem not in OTHER_FILES and not path.name.startswith(".")
        ]
        if any(path.stem.startswith(SPLITS) for path in found):
            found = [path for path in found if path.stem.startswith(split)]
        if found:
            return found
    raise ValueError(f"{directory} holds no data for split {split}: no file that ends with {', '.join(LOADERS)}.")


def count_rows(path: Path) -> int | None:
    """Count the rows of a local file or directory without parsing them; None if that is not possible."""
    found = [path] if path.is_file() else [file for file in sorted(path.rglob("*.parquet")) if path.is_dir()]
    if found and all(file.suffix == ".parquet" for file in found):
        return sum(int(pq.ParquetFile(file).metadata.num_rows) for file in found)
    if path.suffix in (".jsonl", ".tsv") and path.is_file():
        with path.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    return None


def _load(name: str, options: dict[str, Any], num_rows: int | None) -> tuple[Sequence[dict[str, Any]], list[str]]:
    """Load rows with undecoded images, memory-mapped or, for a stream, in memory; also return the column names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of libraries about libraries
        try:
            loaded = datasets.load_dataset(**options)
            loaded = _undecoded(loaded, loaded.features)
            if options["streaming"]:
                rows = list(islice(loaded, num_rows))
                return rows, loaded.column_names or list(rows[0] if rows else ())
        except Exception as error:  # invalid files make the readers raise many exception types
            reason = " ".join(str(error.__cause__ or error).split())
            raise ValueError(f"{name} cannot be read: {reason or type(error).__name__}.") from error
    found = loaded if num_rows is None else loaded.select(range(min(num_rows, len(loaded))))
    return found, found.column_names


def _read_lines(files: Sequence[Path], num_rows: int | None) -> tuple[Sequence[dict[str, Any]], list[str]]:
    """Read JSON Lines with `BROKEN` for invalid lines, and return rows and column names; empty for other file types."""
    rows: list[dict[str, Any]] = []
    for file in files if files[0].suffix == ".jsonl" else ():
        for line in filter(bytes.strip, file.read_bytes().split(b"\n")):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                found = None
            rows.append(found if isinstance(found, dict) else {BROKEN: True})
    rows = rows[:num_rows]
    return rows, list(dict.fromkeys(name for row in rows for name in row if name != BROKEN))


def _undecoded(data: Any, features: datasets.Features | None) -> Any:
    """Return the same data with every image, however nested, as its bytes and path."""
    for name, feature in (features or {}).items():
        undecoded = _without_decoding(feature)
        if undecoded is not feature:
            data = data.cast_column(name, undecoded)
    return data


def _without_decoding(feature: Any) -> Any:
    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, datasets.Sequence | datasets.features.List | datasets.features.LargeList):
        inner = _without_decoding(feature.feature)
        return feature if inner is feature.feature else datasets.features.List(inner)
    return feature
