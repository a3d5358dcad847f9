"""Lock a run's directory, and check its free disk space."""

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
# Some file systems of clusters know none; what is written in the file has to do there.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class DirectoryInUse(OSError):
    """Another process works in the run directory."""


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Lock a directory for this process; the lock file names process and host.

    The system releases the lock when the process ends. The lock of a dead process is taken over with a warning if it was on
    this host; other hosts' processes cannot be checked.

    Raises:
        DirectoryInUse: another process holds it, or one on another host may.
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
        # Between opening and locking, the one who held it may have removed the file.
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
    """Return process and host; None if the file is empty because its process is starting or was killed then."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return int(content["pid"]), str(content["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, "this host"


def _lives(pid: int | None, host: str) -> bool:
    """Return whether another process of this host is alive."""
    return pid not in (None, os.getpid()) and host == socket.gethostname() and Path(f"/proc/{pid}").exists()


def require_space(directory: Path, min_free_bytes: int) -> None:
    """Raise OSError if the disk of a directory (or of its nearest existing parent) has too little free space."""
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if free < min_free_bytes:
        raise OSError(
            f"The disk of {directory} has {free:,} bytes left, fewer than min_free_bytes={min_free_bytes:,}; nothing is lost. "
            "Make room and resume the run."
        )
