"""Inject reproducible faults into runs of train.py, resume the runs, and compare their results.

    python -m tools.dev.fault                                all kinds of runs and parts
    python -m tools.dev.fault --only kills --seed 7          kill -9, at other times
    python -m tools.dev.fault --run ppo --only io            I/O steps of a reward model and of PPO on its scores
    python -m tools.dev.fault --only io --stride 1           every single I/O step, takes hours

io      a file write fails in one of three ways: the process is killed, the disk is broken, or the disk is full
kills   the process is killed at random times, repeatedly
ranks   one of two processes is killed; the other must end by itself

A broken run is resumed until it finishes and must then equal an uninterrupted run with the same settings. Every process
is forked from one that has imported everything, because imports take longer than the runs.
"""

import argparse
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from rich.table import Table

from rlaifv.runtime.console import console, progress_bar
from tools.dev.forked_run import RUNS, Place, wait, wait_or_kill

PARTS = ("io", "kills", "ranks")
WAYS = {"crash": "killed at an I/O step", "eio": "broken disk", "enospc": "full disk"}
KILLS = "killed at a random time"
RANKS = "one of two ranks killed"
KILLS_PER_TASK = 5
# Failpoints at which a rank is killed, each with the number of the pass.
RANK_POINTS = {
    "rlaif_v": ("loop.responses 1", "loop.judgements 1", "store.append 2"),
    "grpo_claims": ("loop.judgements 1", "store.append 2"),
    "ppo": ("loop.judgements 1", "loop.scores 1"),
}
# Without --stride and --kills.
STRIDES = {"rlaif_v": 13, "grpo_claims": 60, "ppo": 144}
KILLS_OF = {"rlaif_v": 50, "grpo_claims": 10, "ppo": 10}


@dataclass
class Outcome:
    """Outcome of a broken run of a kind: number of faults (`tries`), work done more than once, and problems found."""

    fault: str
    name: str
    tries: int = 0
    shards: int = 0
    steps: int = 0
    problems: list[str] = field(default_factory=list)
    kind: str = ""


def break_io(oracle: Place, place: Place, way: str, number: int) -> Outcome:
    """Make one I/O step of a run fail, then resume and compare the run."""
    name = oracle.points()[number - 1]
    outcome = Outcome(WAYS[way], f"{way} at step {number}, {name}", tries=1)
    (status,) = wait(place.start(f"{way} * {number}"))
    if way == "crash" and status != -signal.SIGKILL:
        outcome.problems.append(f"The run was not killed, but ended with status {status}.")
    return _settle(outcome, place, oracle, status)


def break_by_kills(oracle: Place, place: Place, seed: str, num_kills: int, seconds: float) -> Outcome:
    """Kill runs at random times, at most `seconds` after each start; when a run finishes, continue with a new one."""
    rng = random.Random(seed)
    outcome = Outcome(KILLS, f"kills of seed {seed}")
    part, killed = replace(place, directory=place.directory / "0"), 0
    part.directory.mkdir()
    while outcome.tries < num_kills and not outcome.problems:
        (process,) = part.start()
        (status,) = wait_or_kill(process, rng.uniform(0, seconds))
        if status == -signal.SIGKILL:
            outcome.tries, killed = outcome.tries + 1, killed + 1
        if status == 0 or outcome.tries == num_kills:
            _settle(outcome, part, oracle, status, killed)
            part, killed = replace(place, directory=place.directory / str(int(part.directory.name) + 1)), 0
            part.directory.mkdir()
        elif status != -signal.SIGKILL:
            outcome.problems.append(f"{part.run_dir} ended with status {status}; see output.txt beside it.")
    return outcome


def break_rank(oracle: Place, place: Place, rank: int, point: str, resumed_by: int = 2) -> Outcome:
    """Kill one of two ranks, check that the other one ends, and resume with `resumed_by` ranks."""
    outcome = Outcome(RANKS, f"rank {rank} killed at {point}", tries=1)
    began = time.monotonic()
    statuses = wait(place.start(f"crash {point}", failing_rank=rank))
    if statuses[rank] != -signal.SIGKILL:
        outcome.problems.append(f"Rank {rank} was not killed, but ended with status {statuses[rank]}.")
    if statuses[1 - rank] in (0, 124):
        seconds = time.monotonic() - began
        outcome.problems.append(f"Rank {1 - rank} had status {statuses[1 - rank]} after {seconds:.0f} s alone.")
    return _settle(outcome, replace(place, num_ranks=resumed_by, was_two=resumed_by == 1), oracle, 1, num_faults=2)


def _settle(outcome: Outcome, place: Place, oracle: Place, status: int, num_faults: int = 1) -> Outcome:
    """Resume a broken run, compare it with the oracle, and count the work that was repeated."""
    outcome.problems += place.finish(status) or place.compare(oracle)
    redone = place.work() - oracle.work()
    outcome.shards, outcome.steps = outcome.shards + redone["shards"], outcome.steps + redone["steps"]
    for unit, bound in (("shards", 1), ("steps", oracle.epoch_steps())):
        if redone[unit] > bound * num_faults:
            outcome.problems.append(f"{redone[unit]} {unit} were done again after {num_faults} faults.")
    return outcome


Task = tuple[str, Callable[[Place], Outcome]]


def io_tasks(oracle: Place, stride: int, seed: int) -> list[Task]:
    """Create tasks for every `stride`-th I/O step in every way; each way has its own offset, to cover more steps."""
    num_steps = len(oracle.points())
    tasks: list[Task] = []
    for k, way in enumerate(WAYS):
        for number in range(1 + (seed + k * stride // len(WAYS)) % stride, num_steps + 1, stride):
            tasks.append((f"{way}-{number}", partial(break_io, oracle, way=way, number=number)))
    return tasks


def kill_tasks(oracle: Place, num_kills: int, seed: int, seconds: float) -> list[Task]:
    """Create tasks for `num_kills` random kills, at most `KILLS_PER_TASK` each."""
    tasks: list[Task] = []
    for k, start in enumerate(range(0, num_kills, KILLS_PER_TASK)):
        portion = min(KILLS_PER_TASK, num_kills - start)
        work = partial(break_by_kills, oracle, seed=f"{seed}/{k}", num_kills=portion, seconds=seconds)
        tasks.append((f"kills-{k}", work))
    return tasks


def rank_tasks(oracle: Place) -> list[Task]:
    """Create tasks that kill each of two ranks at all `RANK_POINTS`, and one whose run is resumed by a single rank."""
    points = RANK_POINTS[oracle.kind]
    tasks: list[Task] = [
        (f"rank-{rank}-{point.replace(' ', '-')}", partial(break_rank, oracle, rank=rank, point=point))
        for point in points
        for rank in (0, 1)
    ]
    return [*tasks, ("rank-1-alone-afterwards", partial(break_rank, oracle, rank=1, point=points[0], resumed_by=1))]


def perform(oracle: Place, task: Task) -> Outcome:
    """Run a task in a new directory beside the oracle's, which is kept if there is a problem."""
    name, work = task
    place = replace(oracle, directory=oracle.directory.parent / name)
    place.directory.mkdir()
    try:
        outcome = work(place)
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome("harness", name, 1, problems=[repr(error)])
    if not outcome.problems:
        shutil.rmtree(place.directory)
    return replace(outcome, kind=oracle.kind)


def make_oracle(place: Place) -> float:
    """Make the uninterrupted run and return its duration in seconds. Raises RuntimeError if it fails."""
    place.directory.mkdir(parents=True)
    began = time.monotonic()
    statuses = wait(place.start())
    if any(statuses):
        raise RuntimeError(f"The uninterrupted run ended with {statuses}; see {place.directory / 'output.txt'}.")
    return time.monotonic() - began


def sweep(directory: Path, given: argparse.Namespace) -> list[Outcome]:
    """Run all tasks of the selected kinds of runs and parts, `given.jobs` at a time."""
    parts, kinds = given.only or PARTS, given.run or [*RUNS]
    outcomes: list[Outcome] = []
    # Fork the workers before the progress bar starts a thread.
    with multiprocessing.get_context("fork").Pool(given.jobs) as pool, progress_bar() as bars:
        bar = bars.add_task("faults", total=None, note="uninterrupted runs")
        oracles = [Place(directory / kind / "oracle", kind=kind) for kind in kinds if {"io", "kills"} & {*parts}]
        if "ranks" in parts:
            oracles += [Place(directory / kind / "oracle-of-two-ranks", 2, kind=kind) for kind in kinds]
        durations = pool.map(make_oracle, oracles, chunksize=1)
        work = []
        for oracle, seconds in zip(oracles, durations, strict=True):
            tasks = tasks_of(oracle, seconds, parts, given)
            work += [pool.apply_async(perform, [oracle, task]) for task in tasks]
        bars.update(bar, total=len(work))
        for result in work:
            outcomes.append(result.get())
            num_failed = sum(bool(outcome.problems) for outcome in outcomes)
            bars.update(bar, advance=1, note=f"{num_failed} failed")
    return outcomes


def tasks_of(oracle: Place, seconds: float, parts: Sequence[str], given: argparse.Namespace) -> list[Task]:
    """Create the tasks of the selected parts that are compared with an uninterrupted run, which took `seconds`."""
    if oracle.num_ranks > 1:
        return rank_tasks(oracle)
    tasks: list[Task] = []
    if "io" in parts:
        tasks += io_tasks(oracle, given.stride or STRIDES[oracle.kind], given.seed)
    if "kills" in parts:
        tasks += kill_tasks(oracle, given.kills or KILLS_OF[oracle.kind], given.seed, seconds)
    return tasks


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """Return a table with one row per kind of run and of fault."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name, justify in (
        ("run", "left"),
        ("fault", "left"),
        ("tries", "right"),
        ("survived", "right"),
        ("work redone", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for kind, fault in sorted({(o.kind, o.fault): None for o in outcomes}, key=lambda row: [*RUNS, ""].index(row[0])):
        some = [outcome for outcome in outcomes if (outcome.kind, outcome.fault) == (kind, fault)]
        survived = sum(outcome.tries for outcome in some if not outcome.problems)
        redone = f"{sum(o.shards for o in some)} shards, {sum(o.steps for o in some)} steps"
        table.add_row(kind, fault, str(sum(outcome.tries for outcome in some)), str(survived), redone)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.dev.fault", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", choices=[*RUNS], action="append", help="a kind of run (default: all)")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the times of kills and the choice of steps")
    parser.add_argument("--kills", type=int, help=f"how many random kills (default: {_shown(KILLS_OF)})")
    parser.add_argument(
        "--stride", type=int, help=f"every so many-th step of writing fails (default: {_shown(STRIDES)})"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    given = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="rlaifv-fault-"))
    try:
        outcomes = sweep(directory, given)
    except RuntimeError as error:
        console.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        return 1
    console.print(table_of(outcomes))
    failed = [outcome for outcome in outcomes if outcome.problems]
    for outcome in failed:
        console.print(
            f"[bold red]failed:[/] {outcome.kind}: {outcome.name}", *outcome.problems[:5], sep="\n    ", soft_wrap=True
        )
    if failed:
        console.print(f"What they left is in {directory}; --seed {given.seed} repeats them.", soft_wrap=True)
    else:
        shutil.rmtree(directory)
    console.print(f"{len(outcomes) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _shown(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} of {kind}" for kind, number in numbers.items())


if __name__ == "__main__":
    sys.exit(main())
