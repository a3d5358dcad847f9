"""Every single step of writing fails, is killed, or loses its power: what is left is old or new, and work goes on from it."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rlaifv
from rlaifv.records import Pair, Prompt
from rlaifv.store import atomic
from rlaifv.store.atomic import (
    FAIL_VARIABLE,
    append_line,
    failpoint,
    make_directory,
    publish,
    remove_leftovers,
    write_text,
)
from rlaifv.store.manifest import Manifest

ROOT = Path(rlaifv.__file__).parents[1]
NUM_SHARDS = {"prompts": 2, "pairs": 1}
# For every file (manifest twice, plans, shards, sidecars) write, sync, rename, sync; for every directory make and sync.
NUM_STEPS = 4 * (2 + 2 + 3 + 3) + 2 * 2

KILLED_AT_EVERY_STEP = """
import os, sys
from pathlib import Path
import pyarrow
sys.path.insert(0, sys.argv[2])
from test_crash import FAIL_VARIABLE, NUM_STEPS, run_iteration
pyarrow.array([""])  # looks for pandas at its first use, which takes time
os.fsync = lambda descriptor: None  # a kill loses nothing that it would have kept
for number in range(1, NUM_STEPS + 2):
    process = os.fork()
    if process == 0:
        os.environ[FAIL_VARIABLE] = f"crash store.* {number}"
        run_iteration(Path(sys.argv[1]) / str(number))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


def run_iteration(run_dir: Path, made: Callable[[str], None] = lambda name: None) -> Manifest:
    """An iteration whose stages take no time; `made` is told of every shard that is made."""
    manifest = Manifest.open(run_dir, 0, {"policy": "sha256:ab"})
    for stage, num_shards in NUM_SHARDS.items():
        manifest.plan(stage, num_shards)
        for shard in manifest.missing(stage):
            made(f"{stage}-{shard}")
            records: dict[str, Any] = {
                "prompts": Prompt(f"p{shard}", "What is shown?", ("/a.png",)),
                "pairs": Pair("0>1", "p0", "0", "1", "A ball.", "A cat.", (5, 2), (6, 2), 0.0, -1.0),
            }
            manifest.put(stage, shard, [records[stage]], {"tie": shard})
    return manifest.commit(1)


def contents(run_dir: Path) -> dict[str, bytes]:
    """All that counts of a run; what hides is none of it."""
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in sorted(run_dir.rglob("[!.]*.*"))}


def is_old_or_new(seen: dict[str, bytes], whole: dict[str, bytes]) -> bool:
    """Whether every file is what it is in the end; the manifest may be the one without a commit."""
    begun = whole.keys() - {name for name in whole if name.endswith("manifest.json")}
    manifests = [json.loads(content) for name, content in seen.items() if name not in begun]
    without_commit = {"committed": False, "stages": {}, "shards": {}}
    final = json.loads(whole["iterations/000/manifest.json"])
    return all(seen[name] == whole[name] for name in seen if name in begun) and all(
        found in (final, final | without_commit) for found in manifests
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run_dir = tmp_path_factory.mktemp("whole")
    run_iteration(run_dir)
    return contents(run_dir)


def test_a_failpoint_does_nothing_unless_it_is_named_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FAIL_VARIABLE, raising=False)
    failpoint("store.sync")
    monkeypatch.setenv(FAIL_VARIABLE, "enospc store.s*[!y] 2")
    failpoint("store.rename")
    failpoint("store.sync")
    with pytest.raises(OSError, match=r"No space left on device \(as RLAIFV_FAIL asks at store\.sync\)") as caught:
        failpoint("store.sync")
    assert caught.value.errno == errno.ENOSPC
    failpoint("store.sync")


def test_a_failpoint_can_wait_for_a_killer(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv(FAIL_VARIABLE, "sleep store.rename 1")
    failpoint("store.rename")
    assert waited == [3600]


@pytest.mark.parametrize("way", ["eio", "enospc"])
def test_a_disk_that_fails_at_any_step_costs_one_shard_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], way: str
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # which takes time
    for number in range(1, NUM_STEPS + 1):
        run_dir = tmp_path / f"{number}"
        run_dir.mkdir()
        made: list[str] = []
        monkeypatch.setenv(FAIL_VARIABLE, f"{way} store.* {number}")
        atomic.passed.clear()
        with pytest.raises(OSError, match=f"Cannot write {run_dir}") as caught:
            run_iteration(run_dir, made.append)
        assert caught.value.errno == getattr(errno, way.upper())
        monkeypatch.delenv(FAIL_VARIABLE)
        assert is_old_or_new(contents(run_dir), whole)
        run_iteration(run_dir, made.append)
        assert contents(run_dir) == whole
        assert len(made) <= sum(NUM_SHARDS.values()) + 1


def test_without_failures_the_steps_are_as_many_as_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAIL_VARIABLE, f"eio store.* {NUM_STEPS + 1}")
    atomic.passed.clear()
    (tmp_path / "run").mkdir()
    run_iteration(tmp_path / "run")
    assert atomic.passed[os.environ[FAIL_VARIABLE]] == NUM_STEPS


def test_a_process_killed_at_any_step_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for number in range(1, NUM_STEPS + 2):
        (tmp_path / str(number)).mkdir()
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["-9"] * NUM_STEPS + ["0"], done.stderr
    for number in range(1, NUM_STEPS + 2):
        run_dir, made = tmp_path / str(number), list[str]()
        seen = contents(run_dir)
        shards = {name for name in seen if name.endswith(".parquet")}
        assert is_old_or_new(seen, whole)
        done_before = {name for name in shards if name.replace(".parquet", ".json") in seen}
        run_iteration(run_dir, made.append)
        assert contents(run_dir) == whole
        assert len(made) == sum(NUM_SHARDS.values()) - len(done_before)
        remove_leftovers(run_dir)
        assert not list(run_dir.rglob(".*"))


class PowerLoss(BaseException):
    """No except clause of the code at work is meant to see it."""


class Disk:
    """Knows what a disk is bound to hold: the bytes of files, and the names in directories, as they were last synced.

    Args:
        root: the directory that it is about.
        loss: at which sync, rename, new directory or removal the power goes.
    """

    def __init__(self, root: Path, loss: int) -> None:
        self.root = root
        self.loss = loss
        self.num_steps = 0
        self.files: dict[int, bytes] = {}
        self.names: dict[int, dict[str, tuple[int, bool]]] = {}

    @contextmanager
    def powered(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patched:
            for name in ("replace", "mkdir", "unlink"):
                patched.setattr(os, name, self._counted(getattr(os, name)))
            patched.setattr(os, "fsync", self._counted(self._fsync))
            yield

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.num_steps += 1
            if self.num_steps >= self.loss:
                raise PowerLoss
            return function(*arguments, **options)

        return call

    def _fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        number = path.stat().st_ino
        if path.is_dir():
            self.names[number] = {child.name: (child.stat().st_ino, child.is_dir()) for child in path.iterdir()}
        else:
            self.files[number] = path.read_bytes()

    def after_power_loss(self, target: Path, early_names: bool) -> None:
        """Write what is left to `target`: of files, the synced bytes; of names, the synced or, if early, all of them."""
        if early_names:
            names = {
                path.stat().st_ino: {child.name: (child.stat().st_ino, child.is_dir()) for child in path.iterdir()}
                for path in (self.root, *(path for path in self.root.rglob("*") if path.is_dir()))
            }
        else:
            names = self.names
        self._write(target, self.root.stat().st_ino, names)

    def _write(self, target: Path, number: int, names: dict[int, dict[str, tuple[int, bool]]]) -> None:
        target.mkdir()
        for name, (child, is_directory) in names.get(number, {}).items():
            if is_directory:
                self._write(target / name, child, names)
            else:
                (target / name).write_bytes(self.files.get(child, b""))


def survives_power_loss(tmp_path: Path, whole: dict[str, bytes], early_names: bool) -> int:
    """Lose the power at every step of an iteration and go on after it; returns the number of steps.

    Asserts that what was said to be done is there, and that the iteration ends as it would have.
    """
    loss, finished = 0, False
    while not finished:
        loss += 1
        run_dir, left = tmp_path / f"{loss}", tmp_path / f"{loss}-left"
        run_dir.mkdir()
        made: list[str] = []
        disk = Disk(run_dir, loss)
        with disk.powered():
            try:
                run_iteration(run_dir, made.append)
                finished = True
            except PowerLoss:
                pass
        disk.after_power_loss(left, early_names)
        if finished:
            assert contents(left) == whole, "what was committed is gone"
        again: list[str] = []
        run_iteration(left, again.append)
        assert contents(left) == whole
        assert len({*made[:-1]} & {*again}) == 0, "what was put is gone"
        shutil.rmtree(run_dir)
        shutil.rmtree(left)
    return loss


@pytest.mark.parametrize("early_names", [False, True])
def test_power_may_go_at_any_step(tmp_path: Path, whole: dict[str, bytes], early_names: bool) -> None:
    assert survives_power_loss(tmp_path, whole, early_names) > 30


@pytest.mark.parametrize(("unsynced", "early_names"), [("files", True), ("directories", False)])
def test_without_either_sync_power_loss_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], unsynced: str, early_names: bool
) -> None:
    sync = atomic._sync

    def sync_some(path: Path) -> None:
        if path.is_dir() != (unsynced == "directories"):
            sync(path)

    monkeypatch.setattr(atomic, "_sync", sync_some)
    with pytest.raises((AssertionError, ValueError)):
        survives_power_loss(tmp_path, whole, early_names)


def test_without_a_temporary_name_a_failure_would_leave_a_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def in_place(path: Path, is_synced: bool = True) -> Iterator[Path]:
        path.write_text("half of the n")
        failpoint("store.write")
        yield path

    path = tmp_path / "a.txt"
    for method in (publish, in_place):
        monkeypatch.setattr(atomic, "publish", method)
        path.write_text("old")
        monkeypatch.setenv(FAIL_VARIABLE, "eio store.write 1")
        atomic.passed.clear()
        with pytest.raises(OSError, match="Input/output error"):
            write_text(path, "new")
        assert (path.read_text() == "old") == (method is publish)


def test_lines_are_added_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    synced: list[str] = []
    monkeypatch.setattr(atomic, "_sync", lambda path: synced.append(path.name))
    append_line(path, "eins")
    append_line(path, "zwei ☂")
    assert path.read_text(encoding="utf-8") == "eins\nzwei ☂\n"
    assert synced == ["journal.jsonl", tmp_path.name, "journal.jsonl"]
    monkeypatch.setenv(FAIL_VARIABLE, "enospc store.append 1")
    atomic.passed.clear()
    with pytest.raises(OSError, match=f"Cannot write {path}: No space left"):
        append_line(path, "drei")
    assert path.read_text(encoding="utf-8") == "eins\nzwei ☂\n"


def test_making_and_removing_pass_failpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    leftover = tmp_path / "below" / ".a.txt.1-00.tmp"
    leftover.touch()
    for point, work in (
        ("store.make_directory", lambda: make_directory(tmp_path / "new")),
        ("store.remove", lambda: remove_leftovers(tmp_path)),
    ):
        monkeypatch.setenv(FAIL_VARIABLE, f"eio {point} 1")
        with pytest.raises(OSError, match=f"asks at {point}"):
            work()
    assert leftover.exists()
    assert not (tmp_path / "new").exists()
    remove_leftovers(tmp_path)
    assert not leftover.exists()
