"""Read official files of benchmarks; errors name the row."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def required(path: Path | None, name: str, benchmark: str) -> Path:
    """Return a file that the benchmark requires. Raises ValueError if it is not given.

    Raises:
        ValueError: it is not given, or does not exist.
    """
    if path is None:
        raise ValueError(f"{name}=… must be given for benchmark={benchmark}.")
    if not path.exists():
        raise ValueError(f"{name}={path} does not exist.")
    return path


def read_text(path: Path) -> str:
    """Return the text of a file, without a byte order mark, its line ends as they are.

    Raises:
        ValueError: it is a directory, or not in UTF-8.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a directory, but has to be a file.")
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"Line {number} of {path} is not UTF-8 text: {error.reason}.") from error


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: it is no JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON list or of JSON Lines, whatever the file's suffix, in order.

    Raises:
        ValueError: it is neither, or one of its rows is no object.
    """
    rows = read_values(path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"Row {number} of {path} has to be a JSON object, but it is {str(row)[:60]!r}.")
    return rows


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table of tab-separated values, with the names of its first line.

    Raises:
        ValueError: a row has more or fewer columns than the first line.
    """
    csv.field_size_limit(2**30)  # pictures in base64
    reader = csv.DictReader(StringIO(read_text(path), newline=""), delimiter="\t")
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"Line {reader.line_num} of {path} is no tab-separated values: {error}.") from error
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(
                f"Row {number} of {path} does not have the {len(reader.fieldnames or ())} columns of its head."
            )
    return rows


def field_of(
    row: dict[str, Any], names: str | Sequence[str], kind: type | tuple[type, ...], number: int, path: Path
) -> Any:
    """Return a field of a row, under the first of its possible names.

    Raises:
        ValueError: there is none, or it is of another type.
    """
    if not isinstance(row, dict):
        raise ValueError(f"Row {number} of {path} has to be a JSON object, but it is {row!r:.60}.")
    names = [names] if isinstance(names, str) else names
    name = next((name for name in names if name in row), None)
    if name is None:
        raise ValueError(f"Row {number} of {path} has no field {' or '.join(map(repr, names))}.")
    if not isinstance(row[name], kind) or (isinstance(row[name], bool) and kind is int):
        wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"Field {name!r} in row {number} of {path} has to be {wanted}, but it is {row[name]!r:.60}.")
    return row[name]


def match_ids(
    wanted: Iterable[str], found: Sequence[str], path: Path, allow_incomplete: bool = False, what: str = "answer"
) -> list[str]:
    """Return the ids of `wanted` that have a row in `found`, in their order.

    Raises:
        ValueError: an id comes twice or is unknown, or one is missing without `allow_incomplete`.
    """
    ids = list(wanted)
    known = set(ids)
    twice = [one for one, count in Counter(found).items() if count > 1]
    if twice:
        raise ValueError(f"{path} has more than one {what} for {_listed(twice)}.")
    if unknown := [one for one in found if one not in known]:
        raise ValueError(f"{path} has an {what} for {_listed(unknown)}, which the benchmark does not ask about.")
    present = set(found)
    if (missing := [one for one in ids if one not in present]) and not allow_incomplete:
        raise ValueError(
            f"{path} has no {what} for {_listed(missing)}; allow_incomplete=true scores what is there, and says so."
        )
    return [one for one in ids if one in present]


def digest(path: Path) -> str:
    """Return SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:5])
    return shown if len(ids) <= 5 else f"{shown} and {len(ids) - 5} more"


def read_values(path: Path) -> list[Any]:
    """Return the values of a JSON list or of JSON Lines, in order, or a single JSON object in a list.

    Raises:
        ValueError: it is none of these.
    """
    text = read_text(path)
    start = text.lstrip()[:1]
    if start in ("[", "{"):
        try:
            whole = json.loads(text)
            return list(whole) if isinstance(whole, list) else [whole]
        except (ValueError, RecursionError) as error:
            # Lines that are lists or objects themselves have extra data; of broken lines, the number is told below.
            if start == "[" and getattr(error, "msg", "") != "Extra data":
                raise ValueError(f"{path} is not valid JSON: {error}.") from error
    values = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"Line {number} of {path} is not valid JSON: {error}.") from error
    return values


def read_table(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table, by the file's suffix: .tsv, .parquet, or else JSON.

    Raises:
        ValueError: it is of another form.
    """
    if path.suffix == ".tsv":
        return list(read_tsv(path))
    if path.suffix != ".parquet":
        return read_rows(path)
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not valid Parquet: {error}.") from error
    return rows


def by_id(
    rows: Sequence[dict[str, Any]], ids: Sequence[str], path: Path, name: str = "id"
) -> dict[str, dict[str, Any]]:
    """Return the rows of a file by their ids, in its order.

    Raises:
        ValueError: two rows have the same id.
    """
    numbers: dict[str, int] = {}
    for number, one in enumerate(ids, start=1):
        if (first := numbers.setdefault(one, number)) != number:
            raise ValueError(f"Row {number} of {path} has the {name} {one}, which row {first} has too.")
    return dict(zip(ids, rows, strict=True))


def read_lists(path: Path, what: str, by: str) -> dict[str, list[str]]:
    """Return the content of a JSON file of lists of words, as in {"1": ["boat", "gull"]}.

    Args:
        path: of the file.
        what: is in the lists, for messages.
        by: what they are found by, for messages.

    Raises:
        ValueError: it is of another form.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} has to be a JSON object of lists of {what} by {by}.")
    for key, words in content.items():
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"Entry {key!r} of {path} has to be a list of {what}, but it is {words!r:.60}.")
    return content
