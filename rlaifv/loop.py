"""THE LOOP: run the stages of a method over one iteration, store what they make, commit it.

    prompts ─► generate ─► divide ─► score ─► pair ─► reference ─► commit ─► (train) ─┐
       ▲                                                                              │
       └─────────────────── next iteration, with the new policy ◄─────────────────────┘

A method is a list of stages (`rlaifv.stages`; above are RLAIF-V's) and a learner (`rlaifv.learners`). What is on disk is never
made again, and a shard made after a crash equals the lost one: seeds depend on run, iteration and stage alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.observers.observer import Observer
from rlaifv.runtime.console import StageBars
from rlaifv.runtime.phases import timed
from rlaifv.runtime.ranks import meet, rank, world_size
from rlaifv.runtime.seeds import derive_seed
from rlaifv.runtime.stopping import stop_if_requested, wait_until
from rlaifv.stages.stage import ITERATION, Stage, Task
from rlaifv.store.atomic import failpoint, write_json
from rlaifv.store.iteration import Iteration, statistics_path
from rlaifv.store.manifest import Manifest, iteration_directory
from rlaifv.store.run_dir import require_space


@dataclass
class FeedbackLoop:
    """Make the data of iterations with the policy as it is.

    Attributes:
        run_dir: directory of the run.
        stages: of the method. The first one takes the prompts.
        seed: of the run.
        shard_prompts: prompts per shard, which is what a crash can cost.
        min_pairs: records of the last stage below which an iteration is refused.
        observers: watch the iterations.
        min_free_bytes: free disk space below which no shard is begun.
    """

    run_dir: Path
    stages: Sequence[Stage]
    seed: int
    shard_prompts: int
    min_pairs: int
    observers: Sequence[Observer] = ()
    min_free_bytes: int = 0

    def __post_init__(self) -> None:
        if not (last := self.stages[-1]).is_stored:
            raise ValueError(f"The last stage, {last.name!r}, makes what is trained on and has to be stored.")

    @timed("data")
    def prepare(self, iteration: int) -> Manifest:
        """Make and commit an iteration, or find it done. Idempotent; called on every rank.

        Raises:
            TooFewPairs: fewer than `min_pairs` are left; the message counts what was dropped, by reason.
        """
        stop_if_requested()
        meet()
        for stage in self.stages:
            stage.open(iteration)
        manifest = Manifest(iteration_directory(self.run_dir, iteration))
        if not (manifest.path.exists() and manifest.committed):
            self._make(iteration, manifest)
        return manifest.verified()

    def _make(self, iteration: int, manifest: Manifest) -> None:
        producer = {"seed": str(self.seed), "shard_prompts": str(self.shard_prompts)}
        for stage in self.stages:
            producer |= stage.producer()
        if rank() > 0:  # the first rank begins it
            wait_until(manifest.path.exists)
        work = Iteration(iteration, Manifest.open(self.run_dir, iteration, producer))
        self._store(self.stages[0], work, ignore_progress)
        for observer in self.observers:
            observer.on_start(work)
        with StageBars(f"iteration {iteration + 1}") as bars:
            for stage in self.stages[1:]:
                if stage.is_stored:
                    with bars.stage(stage.name, work.size_of(stage.unit)) as advance:
                        self._store(stage, work, advance)
                else:
                    with timed(stage.name):
                        work.keep(stage.writes, stage(self._task(stage, work), *map(work.records, stage.reads)))
        if rank() > 0:
            wait_until(lambda: manifest.committed)
            return
        statistics = {f"seconds/{name}": taken for name, taken in bars.seconds.items()}
        for observer in self.observers:
            statistics |= observer.statistics(work)
        write_json(statistics_path(self.run_dir, iteration), statistics)
        failpoint("loop.commit")
        manifest.commit(self.min_pairs, self.stages[-1].writes)

    def _store(self, stage: Stage, work: Iteration, advance: Advance) -> None:
        """Make and put this rank's missing shards of a stage, then wait for those of the other ranks."""
        table, manifest = stage.writes, work.manifest
        shards = work.plan(table, stage.unit, stage.shard_factor * self.shard_prompts)
        missing = manifest.missing(table)
        advance(sum(len(shard) for k, shard in enumerate(shards) if k not in missing))
        for k in missing:
            if k % world_size() == rank():
                stop_if_requested()
                require_space(self.run_dir, self.min_free_bytes)
                failpoint(f"loop.{table}")
                made = stage(self._task(stage, work, advance), *work.inputs(stage.reads, stage.unit, k, shards[k]))
                for observer in self.observers:
                    observer.on_shard(work, stage, k)
                manifest.put(table, k, made.records, Counter(made.drops) + work.unstored_drops(stage.unit, k))
        # Ranks meet at the manifest, where they can still be stopped and no collective times out.
        wait_until(lambda: not manifest.missing(table))

    def _task(self, stage: Stage, work: Iteration, advance: Advance = ignore_progress) -> Task:
        drops = work.manifest.drops if stage.unit == ITERATION else {}
        return Task(work.number, derive_seed(self.seed, work.number, stage.name), advance, drops)
