"""One run at a time in a directory, and only while there is room."""

import errno
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlaifv.store import run_dir as module
from rlaifv.store.run_dir import LOCK_NAME, DirectoryInUse, locked, require_space

HOLD = """
import sys, time
from pathlib import Path
from rlaifv.store.run_dir import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(directory: Path) -> "subprocess.Popen[str]":
    """Another process that holds the directory."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [sys.executable, "-c", HOLD, str(directory)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_process_is_refused_and_told_who_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Until the first one dies: then its lock is taken over, with a warning."""
    process = hold(tmp_path)
    try:
        message = rf"{tmp_path} is in use by process {process.pid} on {socket.gethostname()}; wait for it"
        with pytest.raises(DirectoryInUse, match=message), locked(tmp_path):
            pass
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
    assert f"{tmp_path} was left locked by process {process.pid}, which is gone" in caplog.text
    assert not (tmp_path / LOCK_NAME).exists()


def test_without_the_lock_both_would_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.fcntl, "flock", lambda *arguments: None)
    with locked(tmp_path), locked(tmp_path):
        pass


def test_it_is_released_also_after_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        pass
    assert caplog.text == ""


def test_what_another_host_left_is_not_taken_over(tmp_path: Path) -> None:
    """Whether its process lives cannot be seen from here."""
    (tmp_path / LOCK_NAME).write_text(json.dumps({"pid": 17, "host": "elsewhere"}))
    message = r"in use by process 17 on elsewhere.*If it has, delete .*\.lock"
    with pytest.raises(DirectoryInUse, match=message), locked(tmp_path):
        pass
    (tmp_path / LOCK_NAME).unlink()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", '{"pid": "x"}', "[]"])
def test_a_lock_that_was_cut_off_by_a_kill_stands_in_nobodys_way(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_NAME).write_text(content)
    with locked(tmp_path):
        pass


def test_a_disk_without_locks_goes_by_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with locked(tmp_path):
        assert (tmp_path / LOCK_NAME).exists()
    assert "has no locks; nothing keeps a second process out" in caplog.text
    (tmp_path / LOCK_NAME).write_text(json.dumps({"pid": os.getppid(), "host": socket.gethostname()}))
    with pytest.raises(DirectoryInUse, match=f"in use by process {os.getppid()}"), locked(tmp_path):
        pass


def test_too_little_room_is_said_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_space(tmp_path / "not" / "made" / "yet", 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1234))
    require_space(tmp_path, 1234)
    with pytest.raises(OSError, match=rf"The disk of {tmp_path} has 1,234 bytes left, fewer than min_free_bytes=2,000"):
        require_space(tmp_path / "checkpoints", 2000)
