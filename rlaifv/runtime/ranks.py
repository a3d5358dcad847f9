"""Ranks: which rank this process is, how many there are, and whether the others are alive."""

import os
import socket
import threading
import time
from pathlib import Path

import torch.distributed as dist

# Environment variables in which launchers set the rank: torchrun, Slurm, and Lightning's own.
RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
# Seconds between checks that the parent process is alive; exit status used once it is gone.
PARENT_SECONDS = 0.5
PARENT_GONE = 1
# Process ids of the other ranks on this host, known after `meet`.
_partners: list[int] = []


def rank() -> int:
    """Return this process's rank, 0 if not distributed; before ranks connect, use the launcher's variables."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(next((os.environ[name] for name in RANK_VARIABLES if os.environ.get(name)), "0"))


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def meet() -> None:
    """Exchange process ids with the other ranks on this host, for `lost_rank`.

    Collective: all ranks must call it together; later calls are free.
    """
    if dist.is_available() and dist.is_initialized() and not _partners:
        everyone: list[tuple[str, int]] = [("", 0)] * world_size()
        dist.all_gather_object(everyone, (socket.gethostname(), os.getpid()))
        _partners.extend(pid for host, pid in everyone if host == socket.gethostname() and pid != os.getpid())


def lost_rank() -> int | None:
    """Return the process id of a dead rank on this host, None if all live; launchers watch other hosts."""
    return next((pid for pid in _partners if not _lives(pid)), None)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def end_with_parent(name: str = "LOCAL_RANK") -> None:
    """If a launcher started this process as an additional rank, exit soon after the launcher is gone.

    The launcher may be killed without notice, and ranks waiting for it would wait forever.
    """
    if os.environ.get(name, "0") == "0":
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(PARENT_GONE)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
