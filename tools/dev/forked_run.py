"""Run train.py in forked processes, which share this one's imports because imports take longer than small runs."""

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

from rlaifv.records import STAGE_RECORDS
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
    "learner.batch_size=4",
    "data.num_held_out=2",
)
# Kinds of runs and what each adds to the settings: RLAIF-V, GRPO, and a reward model with PPO on its scores.
RUNS = {
    "rlaif_v": ("iteration.pairing.length_balance=false",),
    "grpo_claims": ("method=grpo_claims",),
    "ppo": (
        "experiment=rl/fact_rlhf",
        "iteration.num_prompts=16",
        "iteration.shard_prompts=8",
        "learner.batch_size=16",
    ),
}
TWO_RANKS = ("trainer.devices=2", "++trainer.strategy=ddp")
SHARD_POINTS = tuple(f"loop.{stage}" for stage in STAGE_RECORDS if stage != "prompts")
STEP_POINT = "store.append"
HANG_SECONDS = 300
runpy.run_path(str(TRAIN))  # imports here what every run would import again


@dataclass(frozen=True)
class Place:
    """A directory with a run of one of `RUNS`, its output and the failpoints that it passed."""

    directory: Path
    num_ranks: int = 1
    was_two: bool = False
    kind: str = "rlaif_v"

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    def parts(self) -> list[Path]:
        """Return the directories of the run and then of those that came before it, relative to `run_dir`."""
        return [path.parent.relative_to(self.run_dir) for path in sorted(self.run_dir.glob("**/config.yaml"))]

    def points(self) -> list[str]:
        """Return the failpoints passed, in order; those of two ranks are interleaved."""
        path = self.directory / "points.txt"
        return path.read_text().split() if path.exists() else []

    def work(self) -> Counter[str]:
        """Return how many shards and steps were begun, including repetitions."""
        points = Counter(self.points())
        return Counter(shards=sum(points[name] for name in SHARD_POINTS), steps=points[STEP_POINT])

    def epoch_steps(self) -> int:
        """Return the largest number of steps in an epoch (the distance between checkpoints), summed over ranks."""
        epochs: Counter[tuple[Path, int, int]] = Counter()
        for path in self.run_dir.glob("**/journal/*"):
            entries = map(json.loads, path.read_text().splitlines())
            epochs.update((path.parent, entry["iteration"], entry["epoch"]) for entry in entries)
        return max(epochs.values())

    def start(self, fail: str | None = None, failing_rank: int = 0) -> list[int]:
        """Start or resume the run and return the process id of every rank."""
        arguments = ["run_dir=run", *SETTINGS, *RUNS[self.kind], *(TWO_RANKS if self.num_ranks > 1 else ())]
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
        """Resume the run until it succeeds, at most 4 times. Returns the problem if it never does."""
        for _ in range(4):
            if status == 0:
                break
            status = max(wait(self.start()), key=abs)
        if status == 0:
            return []
        return [f"{self.run_dir} ends with status {status} however often it is resumed; see output.txt beside it."]

    def compare(self, oracle: "Place") -> list[str]:
        """Return the differences from the uninterrupted run. Forks to keep this process free of threads."""
        found = self.directory / "problems.txt"
        parts, check = oracle.parts(), check_run
        if self.was_two:  # one rank trains in a different order, so only what is made before any training is equal
            parts, check = parts[-1:], check_pairs

        def look() -> int:
            found.write_text("\n".join(p for part in parts for p in check(self.run_dir / part, oracle.run_dir / part)))
            return 0

        if wait([fork(look)]) != [0]:
            return [f"{self.run_dir} could not be checked."]
        return found.read_text().splitlines()


def fork(work: Callable[[], int]) -> int:
    """Run `work` in a forked process that exits with the returned status. Returns the process id."""
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
    """Return the exit statuses (negative for signals). Processes that exceed the time are killed, with status 124."""
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
    """Send SIGKILL to a process and wait for its end."""
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def run_train(directory: Path, arguments: Sequence[str], environment: dict[str, str]) -> int:
    """Run `python train.py` in this process, recording every failpoint before it is passed."""
    output = os.open(directory / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    points = os.open(directory / "points.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    failpoint = atomic.failpoint

    def noted(name: str) -> None:
        os.write(points, f"{name}\n".encode())
        failpoint(name)

    for name, module in [*sys.modules.items()]:
        if name.startswith("rlaifv.") and hasattr(module, "failpoint"):
            vars(module)["failpoint"] = noted
    os.chdir(directory)
    os.environ.update({"OMP_NUM_THREADS": "1", **environment})
    torch.set_num_threads(1)  # threads of parallel runs would compete for cores
    sys.argv = [str(TRAIN), *arguments]
    try:
        runpy.run_path(str(TRAIN), run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def wait_or_kill(process: int, seconds: float) -> list[int]:
    """Return the status of a process, killed with SIGKILL if it does not end within `seconds`."""
    status = wait([process], seconds)
    return [-signal.SIGKILL] if status == [124] else status


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
