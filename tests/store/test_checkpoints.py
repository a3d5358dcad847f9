"""Checkpoints are believed while they are what was written, and never otherwise."""

import errno
import json
import logging
from pathlib import Path
from typing import IO, Any

import pytest

from rlaifv.store import atomic, checkpoints
from rlaifv.store.checkpoints import (
    checkpoint_path,
    digest_path,
    keep_newest,
    list_checkpoints,
    newest_checkpoint,
    seal_directory,
    verify_checkpoint,
    write_checkpoint,
)


def content(step: int) -> bytes:
    return f"after {step} steps, ".encode() * 100


def save(directory: Path, step: int) -> Path:
    path = checkpoint_path(directory, step)

    def write(file: IO[bytes]) -> None:
        file.write(content(step)[:10])
        file.write(content(step)[10:])

    write_checkpoint(path, write)
    return path


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """An earlier and a later checkpoint."""
    return save(tmp_path, 9), save(tmp_path, 12)


def test_the_newest_by_steps_is_taken(two: tuple[Path, Path], tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == two[1]
    assert list_checkpoints(tmp_path) == [two[1], two[0]]
    assert two[1].read_bytes() == content(12)
    two[0].touch()  # no clock decides
    assert newest_checkpoint(tmp_path) == two[1]
    save(tmp_path, 1_000_000)
    assert newest_checkpoint(tmp_path) == tmp_path / "step=1000000.ckpt"


def test_no_checkpoint_was_ever_written(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nowhere") is None
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_torn_one_is_named_and_the_one_before_is_taken(
    two: tuple[Path, Path], tmp_path: Path, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    two[1].write_bytes(content(12)[: int(share * len(content(12)))])
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path) == two[0]
    (record,) = caplog.records
    assert f"{two[1]} is damaged: its SHA-256 is " in record.getMessage()


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_one_flipped_bit_is_seen(two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_a_bit(two[1])
    assert newest_checkpoint(tmp_path) == two[0]
    monkeypatch.setattr(checkpoints, "verify_checkpoint", lambda path: None)
    assert newest_checkpoint(tmp_path) == two[1], "without the digest the damaged one would have been taken"


def test_where_none_can_be_believed_nothing_starts_anew(two: tuple[Path, Path], tmp_path: Path) -> None:
    flip_a_bit(two[0])
    two[1].write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"None of the 2 checkpoints in .* is what was written, the newest of them step=000012"
    ):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}"])
def test_a_digest_that_is_missing_or_damaged_vouches_for_nothing(
    two: tuple[Path, Path], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    digest_path(two[1]).write_text(damage)
    if not damage:
        digest_path(two[1]).unlink()
    assert newest_checkpoint(tmp_path) == two[0]
    assert two[1].name in caplog.text
    with pytest.raises(ValueError, match="step=000012"):
        verify_checkpoint(two[1])


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("when", ["serialising", "before the rename", "after the rename"])
def test_a_kill_while_saving_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """And what it leaves lying about is ignored, and gone with the next save."""
    earlier = save(tmp_path, 9)

    def write(file: IO[bytes]) -> None:
        file.write(b"half of it")
        if when == "serialising":
            raise Killed

    def replace(source: Path, target: Path) -> None:
        if when == "after the rename" or not str(target).endswith(".ckpt"):
            real(source, target)
        if str(target).endswith(".ckpt"):
            raise Killed

    real = atomic.os.replace
    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "replace", replace)
        patched.setattr(Path, "unlink", lambda *arguments, **options: None)  # a killed process clears nothing away
        with pytest.raises(Killed):
            write_checkpoint(checkpoint_path(tmp_path, 12), write)
    expected = checkpoint_path(tmp_path, 12) if when == "after the rename" else earlier
    assert newest_checkpoint(tmp_path) == expected
    later = save(tmp_path, 15)
    assert not list(tmp_path.glob(".*"))
    assert newest_checkpoint(tmp_path) == later


def test_a_kill_in_the_very_first_save_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest without its file is nothing, so a run that never had a checkpoint begins again."""

    def write(file: IO[bytes]) -> None:
        file.write(b"half")

    real = atomic.os.replace
    with monkeypatch.context() as patched:
        patched.setattr(
            atomic.os, "replace", lambda a, b: real(a, b) if str(b).endswith(".json") else (_ for _ in ()).throw(Killed)
        )
        with pytest.raises(Killed):
            write_checkpoint(checkpoint_path(tmp_path, 3), write)
    assert [path.name for path in tmp_path.iterdir()] == ["step=000003.ckpt.json"]
    assert newest_checkpoint(tmp_path) is None


def test_a_full_disk_leaves_the_one_before(tmp_path: Path) -> None:
    earlier = save(tmp_path, 9)

    def write(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"Cannot write .*step=000012.ckpt: No space left on device"):
        write_checkpoint(checkpoint_path(tmp_path, 12), write)
    assert newest_checkpoint(tmp_path) == earlier
    assert sorted(path.name for path in tmp_path.iterdir()) == [earlier.name, f"{earlier.name}.json"]


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (3, 6, 9, 12):
        keep_newest(tmp_path, save(tmp_path, step), 2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step=000012.ckpt", "step=000009.ckpt"]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_future_that_was_given_up_does_not_push_out_what_is_good(tmp_path: Path) -> None:
    """Training went back to step 6, as 12 was damaged, and stopped at step 8."""
    for step in (6, 12, 8):
        save(tmp_path, step)
    keep_newest(tmp_path, checkpoint_path(tmp_path, 8), 2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step=000008.ckpt", "step=000006.ckpt"]


def test_a_kill_while_removing_leaves_a_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (3, 6, 9):
        save(tmp_path, step)
    unlinked: list[Path] = []

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if unlinked:
            raise Killed
        unlinked.append(path)
        path.rename(path.with_suffix(".gone"))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        with pytest.raises(Killed):
            keep_newest(tmp_path, checkpoint_path(tmp_path, 9), 2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step=000009.ckpt", "step=000006.ckpt"]
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 9)


def sharded(directory: Path, step: int) -> Path:
    path = checkpoint_path(directory, step)
    (path / "checkpoint").mkdir(parents=True)
    for rank in range(2):
        (path / "checkpoint" / f"rank_{rank}.pt").write_bytes(content(step))
    return path


def test_a_directory_counts_once_it_is_sealed(tmp_path: Path) -> None:
    earlier, path = save(tmp_path, 3), sharded(tmp_path, 6)
    assert newest_checkpoint(tmp_path) == earlier
    seal_directory(path)
    assert newest_checkpoint(tmp_path) == path
    flip_a_bit(path / "checkpoint" / "rank_1.pt")
    assert newest_checkpoint(tmp_path) == earlier
    keep_newest(tmp_path, save(tmp_path, 9), 1)
    assert [found.name for found in tmp_path.glob("*.ckpt")] == ["step=000009.ckpt"]


def test_other_files_are_not_believed_and_not_removed(tmp_path: Path, two: tuple[Path, Path]) -> None:
    foreign = tmp_path / "last.ckpt"
    foreign.write_bytes(b"from elsewhere")
    assert newest_checkpoint(tmp_path) == two[1]
    keep_newest(tmp_path, two[1], 1)
    assert foreign.exists()
    for path in two:
        path.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="None of the 1 checkpoints"):
        newest_checkpoint(tmp_path)


def test_the_digest_is_of_what_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that loses bytes is noticed, since the digest does not come from reading them back."""
    real: Any = checkpoints._HashingFile.write

    def lossy(self: Any, content: bytes) -> int:
        real(self, content)
        self.file.seek(-1, 1)
        return self.file.truncate()

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints._HashingFile, "write", lossy)
        path = save(tmp_path, 3)
    with pytest.raises(ValueError, match="is damaged"):
        verify_checkpoint(path)
    assert json.loads(digest_path(path).read_text()).keys() == {"sha256"}
