"""Graceful stopping: a signal requests a stop, and work ends at the next safe point, between two shards or steps.

SIGTERM, SIGUSR1   preemption by a cluster; the run exits with status 143
SIGINT             Ctrl-C; status 130. A second one ends the run at once.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rlaifv.runtime.ranks import lost_rank, rank

STATUS = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}
POLL_SECONDS = 0.2


class Stopped(SystemExit):
    """Raised when a signal ended the run early; all finished work is on disk."""

    def __init__(self, asked_by: signal.Signals) -> None:
        super().__init__(STATUS[asked_by])
        self.asked_by = asked_by


class RankLost(OSError):
    """Raised when another rank ended before finishing its part."""


class _Requests:
    """Stop requests of this process; one instance, since signals are per process."""

    listening = False
    asked_by: signal.Signals | None = None
    pass_on: Callable[[signal.Signals], None] | None = None


@contextmanager
def stoppable() -> Iterator[None]:
    """Handle stop signals gracefully inside the block; restore the previous handlers afterwards."""
    before = {number: signal.getsignal(number) for number in STATUS}
    _Requests.listening, _Requests.asked_by, _Requests.pass_on = True, None, None
    listen()
    try:
        yield
    finally:
        _Requests.listening, _Requests.asked_by, _Requests.pass_on = False, None, None
        for number, handler in before.items():
            _handle(number, handler)


def listen(pass_on: Callable[[signal.Signals], None] | None = None) -> None:
    """Reinstall our signal handlers, if inside `stoppable`; a trainer replaces them with its own.

    Args:
        pass_on: called with the first signal, to forward it to child processes.
    """
    if _Requests.listening:
        _Requests.pass_on = pass_on or _Requests.pass_on
        for number in STATUS:
            _handle(number, _on_signal)


def _handle(number: signal.Signals, handler: object) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)  # type: ignore[arg-type]


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _Requests.asked_by is None:
        _Requests.asked_by = signal.Signals(number)
        if _Requests.pass_on is not None:
            _Requests.pass_on(_Requests.asked_by)
        # Do not use the console: the signal may have interrupted it while it held its lock.
        os.write(2, f"\n{_Requests.asked_by.name}: finishing what is in work, then stopping.\n".encode())
    elif number == signal.SIGINT and rank() == 0:  # a terminal signals every rank, and rank 0 forwards it again
        raise KeyboardInterrupt


def stop_requested() -> bool:
    """Return whether a signal asked this process to stop."""
    return _Requests.asked_by is not None


def stop_if_requested() -> None:
    """Raise Stopped if a stop was requested; call between two units of work."""
    if _Requests.asked_by is not None:
        raise Stopped(_Requests.asked_by)


def stop(number: signal.Signals = signal.SIGTERM) -> Stopped:
    """Return the exception to raise when the stop request may have reached only another rank."""
    return Stopped(_Requests.asked_by or number)


def wait_until(is_done: Callable[[], bool]) -> None:
    """Poll until another rank has done its part. Raises Stopped, or RankLost if that rank is gone."""
    while not is_done():
        stop_if_requested()
        lost = lost_rank()
        if lost is not None and not is_done():  # it may have finished its part just before it ended
            raise RankLost(
                f"Process {lost}, another rank of this run, is gone; nothing is lost, and the run can be resumed."
            )
        time.sleep(POLL_SECONDS)


def or_stop(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Wrap a progress callback so that it raises Stopped when a signal asks to stop."""

    def advance_or_stop(num_finished: int) -> None:
        stop_if_requested()
        advance(num_finished)

    return advance_or_stop
