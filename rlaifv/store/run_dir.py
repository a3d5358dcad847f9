"""Exclusive use of a run directory, and a check of its free disk space."""

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
# Some cluster file systems do not support locks; there the content of the lock file has to do.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class DirectoryInUse(OSError):
    """Raised when another process is using the run directory."""


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run directory for this process; the lock file inside names the process and its host.

    The operating system releases the lock when the process ends, however it ends. A lock file left by a dead process on
    this host is taken over with a warning; for a process on another host this cannot be determined.

    Raises:
        DirectoryInUse: another process holds the directory, or one on another host may.
        OSError: the lock cannot be written.
    """
    path = run_dir / LOCK_NAME
    descriptor = _open_locked(path)
    try:
        _refuse_other_host(path)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid, host = _holder(path)
            if error.errno in NO_LOCKS and not _lives(pid, host):
                logger.warning("The disk of %s has no locks; nothing keeps a second process out.", path.parent)
                return descriptor
            os.close(descriptor)
            raise DirectoryInUse(
                f"{path.parent} is in use by process {pid} on {host}; wait for it, or stop it, before resuming the run."
            ) from None
        # Between opening and locking, the previous holder may have removed the file.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)


def _refuse_other_host(path: Path) -> None:
    pid, host = _holder(path)
    if pid is None:
        return
    if host != socket.gethostname():
        raise DirectoryInUse(
            f"{path.parent} was in use by process {pid} on {host}, which did not say that it ended. If it has, delete {path}."
        )
    logger.warning("%s was left locked by process %s, which is gone; the run goes on without it.", path.parent, pid)


def _holder(path: Path) -> tuple[int | None, str]:
    """Return the holder's process id and host; the id is None if not recorded (just starting or killed)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return int(content["pid"]), str(content["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, "this host"


def _lives(pid: int | None, host: str) -> bool:
    """Return whether `pid` is a living process of this host other than this one."""
    return pid not in (None, os.getpid()) and host == socket.gethostname() and Path(f"/proc/{pid}").exists()


def require_space(directory: Path, min_free_bytes: int) -> None:
    """Raise OSError if the disk of `directory`, or of its nearest existing parent, has under `min_free_bytes` free."""
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if free < min_free_bytes:
        raise OSError(
            f"The disk of {directory} has {free:,} bytes left, fewer than min_free_bytes={min_free_bytes:,}; nothing is lost. "
            "Make room and resume the run."
        )
