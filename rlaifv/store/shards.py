"""Shards: a list of records as one parquet file.

The schema follows from the record class: its fields in order, none nullable:

    str, Literal   string        tuple[str, ...]     list<string>
    int            int64         tuple[int, ...]     list<int32>     token ids
    float          float64       tuple[float, ...]   list<float32>   log-probs, which are computed in this precision
    bool           bool

Trailing fields with defaults may be missing from a file: it was written before they were added to the class.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from rlaifv.records import Record
from rlaifv.store.atomic import publish

RecordT = TypeVar("RecordT", bound=Record)

SCALAR_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
ELEMENT_TYPES = {str: pa.string(), int: pa.int32(), float: pa.float32()}


def write_shard(path: Path, records: Sequence[RecordT], record_type: type[RecordT]) -> str:
    """Publish `records` as a parquet file; equal records give equal bytes.

    Returns:
        The file's SHA-256 in hex, computed from the bytes in memory, not by reading the file back.

    Raises:
        ValueError: a record is of another class, or a value is not of its field's type.
        OSError: the file cannot be written.
    """
    for row, record in enumerate(records):
        if type(record) is not record_type:
            raise ValueError(f"{path}: record {row} is a {type(record).__name__}, not a {record_type.__name__}.")
    schema = schema_of(record_type)
    hints = get_type_hints(record_type)
    columns = []
    for field in schema:
        values = [getattr(record, field.name) for record in records]
        for row, value in enumerate(values):
            if not _fits(value, hints[field.name]):
                raise ValueError(f"{path}: {field.name!r} of record {row} is {value!r}, which is no {field.type}.")
        try:
            columns.append(pa.array(values, type=field.type))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}: column {field.name!r} cannot be stored as {field.type}: {error}.") from error
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), sink, compression="zstd")
    content = sink.getvalue()
    with publish(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_shard(path: Path, record_type: type[RecordT], digest: str | None = None) -> list[RecordT]:
    """Read what `write_shard` wrote, in the same order.

    Args:
        path: the parquet file.
        record_type: the class of its records; the columns must be exactly its fields, except trailing ones with
            defaults.
        digest: the SHA-256 in hex that the file must have, if known.

    Raises:
        ValueError: the file is missing, truncated or does not match `digest`, or a column is missing, unknown, of
            another type or nullable.
    """
    content = _read_bytes(path, digest)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        _check_schema(path, file.schema_arrow, record_type)
        table = file.read()
        values = [column.to_pylist() for column in table.columns]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a complete parquet file: {error}") from error
    columns = [
        [tuple(value) for value in some] if pa.types.is_list(column.type) else some
        for column, some in zip(table.columns, values, strict=True)
    ]
    return [record_type(*row) for row in zip(*columns, strict=True)]


def verify_shard(path: Path, digest: str) -> None:
    """Check a file against its SHA-256 in hex. Raises ValueError if it is missing or differs."""
    _read_bytes(path, digest)


def schema_of(record_type: type[RecordT]) -> pa.Schema:
    """Return the arrow schema of a record class, as tabulated above."""
    return pa.schema(
        pa.field(name, _arrow_type(hint), nullable=False) for name, hint in get_type_hints(record_type).items()
    )


def _arrow_type(hint: Any) -> pa.DataType:
    if get_origin(hint) is Literal:
        return pa.string()
    if get_origin(hint) is tuple:
        return pa.list_(pa.field("element", ELEMENT_TYPES[get_args(hint)[0]], nullable=False))
    return SCALAR_TYPES[hint]


def _fits(value: Any, hint: Any) -> bool:
    """Return whether `value` is of type `hint`; Arrow alone would truncate 1.5 to an int and split a str."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(element, get_args(hint)[0]) for element in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _read_bytes(path: Path, digest: str | None) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing.") from error
    if digest is not None and (found := hashlib.sha256(content).hexdigest()) != digest:
        raise ValueError(f"{path} was changed or damaged: its SHA-256 is {found}, but {digest} was recorded.")
    return content


def _check_schema(path: Path, found: pa.Schema, record_type: type[RecordT]) -> None:
    expected = schema_of(record_type)
    num_needed = sum(field.default is MISSING for field in fields(record_type))
    if len(found) >= num_needed and found.names == expected.names[: len(found)]:
        expected = pa.schema(list(expected)[: len(found)])
    if found.names != expected.names:
        raise ValueError(
            f"{path} does not hold {record_type.__name__} records: its columns are {', '.join(found.names)}, "
            f"but must be {', '.join(expected.names)}."
        )
    for field, wanted in zip(found, expected, strict=True):
        if not field.equals(wanted):
            raise ValueError(
                f"{path}: column {field.name!r} is {_describe(field)}, but {record_type.__name__} records need "
                f"{_describe(wanted)}."
            )


def _describe(field: pa.Field) -> str:
    return f"{field.type} {'with nulls' if field.nullable else 'without nulls'}"
