"""The sweep of faults: what it chooses and counts, and that it sees a run that does not go on as it should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# A disk breaks after the first shard of answers, under two kinds of code: as it is, and with seeds that depend on how much a
# process has done before, so that a resumed run cannot make the same.
TWO_SWEEPS = """
import itertools
from functools import partial
from tools.dev import fault
import rlaifv.loop

def io_tasks(oracle, stride, seed):
    points = oracle.points()
    number = points.index("loop.responses", points.index("loop.responses") + 1) + 1
    return [("eio", partial(fault.break_io, oracle, way="eio", number=number))]

fault.io_tasks = io_tasks
print("status", fault.main(["--run", "rlaif_v", "--only", "io", "--jobs", "1"]))
rlaifv.loop.derive_seed = lambda *parts, count=itertools.count(): next(count)
print("status", fault.main(["--run", "rlaif_v", "--only", "io", "--jobs", "1"]))
"""

PARTS = """
import signal, sys, time
from pathlib import Path
from tools.dev import fault
from tools.dev.fault import Outcome
from tools.dev.forked_run import Place, fork, wait, wait_or_kill

began = time.monotonic()
assert wait([fork(lambda: 3), fork(lambda: sys.exit(0))]) == [3, 70]
assert wait([fork(lambda: time.sleep(60))], 0.1) == [124]
assert wait_or_kill(fork(lambda: time.sleep(60)), 0.1) == [-signal.SIGKILL]
assert wait_or_kill(fork(lambda: 0), 10) == [0]
assert time.monotonic() - began < 20

place = Place(Path(sys.argv[1]))
assert place.points() == []
points = ["store.write", "loop.responses", "store.append"] * 20
(place.directory / "points.txt").write_text("\\n".join(points) + "\\n")
assert place.work() == {"shards": 20, "steps": 20}
every = {name for name, _ in fault.io_tasks(place, 1, 0)}
assert every == {f"{way}-{n}" for way in ("crash", "eio", "enospc") for n in range(1, 61)}
names = [{name for name, _ in fault.io_tasks(place, 13, seed)} for seed in range(13)]
assert set.union(*names) == every and sum(map(len, names)) == len(every)
assert [name for name, _ in fault.kill_tasks(place, 12, 0, 1.0)] == ["kills-0", "kills-1", "kills-2"]
assert [work.keywords["num_kills"] for _, work in fault.kill_tasks(place, 12, 0, 1.0)] == [5, 5, 2]

for part, length in ((".", 2), ("reward_model", 1)):
    (place.run_dir / part / "journal").mkdir(parents=True)
    (place.run_dir / part / "config.yaml").touch()
    for rank in range(2):
        lines = ['{"iteration": 0, "epoch": 0}'] + ['{"iteration": 0, "epoch": 1}'] * length
        (place.run_dir / part / "journal" / f"rank-{rank:03d}.jsonl").write_text("\\n".join(lines))
assert place.epoch_steps() == 4
assert place.parts() == [Path("."), Path("reward_model")]

fault.Place.finish = lambda self, status: []
fault.Place.compare = lambda self, oracle: []
fresh = Place(place.directory / "fresh")
fresh.directory.mkdir()
for more, bound, passes in (("loop.claims", 1, True), ("loop.claims", 2, False), ("store.append", 5, False)):
    (fresh.directory / "points.txt").write_text("\\n".join(points + [more] * bound))
    outcome = fault._settle(Outcome("fault", "name", 1), fresh, place, -9)
    assert (outcome.problems == []) is passes, outcome
    assert outcome.shards + outcome.steps == bound
fault.console.print(fault.table_of([Outcome("a", *rest, kind="ppo") for rest in (("x", 2, 1), ("y", 3, 0, 4, ["wrong"]))]))
"""


def run_script(script: str, tmp_path: Path, *arguments: str) -> str:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    environment.pop("RLAIFV_FAIL", None)
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_faults_are_chosen_and_counted(tmp_path: Path) -> None:
    """In a process of its own, since it forks."""
    output = run_script(PARTS, tmp_path, str(tmp_path))
    assert re.search(r"^ppo +a +5 +2 +1 shards, 4 steps", output, re.MULTILINE)


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_run_that_cannot_be_repeated_is_seen(tmp_path: Path) -> None:
    output = run_script(TWO_SWEEPS, tmp_path)
    sound, harmed = output.split("status 0")
    assert "1 passed, 0 failed" in sound
    assert re.search(r"broken disk +1 +1 ", sound)
    assert "status 1" in harmed
    assert "0 passed, 1 failed" in harmed
    assert "holds other shards" in harmed
    kept = re.search(r"What they left is in (\S+); --seed 0 repeats them", harmed)
    assert kept
    assert (Path(kept[1]) / "rlaif_v" / "eio" / "run" / "config.yaml").exists()
    assert [path.name for path in tmp_path.glob("rlaifv-fault-*")] == [Path(kept[1]).name]
