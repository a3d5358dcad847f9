"""Runs of train.py in processes forked from this one, which has imported everything: imports take longer than small runs."""

import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

import rlaifv.loop
import rlaifv.observers.candidates
import rlaifv.report.page  # once, instead of at the end of every run
from rlaifv.store import atomic
from tools.dev.run_check import check_pairs, check_run

TRAIN = Path(__file__).parents[2] / "train.py"
SETTINGS = (
    "iteration.num_iterations=2",
    "iteration.num_prompts=8",
    "iteration.num_responses=4",
    "iteration.shard_prompts=4",
    "iteration.epochs=2",
    "iteration.min_pairs=2",
    "iteration.decoding.max_new_tokens=60",
    "iteration.pairing.length_balance=false",
    "learner.batch_size=4",
    "data.num_held_out=2",
)
TWO_RANKS = ("trainer.devices=2", "++trainer.strategy=ddp")
SHARD_POINTS = tuple(f"loop.{stage}" for stage in ("responses", "claims", "judgements", "pairs"))
STEP_POINT = "store.append"
HANG_SECONDS = 120


@dataclass(frozen=True)
class Place:
    """A directory for a run, its output and the points that it passed."""

    directory: Path
    num_ranks: int = 1
    was_two: bool = False

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    def points(self) -> list[str]:
        """In the order of passing; of two ranks, mixed."""
        path = self.directory / "points.txt"
        return path.read_text().split() if path.exists() else []

    def work(self) -> Counter[str]:
        """Return shards and steps that were begun, those that were begun again included."""
        points = Counter(self.points())
        return Counter(shards=sum(points[name] for name in SHARD_POINTS), steps=points[STEP_POINT])

    def epoch_steps(self) -> int:
        """Return the most steps of an epoch, which is what lies between two checkpoints; those of all ranks together."""
        entries = [
            json.loads(line) for path in self.run_dir.glob("journal/*") for line in path.read_text().splitlines()
        ]
        return max(Counter((entry["iteration"], entry["epoch"]) for entry in entries).values())

    def start(self, fail: str | None = None, failing_rank: int = 0) -> list[int]:
        """Begin or resume the run; returns the process of every rank."""
        arguments = ["run_dir=run", *SETTINGS, *(TWO_RANKS if self.num_ranks > 1 else ())]
        if (self.run_dir / "config.yaml").exists():
            arguments = ["resume=run", *(("trainer.devices=1",) if self.was_two else ())]
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0", "WORLD_SIZE": "2"}
        processes = []
        for rank in range(self.num_ranks):
            environment = {**group, "LOCAL_RANK": str(rank)} if self.num_ranks > 1 else {}
            if fail is not None and rank == failing_rank:
                environment[atomic.FAIL_VARIABLE] = fail
            processes.append(fork(partial(run_train, self.directory, arguments, environment)))
        return processes

    def finish(self, status: int | None = None) -> list[str]:
        """Resume until the run ends well. Returns what is wrong if it never does."""
        for _ in range(4):
            if status == 0:
                return []
            status = max(wait(self.start()), key=abs)
        return [f"{self.run_dir} ends with status {status} however often it is resumed; see output.txt beside it."]

    def compare(self, oracle: "Place") -> list[str]:
        """Return what differs from the uninterrupted run. In a process of its own, as threads would not outlive a fork."""
        found = self.directory / "problems.txt"
        # One rank trains in another order than two, so only what both generate with the first policy is the same.
        check = check_pairs if self.was_two else check_run

        def look() -> int:
            found.write_text("\n".join(check(self.run_dir, oracle.run_dir)))
            return 0

        if wait([fork(look)]) != [0]:
            return [f"{self.run_dir} could not be checked."]
        return found.read_text().splitlines()


def fork(work: Callable[[], int]) -> int:
    """Do work in a copy of this process, which ends with the status that it returns. Returns the copy's id."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        status = 70
        try:
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return process


def wait(processes: Sequence[int], seconds: float = HANG_SECONDS) -> list[int]:
    """Return the exit statuses, negative for a signal. What does not end in time is killed and has status 124."""
    deadline = time.monotonic() + seconds
    statuses = {}
    for process in processes:
        while process not in statuses:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                statuses[process] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                kill(process)
                statuses[process] = 124
            else:
                time.sleep(0.02)
    return list(statuses.values())


def kill(process: int) -> None:
    """As kill -9 does, and wait for the end."""
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def run_train(directory: Path, arguments: Sequence[str], environment: dict[str, str]) -> int:
    """`python train.py` in this process. Every failpoint is noted before it is passed."""
    output = os.open(directory / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    points = os.open(directory / "points.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    failpoint = atomic.failpoint

    def noted(name: str) -> None:
        os.write(points, f"{name}\n".encode())
        failpoint(name)

    atomic.failpoint = rlaifv.loop.failpoint = rlaifv.observers.candidates.failpoint = noted
    os.chdir(directory)
    os.environ.update({"OMP_NUM_THREADS": "1", **environment})
    torch.set_num_threads(1)  # the threads of several runs would wait for each other
    sys.argv = [str(TRAIN), *arguments]
    try:
        runpy.run_path(str(TRAIN), run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def wait_or_kill(process: int, seconds: float) -> list[int]:
    """Return the status of a process that ends by itself, or is killed after a while."""
    status = wait([process], seconds)
    return [-signal.SIGKILL] if status == [124] else status


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
