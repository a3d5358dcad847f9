"""The run's clock: phases within phases, what a resumed run adds, and damaged files."""

import json
import logging
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rlaifv import phases
from rlaifv.phases import kept, measured, read_seconds, save, share_beside, timed


def test_an_inner_phase_is_not_the_outer_ones(tmp_path: Path) -> None:
    with measured(), kept(tmp_path), timed("train"):
        time.sleep(0.05)
        with suppress(KeyError), timed("checkpoint"):
            time.sleep(0.1)
            raise KeyError
    found = read_seconds(tmp_path / "seconds.json")
    assert 0.05 <= found["train"] < 0.1 <= found["checkpoint"] < 0.2
    assert found["other"] < 0.05


def test_a_resumed_run_adds_up_and_the_process_started_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases._Process, "start_is_counted", False)
    with suppress(OSError), measured(), kept(tmp_path), timed("load"):
        time.sleep(0.05)
        raise OSError("no room")
    first = read_seconds(tmp_path / "seconds.json")
    assert first["load"] >= 0.05
    assert first["start"] > 0
    with measured(), kept(tmp_path), timed("load"):
        time.sleep(0.05)
        save()
        assert read_seconds(tmp_path / "seconds.json")["load"] >= first["load"] + 0.049  # rounded to milliseconds
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
