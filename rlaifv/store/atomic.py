"""Atomic, durable file writes: the only module that renames or syncs files.

A reader of a published file sees either the old or the new content, never a partial file, even after a crash or power
loss. This takes two syncs: the file is synced before the rename, which could otherwise reach the disk before the data,
and the directory is synced after it, since otherwise the rename itself could be lost.

Every step passes a named failpoint at which `tools/dev/fault.py` can inject a failure.
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
# Number of times each failpoint has matched in this process.
passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Fail here if the environment variable RLAIFV_FAIL asks for it; for tests.

    The variable holds a failure mode, a glob pattern of failpoints, and the count of the match to fail at, as in
    "eio store.* 3". Modes are crash (as by kill -9), eio and enospc (the errors of a broken and a full disk), and sleep
    (for an hour, so that the process can be killed from outside).
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
    """Write a file under a temporary name and move it to `path` when the block ends.

    Yields a hidden path in the same directory, unique to this call, at which the block must create the file. If the
    block or a later step raises, the temporary file is removed and `path` is unchanged, except that the new content may
    remain if the last step, the sync of the directory, fails. A killed process may leave its temporary file behind.

    Args:
        path: destination of the file.
        is_synced: whether the file must survive a power loss. Pass False to skip the syncs when writing many small
            files that are verified before use and can be regenerated.

    Raises:
        OSError: as raised inside (a full disk, a missing directory), with its errno, and naming `path`.
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
        # A failing cleanup must not hide why the write failed.
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str, is_synced: bool = True) -> None:
    """Publish `text` as UTF-8; `is_synced` as for `publish`."""
    with publish(path, is_synced) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any, is_synced: bool = True) -> None:
    """Publish `value` as indented JSON, keys in their given order; `is_synced` as for `publish`.

    Raises:
        ValueError: `value` holds a NaN or an infinity, which JSON cannot represent.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} cannot be written as JSON: {error}.") from error
    write_text(path, text + "\n", is_synced)


def append_line(path: Path, line: str) -> None:
    """Append a line of UTF-8 to a file, creating it if needed; the line is on disk when this returns.

    A crash may leave a partial line, recognizable by its missing line break.
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
    """Create `path` and its missing parents, syncing each so that files published in them are durable."""
    for directory in (*reversed(path.parents), path):
        if not directory.is_dir():
            with _naming(directory):
                failpoint("store.make_directory")
                directory.mkdir(exist_ok=True)
                failpoint("store.sync_directory")
                _sync(directory.parent)


def remove_leftovers(directory: Path, pattern: str = "*") -> None:
    """Delete temporary files left by killed processes in `directory` and below whose target names match `pattern`.

    Call this only when no process is writing such a file: the temporaries of living processes look the same.
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
