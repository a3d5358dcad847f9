"""Ranks: this process's rank, their number, and whether the others are alive."""

import os
import socket
import threading
import time
from pathlib import Path

import torch.distributed as dist

# Where launchers say which rank a process is: torchrun, Slurm, and Lightning's own.
RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
# How often a rank looks for the process that started it, and its status where that is gone.
PARENT_SECONDS = 0.5
PARENT_GONE = 1
# Processes of the other ranks on this host, once all have met.
_partners: list[int] = []


def rank() -> int:
    """Return this process's rank; 0 without distribution. Before the ranks have met, the launcher's variables tell it."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(next((os.environ[name] for name in RANK_VARIABLES if os.environ.get(name)), "0"))


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def meet() -> None:
    """Exchange the process ids of this host's ranks, for `lost_rank`.

    All ranks call it together; later calls are free.
    """
    if dist.is_available() and dist.is_initialized() and not _partners:
        everyone: list[tuple[str, int]] = [("", 0)] * world_size()
        dist.all_gather_object(everyone, (socket.gethostname(), os.getpid()))
        _partners.extend(pid for host, pid in everyone if host == socket.gethostname() and pid != os.getpid())


def lost_rank() -> int | None:
    """The process of a rank of this host that is gone, None while all are there. Of other hosts, their launcher knows."""
    return next((pid for pid in _partners if not _lives(pid)), None)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def end_with_parent(name: str = "LOCAL_RANK") -> None:
    """End this process soon after the launcher that started it for a rank is gone.

    A killed launcher tells nobody, and its ranks would wait forever.
    """
    if os.environ.get(name, "0") == "0":
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(PARENT_GONE)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
