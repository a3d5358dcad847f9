"""Write files atomically. This is the only module that renames or syncs.

A reader of a published file finds the old content or the new one, never a part, also after a crash or a power loss. Two syncs
ensure it: one of the file before the rename, so that the rename cannot reach the disk before the content, and one of the
directory after it, so that the rename is not lost.

Every step passes a point at which `tools/dev/fault.py` can let it fail.
"""

import errno
import json
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

FAIL_VARIABLE = "RLAIFV_FAIL"
# How often each instruction has matched in this process.
passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Fail here if the environment variable RLAIFV_FAIL asks for it; for tests.

    It holds how to fail, a pattern of points, and at which passing of one: "eio store.* 3". The ways are crash (as by
    kill -9), eio and enospc (the error of a broken and of a full disk), and sleep (an hour, for whoever kills from outside).
    """
    instruction = os.environ.get(FAIL_VARIABLE)
    if instruction is None:
        return
    way, pattern, number = instruction.split()
    if not fnmatchcase(name, pattern):
        return
    passed[instruction] += 1
    if passed[instruction] != int(number):
        return
    if way == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "sleep":
        time.sleep(3600)
        return
    code = getattr(errno, way.upper())
    raise OSError(code, f"{os.strerror(code)} (as {FAIL_VARIABLE} asks at {name})")


@contextmanager
def publish(path: Path, is_synced: bool = True) -> Iterator[Path]:
    """Write a file under a temporary name and let it appear at `path` when the block ends.

    Yields a hidden path in the same directory, unique to this call, at which the block creates the file. If the block
    or what follows it raises, the temporary is removed and `path` is what it was; only a failure of the last step, the
    sync of the directory, can leave the new content there. A killed process may leave its temporary behind.

    Args:
        path: of the file.
        is_synced: whether it is to outlive a loss of power too. False saves the syncs, of many small files for one, where
            whoever reads them compares them first and can make them again.

    Raises:
        OSError: as it was raised inside (a full disk, a missing directory), with its errno, and naming `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with _naming(path):
            failpoint("store.write")
            yield temporary
            if is_synced:
                failpoint("store.sync")
                _sync(temporary)
            failpoint("store.rename")
            os.replace(temporary, path)
            if is_synced:
                failpoint("store.sync_directory")
                _sync(path.parent)
    finally:
        # Clearing away must not hide why the write failed.
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str, is_synced: bool = True) -> None:
    """Publish `text` as UTF-8; `is_synced` as for `publish`."""
    with publish(path, is_synced) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any, is_synced: bool = True) -> None:
    """Publish `value` as indented JSON, keys in their given order; `is_synced` as for `publish`.

    Raises:
        ValueError: `value` holds a NaN or an infinity, which JSON has no word for.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} cannot be written as JSON: {error}.") from error
    write_text(path, text + "\n", is_synced)


def append_line(path: Path, line: str) -> None:
    """Add a line of UTF-8 to a file, which is made if need be; it is on the disk when this returns.

    A crash may leave a part of the line, which has no line break then.
    """
    with _naming(path):
        failpoint("store.append")
        is_new = not path.exists()
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line + "\n")
        failpoint("store.sync")
        _sync(path)
        if is_new:
            _sync(path.parent)


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents, synced to disk."""
    for directory in (*reversed(path.parents), path):
        if not directory.is_dir():
            with _naming(directory):
                failpoint("store.make_directory")
                directory.mkdir(exist_ok=True)
                failpoint("store.sync_directory")
                _sync(directory.parent)


def remove_leftovers(directory: Path, pattern: str = "*") -> None:
    """Delete unfinished files that killed processes left in a directory and below, if their names match the glob `pattern`.

    Call it only when nobody writes such files: temporary files of living processes look the same.
    """
    for leftover in directory.rglob(f".{pattern}.*.tmp"):
        failpoint("store.remove")
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
