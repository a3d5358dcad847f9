"""Wall time of a run by phase: one clock per process, and a file that accumulates over resumed runs.

    with measured():                    start the clock, at the start of the process
        with kept(run_dir):             read seconds.json if it exists; write it on `save` and at the end
            with timed("load"): ...     time a phase; time in a nested phase counts for the nested phase only

Seconds are wall time of the first rank. Without a clock, as in tools and tests, `timed` does nothing.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from rlaifv.store.atomic import write_json

SECONDS_NAME = "seconds.json"
# Phases of the method itself, in order; every other phase is overhead.
METHOD = ("generate", "divide", "score", "pair", "reward", "reference", "log-probs", "train", "candidates", "measure")
# From process start until all imports are done; the remaining phases follow in the order of a run.
START = "start"
OTHER = "other"
PHASES = {
    START: "the process starts and imports its libraries",
    "settings": "settings are composed and checked, and the run's needs are estimated",
    "digest": "SHA-256 of weights, and of the files that a run reads",
    "load": "weights are read, and adapters made",
    "data": "prompts are read, images checked, shards verified and committed",
    "check": "a tree is compared with separate sequences",
    "generate": "answers are sampled",
    "divide": "answers are divided into claims",
    "score": "claims and canaries are judged",
    "pair": "pairs are built",
    "reward": "answers are rewarded and compared",
    "reference": "log-probs of the reference are computed",
    "log-probs": "log-probs of the policy that sampled are computed",
    "train": "optimizer steps are made",
    "candidates": "candidates are stored, measured and chosen",
    "measure": "the policy is measured on held-out prompts and benchmarks",
    "checkpoint": "checkpoints are written, verified and read",
    "merge": "adapters are merged into the weights",
    "export": "weights and processor are written for others",
    "report": "the report is written",
    OTHER: "none of these: the trainer's setup, and moving weights to a device and back",
}
# Clock ticks per second of /proc, which records when a process started.
_TICKS = os.sysconf("SC_CLK_TCK")

logger = logging.getLogger(__name__)


class _Clock:
    """Seconds by phase. Running phases form a stack; only the top one accumulates time."""

    def __init__(self, seconds_before: float) -> None:
        self.seconds = {START: seconds_before, OTHER: 0.0}
        self.running = [OTHER]
        self.since = time.perf_counter()
        self.path: Path | None = None

    def count(self) -> None:
        """Add the time since the last call to the running phase."""
        now = time.perf_counter()
        name = self.running[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
        self.since = now


class _Process:
    """Per-process state: the clock, and whether the start of the process has been counted."""

    clock: _Clock | None = None
    start_is_counted = False


@contextmanager
def measured() -> Iterator[None]:
    """Time phases inside the block; the first block in a process counts from the start of the process.

    A block inside another one has a clock of its own, while the other one stands still.
    """
    outer = _Process.clock
    if outer is not None:
        outer.count()
    _Process.clock = _Clock(0.0 if _Process.start_is_counted else seconds_since_start())
    _Process.start_is_counted = True
    try:
        yield
    finally:
        _Process.clock = outer
        if outer is not None:
            outer.since = time.perf_counter()


@contextmanager
def kept(run_dir: Path | None) -> Iterator[None]:
    """Let `save` write the run's seconds, including those of earlier processes, to its directory; also save at the end.

    Args:
        run_dir: the run's directory; None on ranks that do not keep the time.
    """
    clock = _Process.clock
    if clock is None or run_dir is None:
        yield
        return
    clock.path = run_dir / SECONDS_NAME
    for name, taken in _read_earlier(clock.path).items():
        clock.seconds[name] = clock.seconds.get(name, 0.0) + taken
    try:
        yield
    except BaseException:
        with suppress(OSError):  # a failing save must not hide why the run ends
            save()
        raise
    save()


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Count the time inside the block as phase `name`. Also usable as a decorator."""
    clock = _Process.clock
    if clock is None:
        yield
        return
    clock.count()
    depth = len(clock.running)
    clock.running.append(name)
    try:
        yield
    finally:
        clock.count()
        del clock.running[depth:]


def save() -> None:
    """Write the run's seconds so far, if inside `kept`. Raises OSError if the file cannot be written."""
    clock = _Process.clock
    if clock is not None and clock.path is not None:
        clock.count()
        # Not synced: the run does not depend on this file, so losing it in a power loss is acceptable.
        write_json(
            clock.path, {name: round(taken, 3) for name, taken in in_order(clock.seconds).items()}, is_synced=False
        )


def read_seconds(path: Path) -> dict[str, float]:
    """Return the seconds by phase over all processes of a run; empty if there is no file.

    Raises:
        ValueError: the file is damaged or does not hold seconds by phase.
    """
    if not path.exists():
        return {}
    try:
        found = {str(name): float(taken) for name, taken in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or not a file of seconds by phase: {error}.") from error
    if not all(0 <= taken < float("inf") for taken in found.values()):
        raise ValueError(f"{path} holds seconds that are negative or infinite.")
    return found


def in_order(seconds: Mapping[str, float]) -> dict[str, float]:
    """Sort phases in the order of a run, unknown ones last."""
    return {name: seconds[name] for name in dict.fromkeys((*PHASES, *seconds)) if name in seconds}


def share_beside(seconds: Mapping[str, float]) -> float:
    """Return the overhead: the share of time outside the method's phases, not counting the start of the process."""
    total = sum(taken for name, taken in seconds.items() if name != START)
    return 1 - sum(seconds.get(name, 0.0) for name in METHOD) / total if total else 0.0


def seconds_since_start() -> float:
    """Return the seconds since this process was started, to a hundredth."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS)


def _read_earlier(path: Path) -> dict[str, float]:
    try:
        return read_seconds(path)
    except ValueError as error:
        logger.warning("%s The times of the run are counted anew.", error)
        return {}
