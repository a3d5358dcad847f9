"""The run's clock: phases within phases, what a resumed run adds, and damaged files."""

import json
import logging
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rlaifv.runtime import phases
from rlaifv.runtime.phases import kept, measured, read_seconds, save, share_beside, timed


class FakeTime:
    """A clock that goes on only when it is told to."""

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME
    clock_gettime = staticmethod(time.clock_gettime)

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(phases, "time", fake)
    return fake


def test_an_inner_phase_is_not_the_outer_ones(tmp_path: Path, clock: FakeTime) -> None:
    with measured(), kept(tmp_path), timed("train"):
        clock.now += 5
        with suppress(KeyError), timed("checkpoint"):
            clock.now += 10
            raise KeyError
        clock.now += 1
    found = read_seconds(tmp_path / "seconds.json")
    assert (found["train"], found["checkpoint"], found["other"]) == (6, 10, 0)


def test_a_resumed_run_adds_up_and_the_process_started_once(
    tmp_path: Path, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases._Process, "start_is_counted", False)
    with suppress(OSError), measured(), kept(tmp_path), timed("load"):
        clock.now += 3
        raise OSError("no room")
    first = read_seconds(tmp_path / "seconds.json")
    assert first["load"] == 3
    assert first["start"] > 0
    with measured(), kept(tmp_path), timed("load"):
        clock.now += 4
        save()
        assert read_seconds(tmp_path / "seconds.json")["load"] == 7
    assert read_seconds(tmp_path / "seconds.json")["start"] == first["start"]


def test_without_a_clock_or_a_place_nothing_is_written(tmp_path: Path) -> None:
    with timed("load"), kept(tmp_path):
        save()
    with measured(), kept(None), timed("load"):
        save()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[1]", '{"load": "x"}', '{"load": -1}', '{"load": NaN}'])
def test_a_damaged_file_is_named_and_stops_no_run(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "seconds.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"seconds\.json"):
        read_seconds(path)
    with caplog.at_level(logging.WARNING), measured(), kept(tmp_path):
        pass
    assert str(path) in caplog.text
    assert json.loads(path.read_text())["other"] >= 0


def test_the_share_leaves_out_the_start_of_the_process() -> None:
    assert share_beside({"start": 100.0, "train": 3.0, "load": 1.0}) == pytest.approx(0.25)
    assert share_beside({}) == 0
