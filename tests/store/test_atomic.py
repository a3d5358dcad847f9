"""Publishing: old or new content, never a part, whatever fails."""

import errno
import math
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rlaifv
from rlaifv.store.atomic import make_directory, publish, remove_leftovers, write_json, write_text

KILLED_IN_BLOCK = """
import os, sys
from pathlib import Path
from rlaifv.store.atomic import publish
with publish(Path(sys.argv[1])) as temporary:
    temporary.write_text("half of the n")
    os._exit(9)
"""


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the disk be full at the given one of the three steps: sync of the file, rename, sync of the directory."""
    calls = []

    def failing(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            calls.append(function)
            if len(calls) == step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            function(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(os, "replace", failing(os.replace))


def break_off(path: Path, error: BaseException, is_synced: bool = True) -> None:
    with publish(path, is_synced) as temporary:
        temporary.write_text("half of the n")
        raise error


def test_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with publish(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".report.html.")
        assert str(os.getpid()) in temporary.name
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["report.html"]


def test_file_is_synced_before_the_rename_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        events.append("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_text(tmp_path / "a.txt", "text")
    assert events == ["sync file", "rename", "sync directory"]


def test_without_syncs_the_file_still_appears_whole_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("nothing is to be synced"))
    path = tmp_path / "scene.png"
    path.write_text("old")
    with pytest.raises(KeyError):
        break_off(path, KeyError(), is_synced=False)
    assert path.read_text() == "old"
    with publish(path, is_synced=False) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["scene.png"]


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", ["old", None])
def test_exception_in_the_block_leaves_the_old_state(tmp_path: Path, error: BaseException, old: str | None) -> None:
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)
    with pytest.raises(type(error)):
        break_off(path, error)
    assert os.listdir(tmp_path) == (["a.txt"] if old else [])
    assert not old or path.read_text() == old


@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_failing_step_leaves_the_old_or_the_new_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, old: str | None
) -> None:
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)
    fail_at(monkeypatch, step)
    with pytest.raises(OSError, match=r"a\.txt: No space left on device") as caught:
        write_text(path, "new")
    assert str(path) in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert isinstance(caught.value.__cause__, OSError)
    visible = "new" if step == 3 else old
    assert os.listdir(tmp_path) == (["a.txt"] if visible else [])
    assert not visible or path.read_text() == visible


def test_error_without_errno_or_of_a_missing_directory_names_the_target(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"a\.txt: page cannot be encoded") as caught, publish(tmp_path / "a.txt"):
        raise OSError("page cannot be encoded")
    assert caught.value.errno == errno.EIO
    with pytest.raises(FileNotFoundError, match=r"absent/a\.txt"):
        write_text(tmp_path / "absent" / "a.txt", "text")


def test_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError, match=r"a\.txt"), publish(path):
        pass
    assert path.read_text() == "old"


def test_failure_to_clear_away_does_not_hide_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(RuntimeError, match="cause"):
        break_off(tmp_path / "a.txt", RuntimeError("cause"))


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with publish(path) as first:
        with publish(path) as second:
            first.write_text("first")
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


def test_killed_writer_leaves_the_old_state_and_a_leftover_that_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("old")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_BLOCK, str(path)], cwd=Path(rlaifv.__file__).parents[1], check=False
    )
    assert killed.returncode == 9
    assert path.read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2
    assert [entry.name for entry in tmp_path.glob("[!.]*")] == ["a.parquet"]
    remove_leftovers(tmp_path, "*.json")
    assert len(os.listdir(tmp_path)) == 2
    remove_leftovers(tmp_path, "*.parquet")
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_text_is_stored_as_given(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Zwei Bälle\r\n球\n")
    assert (tmp_path / "a.txt").read_bytes() == "Zwei Bälle\r\n球\n".encode()


def test_json_is_indented_in_the_order_given(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 0.5], "a": {"é": None, "f": True}})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == (
        '{\n  "b": [\n    1,\n    0.5\n  ],\n  "a": {\n    "é": null,\n    "f": true\n  }\n}\n'
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_word_for_what_is_not_finite(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"a\.json cannot be written as JSON"):
        write_json(path, {"loss": value})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_directory_is_made_and_synced_into_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert synced == [tmp_path.stat().st_ino, (tmp_path / "a").stat().st_ino]
    make_directory(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_directory_cannot_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("file")
    with pytest.raises(FileExistsError, match=f"Cannot write {tmp_path / 'a'}: File exists"):
        make_directory(tmp_path / "a")
