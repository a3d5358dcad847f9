"""Whole files or nothing: the only place that renames or syncs.

Whoever reads a published file, also after a crash or a power loss, finds the old content or the new one, never a part.
Two syncs make it so: one of the file before the rename, which could otherwise reach the disk ahead of the bytes that it
names, and one of the directory after it, without which the rename itself may be lost.
"""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name and let it appear at `path` when the block ends.

    Yields a hidden path in the same directory, unique to this call, at which the block creates the file. If the block
    or what follows it raises, the temporary is removed and `path` is what it was; only a failure of the last step, the
    sync of the directory, can leave the new content there. A killed process may leave its temporary behind.

    Raises:
        OSError: as it was raised inside (a full disk, a missing directory), with its errno, and naming `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with _naming(path):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        # Clearing away must not hide why the write failed.
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Publish `text` as UTF-8."""
    with publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as indented JSON, keys in their given order.

    Raises:
        ValueError: `value` holds a NaN or an infinity, which JSON has no word for.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} cannot be written as JSON: {error}.") from error
    write_text(path, text + "\n")


def make_directory(path: Path) -> None:
    """Create `path` and its parents as durably as what will be published in them. Existing ones stay."""
    for directory in (*reversed(path.parents), path):
        if not directory.is_dir():
            with _naming(directory):
                directory.mkdir(exist_ok=True)
                _sync(directory.parent)


def remove_leftovers(directory: Path, pattern: str) -> None:
    """Delete what killed processes left of unfinished files whose names match the glob `pattern`.

    Only for when nobody writes such a file any more: the temporaries of living processes look the same.
    """
    for leftover in directory.glob(f".{pattern}.*.tmp"):
        leftover.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno or errno.EIO, f"Cannot write {path}: {error.strerror or error}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
