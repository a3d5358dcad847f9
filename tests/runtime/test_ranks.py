"""Two processes that train together: what kills one ends both, and how many there were does not show in the pairs."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest

from rlaifv.runtime import ranks
from rlaifv.runtime.ranks import end_with_parent, rank
from rlaifv.runtime.stopping import RankLost, wait_until
from tests.data.preferences import RED

ROOT = Path(__file__).parents[2]
SMALL = (
    "iteration.num_iterations=1",
    "iteration.epochs=8",
    "iteration.num_prompts=16",
    "iteration.shard_prompts=2",
    "iteration.min_pairs=1",
    "iteration.decoding.max_new_tokens=60",
    "iteration.pairing.max_pairs_per_prompt=1",
    "data.num_held_out=0",
)
SHORT = (*SMALL, "iteration.epochs=1", "iteration.pairing.max_pairs_per_prompt=2", "iteration.num_responses=4")
TWO_RANKS = ("trainer.devices=2", "trainer.strategy=ddp", "learner.batch_size=4")
# What ends a rank whose partner is gone looks every five seconds; the rest is for a machine that is busy.
TIMEOUT_SECONDS = 30
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts train.py in a session of its own, whatever of which is left is killed in the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> "subprocess.Popen[str]":
        hidden = ("RANK", "LOCAL_RANK", "SLURM_", "MASTER_", "WORLD_SIZE", "NODE_RANK", "RLAIFV_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (tmp_path / f"output-{len(started)}").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *arguments],
                cwd=tmp_path,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


def wait_for(is_true: Callable[[], object], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def other_rank(process: "subprocess.Popen[str]") -> int:
    """The process that the first rank started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    (pid,) = [
        int(pid) for pid in children.read_text().split() if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return pid


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def pairs_of(run_dir: Path) -> dict[str, bytes]:
    """Content of the shards of the first iteration, without those that name pictures by where they lie."""
    shards = (run_dir / "iterations" / "000").glob("*.parquet")
    return {shard.name: shard.read_bytes() for shard in shards if not shard.name.startswith("prompts")}


def losses_of(run_dir: Path) -> list[list[tuple[list[str], float]]]:
    """Of every rank: the pairs of each batch, and their mean loss."""
    journals = sorted((run_dir / "journal").glob("rank-*.jsonl"))
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in journals]
    return [[(line["pairs"], line["loss"]) for line in of_rank] for of_rank in lines]


def test_two_ranks_train_on_rows_of_text_alone(start: Start, tmp_path: Path) -> None:
    """Each waits for the other's gradients, also of what only images reach."""
    rows = [
        {"prompt": f"What is {k}?", "chosen": "There is a red ring.", "rejected": "There is a blue star.", "images": []}
        for k in range(12)
    ]
    for row in rows[::3]:
        row["images"] = ["red.png"]
    (tmp_path / "red.png").write_bytes(RED)
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ("run=train", "data=trl", "data.path=pairs.jsonl", "iteration.num_prompts=null", "learner.lr=1e-4")
    process = start("run_dir=two", *SMALL, *given, "iteration.epochs=2", *TWO_RANKS, "learner.batch_size=1")
    assert process.wait(200) == 0, (tmp_path / "output-0").read_text()
    assert sum(len(pairs) for of_rank in losses_of(tmp_path / "two") for pairs, _ in of_rank) == 24


def test_two_ranks_do_what_one_does(start: Start, tmp_path: Path) -> None:
    """One of two is killed and the other ends; resumed, they make the pairs and learn from them as one process does."""
    process = start("run_dir=two", *SHORT, *TWO_RANKS, "learner.batch_size=2")
    wait_for(lambda: list((tmp_path / "two" / "iterations" / "000").glob("responses-*.json")))
    os.kill(other_rank(process), signal.SIGKILL)
    assert process.wait(TIMEOUT_SECONDS) != 0
    assert start("resume=two").wait(200) == 0, (tmp_path / "output-1").read_text()
    assert start("run_dir=one", *SHORT, "learner.batch_size=4").wait(200) == 0, (tmp_path / "output-2").read_text()
    assert len(pairs_of(tmp_path / "one")) > 8
    assert pairs_of(tmp_path / "two") == pairs_of(tmp_path / "one")
    first, second = losses_of(tmp_path / "two")
    (alone,) = losses_of(tmp_path / "one")
    whole = [step for step in zip(first, second, alone, strict=False) if len(step[0][0]) == len(step[1][0]) == 2]
    assert len(whole) > 1
    for (mine, loss), (theirs, other_loss), (together, both) in whole:
        assert mine + theirs == together
        assert (loss + other_loss) / 2 == pytest.approx(both, abs=1e-5)
    assert abs(whole[-1][2][1] - math.log(2)) > 1e-3


@pytest.mark.slow
def test_ranks_live_and_die_together(start: Start, tmp_path: Path) -> None:
    """Killed in generation, preempted in training, the first one killed in training, and ended by one rank alone."""
    iteration = tmp_path / "two" / "iterations" / "000"
    process = start("run_dir=two", *SMALL, *TWO_RANKS)
    wait_for(lambda: list(iteration.glob("responses-*.json")))
    os.kill(other_rank(process), signal.SIGKILL)
    assert process.wait(TIMEOUT_SECONDS) != 0

    process = start("resume=two")
    wait_for(lambda: list((tmp_path / "two" / "checkpoints").glob("*.ckpt")))
    other = other_rank(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT_SECONDS) == 143
    wait_for(lambda: is_gone(other), TIMEOUT_SECONDS)

    process = start("resume=two")
    newest = max(path.name for path in (tmp_path / "two" / "checkpoints").glob("*.ckpt"))
    wait_for(lambda: max(path.name for path in (tmp_path / "two" / "checkpoints").glob("*.ckpt")) > newest)
    other = other_rank(process)
    process.kill()
    wait_for(lambda: is_gone(other), TIMEOUT_SECONDS)

    process = start("resume=two", "trainer.devices=1")
    assert process.wait(200) == 0, (tmp_path / "output-3").read_text()
    assert "trainer.devices was 2 and is now 1" in " ".join((tmp_path / "output-3").read_text().split())

    process = start("run_dir=one", *SMALL, "learner.batch_size=8")
    assert process.wait(200) == 0
    assert len(pairs_of(tmp_path / "one")) > 20
    assert pairs_of(tmp_path / "two") == pairs_of(tmp_path / "one")


@pytest.mark.slow
def test_a_refusal_of_the_first_rank_ends_the_other(start: Start, tmp_path: Path) -> None:
    process = start("run_dir=run", *SMALL, *TWO_RANKS, "iteration.min_pairs=1000")
    wait_for(lambda: list((tmp_path / "run" / "iterations" / "000").glob("responses-*.json")))
    other = other_rank(process)
    assert process.wait(100) == 2
    output = (tmp_path / "output-0").read_text()
    assert output.count("fewer than min_pairs=1000") == 1
    assert "Traceback" not in output
    wait_for(lambda: is_gone(other), TIMEOUT_SECONDS)


def test_a_rank_is_known_before_the_ranks_have_met(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert rank() == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank() == 1
    monkeypatch.setenv("RANK", "5")
    assert rank() == 5


@pytest.mark.parametrize("is_killed", [True, False])
def test_nobody_waits_for_a_rank_that_is_gone(monkeypatch: pytest.MonkeyPatch, is_killed: bool) -> None:
    """Whoever started it, and also where nobody has asked for its status yet; a living one is waited for."""
    partner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(ranks, "_partners", [partner.pid])
    polls = 0

    def is_done() -> bool:
        nonlocal polls
        polls += 1
        if polls == 2 and is_killed:
            partner.kill()
        return polls > 50

    monkeypatch.setattr("rlaifv.runtime.stopping.POLL_SECONDS", 0.05)
    try:
        if is_killed:
            with pytest.raises(RankLost, match=f"Process {partner.pid}, another rank of this run, is gone"):
                wait_until(is_done)
            assert polls < 20
        else:
            wait_until(is_done)
    finally:
        partner.kill()
        partner.wait()


def test_what_a_rank_did_last_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have ended well right after its part."""
    partner = subprocess.Popen([sys.executable, "-c", ""])
    partner.wait()
    monkeypatch.setattr(ranks, "_partners", [partner.pid])
    answers = chain([False], repeat(True))
    wait_until(lambda: next(answers))


def test_the_first_rank_watches_no_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may outlive the shell that started it."""
    monkeypatch.setattr("rlaifv.runtime.ranks.threading.Thread", pytest.fail)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    end_with_parent()
    monkeypatch.setenv("LOCAL_RANK", "0")
    end_with_parent()


@pytest.mark.parametrize("is_watching", [True, False])
def test_another_rank_ends_with_its_parent(tmp_path: Path, is_watching: bool) -> None:
    """Also where it waits for others, and nothing else would tell it; without the watch it stays."""
    child = "import time; from rlaifv.runtime.ranks import end_with_parent; " + is_watching * "end_with_parent(); "
    child += "open('ready', 'w').close(); time.sleep(60)"
    parent = (
        f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.DEVNULL); "
        "print(p.pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "LOCAL_RANK": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", parent], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    try:
        wait_for((tmp_path / "ready").exists, 60)
        process.kill()
        process.communicate()
        if is_watching:
            wait_for(lambda: is_gone(pid), TIMEOUT_SECONDS)
        else:
            time.sleep(2)
            assert not is_gone(pid)
    finally:
        if not is_gone(pid):
            os.kill(pid, signal.SIGKILL)
