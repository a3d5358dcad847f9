"""Signals ask for an end in order, once; Ctrl-C asked twice ends at once."""

import os
import signal
import threading
import time
from typing import Any

import pytest

from rlaifv.runtime import stopping
from rlaifv.runtime.stopping import Stopped, listen, stop_if_requested, stop_requested, stoppable, wait_until


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_work_goes_on_to_its_next_pause(number: signal.Signals, status: int) -> None:
    before = signal.getsignal(number)
    with stoppable():
        stop_if_requested()
        send(number)
        assert stop_requested()
        with pytest.raises(Stopped) as stopped:
            stop_if_requested()
    assert stopped.value.code == status
    assert signal.getsignal(number) == before
    assert not stop_requested()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_ctrl_c_ends_at_once(first: signal.Signals) -> None:
    with stoppable():
        send(first)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_second_preemption_changes_nothing() -> None:
    with stoppable():
        send(signal.SIGUSR1)
        send(signal.SIGTERM)
        with pytest.raises(Stopped) as stopped:
            stop_if_requested()
    assert stopped.value.asked_by == signal.SIGUSR1


def test_the_first_signal_is_passed_on_to_processes_that_this_one_started() -> None:
    told: list[signal.Signals] = []
    with stoppable():
        listen(pass_on=told.append)
        listen()
        send(signal.SIGTERM)
        send(signal.SIGTERM)
    assert told == [signal.SIGTERM]


def test_signals_are_taken_back_from_whoever_took_them() -> None:
    taken: list[Any] = []
    with stoppable():
        signal.signal(signal.SIGTERM, lambda *arguments: taken.append(arguments))
        listen()
        send(signal.SIGTERM)
        assert stop_requested()
    assert taken == []


def test_outside_a_stoppable_run_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    listen()
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_has_no_signals_to_take() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with stoppable():
                listen()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


def test_a_wait_ends_when_what_it_waits_for_is_there_or_the_run_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "POLL_SECONDS", 0.001)
    ready_at = time.monotonic() + 0.05
    wait_until(lambda: time.monotonic() > ready_at)
    with stoppable():
        send(signal.SIGTERM)
        with pytest.raises(Stopped):
            wait_until(lambda: False)
