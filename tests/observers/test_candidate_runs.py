"""`train.py` with candidates, broken where it stores, measures and chooses: what it chooses, trains on and exports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Steps are so large that the policy soon says little or nothing right: the first iteration's best is not its last.
BEGIN = """
import json, signal, sys
from pathlib import Path
from rlaifv.models.digests import weights_digest
from rlaifv.models.loading import load_model, select_trainable
from rlaifv.models.trained import read_trained, trained_digest
from rlaifv.store.manifest import Manifest
from rlaifv.worlds.shapes_model import WEIGHTS_DIR
from tools.dev import forked_run
from tools.dev.forked_run import Place, fork, wait

settings = ("iteration.selection.per_epoch=2", "data.num_held_out=8", "learner.lr=1e-3")
forked_run.SETTINGS = (*forked_run.SETTINGS, *settings)
directory = Path(sys.argv[1])

def choice(place, iteration):
    return json.loads((place.run_dir / "iterations" / f"{iteration:03d}" / "candidates.json").read_text())

def make(name, num_ranks=1):
    place = Place(directory / name, num_ranks)
    place.directory.mkdir()
    return place

def digest_of(place, iteration):
    (found,) = [c["digest"] for c in choice(place, iteration)["candidates"] if c["step"] == choice(place, iteration)["chosen"]]
    return found

def policy(path):
    return select_trainable(load_model(str(path), dtype="float32")[0], ["projector", "language_model"])
"""

ONE_RANK = """
oracle, place = make("oracle"), make("broken")
assert wait(oracle.start(), 900) == [0]

assert wait(place.start("crash candidates.measure 4"), 900) == [-signal.SIGKILL]  # of the first iteration's second pass
found = sorted(path.stem for path in (place.run_dir / "iterations/000/candidates").glob("*.json"))
assert found == ["start", "step=000003", "step=000006"], found
assert wait(place.start("enospc candidates.store 4"), 900) == [2]  # of the second iteration
assert wait(place.start("crash candidates.choose 1"), 900) == [-signal.SIGKILL]

def look():  # while its weights are still there: what the second iteration's pairs were made by
    chosen = choice(place, 0)["chosen"]
    assert chosen != choice(place, 0)["candidates"][-1]["step"]
    model = policy(WEIGHTS_DIR)
    directory = place.run_dir / "iterations/000/candidates"
    read_trained(model, directory / f"step={chosen:06d}.safetensors", digest_of(place, 0))
    assert weights_digest(model) == Manifest(place.run_dir / "iterations/001").producer["policy"]
    return 0

assert wait([fork(look)], 900) == [0]
assert place.finish(1) == []
assert place.compare(oracle) == []

def look_at_export():
    for run in (oracle, place):
        assert trained_digest(policy(run.run_dir / "export")) == digest_of(run, 1)
        assert not [*run.run_dir.glob("iterations/*/candidates/*.safetensors")]
        assert "of 4 candidates that of epoch" in (run.directory / "output.txt").read_text()
        assert ", chosen</th>" in (run.run_dir / "report/index.html").read_text()
    return 0

assert wait([fork(look_at_export)], 900) == [0]
print("status 0")
"""

TWO_RANKS = """
forked_run.SETTINGS = (*forked_run.SETTINGS[:-1], "learner.lr=1e-4")
oracle, place = make("oracle", 2), make("broken", 2)
assert wait(oracle.start(), 900) == [0, 0]
chosen = [choice(oracle, k)["chosen"] for k in range(2)]
assert len(choice(oracle, 0)["candidates"]) >= 2
statuses = wait(place.start("crash candidates.measure 3", failing_rank=0))
assert statuses[0] == -signal.SIGKILL and statuses[1] not in (0, 124), statuses
assert place.finish(1) == []
assert place.compare(oracle) == []
print("status 0")
"""


def run_script(script: str, directory: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RLAIFV_", "COV_"))}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BEGIN + script, str(directory)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    outputs = "".join(path.read_text() for path in directory.glob("*/output.txt"))
    assert done.returncode == 0, done.stderr + outputs[-5000:]
    return done.stdout


@pytest.mark.timeout(900)
def test_a_broken_run_chooses_trains_and_exports_as_one_that_is_not(tmp_path: Path) -> None:
    """Killed while it measures, out of room for a candidate, and killed at the choice."""
    assert run_script(ONE_RANK, tmp_path).endswith("status 0\n")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_choose_together(tmp_path: Path) -> None:
    """The one that measures is killed, and the one that waits for it ends."""
    assert run_script(TWO_RANKS, tmp_path).endswith("status 0\n")
