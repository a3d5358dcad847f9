"""The index of one iteration: planned stages, finished shards, and the commit that makes the iteration final.

    iterations/000/manifest.json             the iteration's producer; once committed, all shards with their digests
                   plan-responses.json       number of shards of a stage
                   responses-00003.json      digest, number of records and drops of the shard beside it (the sidecar)
                   responses-00003.parquet

A shard is done when both its files exist; the sidecar is written last. Any number of processes can therefore put shards
of one iteration without a lock, and a file's content does not depend on which of them wrote it. `commit` merges the
sidecars into manifest.json, which is the only authority from then on. The sidecars stay: to regenerate a damaged shard,
delete its parquet file and manifest.json, and the next run produces what is missing and commits again.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rlaifv.records import STAGE_RECORDS, AnswerScore, Judgement, Record, Route
from rlaifv.store.atomic import make_directory, remove_leftovers, write_json
from rlaifv.store.shards import read_shard, verify_shard, write_shard

T = TypeVar("T")


class TooFewPairs(ValueError):
    """Raised when an iteration yielded fewer pairs than training requires."""


def iteration_directory(run_dir: Path, iteration: int) -> Path:
    """Return the directory of an iteration's data."""
    return run_dir / "iterations" / f"{iteration:03d}"


@dataclass(frozen=True, slots=True)
class Shard:
    """Metadata of a shard: SHA-256 of its file, number of records, and number of dropped candidates by reason."""

    sha256: str
    num_records: int
    drops: dict[str, int]


@dataclass(slots=True)
class Index:
    """Content of manifest.json. `stages` (numbers of shards) and `shards` (by file name) are empty until the commit."""

    iteration: int
    producer: dict[str, str]
    committed: bool = False
    stages: dict[str, int] = field(default_factory=dict)
    shards: dict[str, Shard] = field(default_factory=dict)

    @classmethod
    def parse(cls, shards: dict[str, dict[str, Any]], **rest: Any) -> "Index":
        return cls(**rest, shards={name: Shard(**shard) for name, shard in shards.items()})


@dataclass(frozen=True, slots=True)
class Manifest:
    """A stateless handle on the directory of an iteration: every answer is read from disk."""

    directory: Path

    @classmethod
    def open(cls, run_dir: Path, iteration: int, producer: Mapping[str, str]) -> "Manifest":
        """Create the manifest of an iteration, or open the existing one.

        Args:
            run_dir: the run's directory, which gets `iterations/NNN/`.
            iteration: counted from 0.
            producer: everything that the records depend on (policy digest, seed, the stages' settings, …).

        Raises:
            ValueError: the iteration was started by another producer.
        """
        manifest = cls(iteration_directory(run_dir, iteration))
        if not manifest.path.exists():
            make_directory(manifest.directory)
            write_json(manifest.path, asdict(Index(iteration, dict(producer))))
        stored = manifest._index().producer
        for name in sorted({*stored, *producer}):
            if stored.get(name) != producer.get(name):
                raise ValueError(
                    f"{manifest.path}: the iteration was begun with {name} {stored.get(name)!r}, but now it is "
                    f"{producer.get(name)!r}; go back to the former, or delete the directory to make it again."
                )
        return manifest

    @property
    def path(self) -> Path:
        return self.directory / "manifest.json"

    @property
    def committed(self) -> bool:
        return self._index().committed

    @property
    def producer(self) -> dict[str, str]:
        """The producer that started the iteration."""
        return self._index().producer

    @property
    def stages(self) -> dict[str, int]:
        """The planned stages and their numbers of shards, in the order of `STAGE_RECORDS`."""
        return self._index().stages

    @property
    def drops(self) -> dict[str, int]:
        """Number of drops by reason over all finished shards, most frequent reason first."""
        counts: Counter[str] = Counter()
        for stage in self.stages:
            for shard in self.shards(stage):
                counts.update(shard.drops if shard else {})
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def shard_path(self, stage: str, shard: int) -> Path:
        """Return the path of a shard, whether or not it exists."""
        return self.directory / f"{stage}-{shard:05d}.parquet"

    def shards(self, stage: str) -> list[Shard | None]:
        """Return the metadata of a stage's shards, None for unfinished ones. Raises ValueError if it is not planned."""
        index = self._index()
        if stage not in index.stages:
            raise ValueError(f"{self.directory}: stage {stage!r} is not planned.")
        return [self._shard(index, stage, number) for number in range(index.stages[stage])]

    def missing(self, stage: str) -> list[int]:
        """Return the unfinished shards of a stage. Raises ValueError if it is not planned."""
        return [number for number, shard in enumerate(self.shards(stage)) if shard is None]

    def plan(self, stage: str, num_shards: int) -> None:
        """Fix the number of shards of a stage. Raises ValueError if not positive or fixed to another one."""
        if stage not in STAGE_RECORDS:
            raise ValueError(f"{self.directory}: {stage!r} is not a stage; there are {', '.join(STAGE_RECORDS)}.")
        if num_shards < 1:
            raise ValueError(f"{self.directory}: stage {stage!r} needs at least one shard, not {num_shards}.")
        if not self.committed and stage not in self.stages:
            write_json(self._plan_path(stage), {"num_shards": num_shards})
        planned = self.stages.get(stage, 0)
        if planned != num_shards:
            raise ValueError(f"{self.directory}: stage {stage!r} has {planned} shards planned, not {num_shards}.")

    def put(self, stage: str, shard: int, records: Sequence[Record], drops: Mapping[str, int] | None = None) -> None:
        """Store a missing shard.

        Args:
            stage: a key of `STAGE_RECORDS`.
            shard: its number, one of `missing(stage)`.
            records: records of the stage's class.
            drops: number of candidates that did not become records, by reason.

        Raises:
            ValueError: the shard is not planned or already done, or a record is not of the stage's class.
        """
        index = self._index()
        path = self.shard_path(stage, shard)
        if shard not in range(index.stages.get(stage, 0)):
            raise ValueError(f"{path} is not planned.")
        if self._shard(index, stage, shard):
            raise ValueError(f"{path} is already done; a shard is put once.")
        sidecar = path.with_suffix(".json")
        # A stale sidecar whose parquet file is gone must not vouch for the new file.
        sidecar.unlink(missing_ok=True)
        digest = write_shard(path, records, STAGE_RECORDS[stage])
        write_json(sidecar, asdict(Shard(digest, len(records), dict(drops or {}))))

    def read(self, stage: str, shard: int) -> list[Any]:
        """Return a shard's records, of class `STAGE_RECORDS[stage]`. Raises ValueError if unfinished or damaged."""
        path = self.shard_path(stage, shard)
        entry = self._shard(self._index(), stage, shard)
        if entry is None:
            raise ValueError(f"{path} is not done yet.")
        return read_shard(path, STAGE_RECORDS[stage], entry.sha256)

    def records(self, stage: str) -> list[Any]:
        """Return all records of a stage in shard order. Raises ValueError if a shard is unfinished or damaged."""
        records: list[Any] = []
        for number, shard in enumerate(self._complete(stage)):
            records += read_shard(self.shard_path(stage, number), STAGE_RECORDS[stage], shard.sha256)
        return records

    def verified(self) -> "Manifest":
        """Verify the digest of every finished shard. Raises ValueError naming the first file that differs."""
        for stage in self.stages:
            for number, shard in enumerate(self.shards(stage)):
                path = self.shard_path(stage, number)
                try:
                    if shard:
                        verify_shard(path, shard.sha256)
                except ValueError as error:
                    raise ValueError(
                        f"{error} Delete {path.name} and {self.path.name} to have it made again."
                    ) from error
        return self

    def commit(self, min_pairs: int, table: str = "pairs") -> "Manifest":
        """Make the iteration final. Idempotent; may be called from every rank.

        Raises:
            TooFewPairs: there are fewer than `min_pairs`; the message lists the drops by reason.
            ValueError: `min_pairs` is not positive, a shard is not done, or a file does not match its digest.
        """
        if min_pairs < 1:
            raise ValueError(f"min_pairs is {min_pairs}, but without a single pair there is nothing to train on.")
        stages = {stage: self._complete(stage) for stage in self.stages}
        num_pairs = sum(shard.num_records for shard in stages.get(table, []))
        if num_pairs < min_pairs:
            raise TooFewPairs(
                f"{self.directory} has {num_pairs} {table}, fewer than min_pairs={min_pairs}; "
                f"dropped: {_enumerate(self.drops)}."
            )
        index = self.verified()._index()
        if not index.committed:
            # Every shard is done and none is put twice, so no living process is writing one.
            remove_leftovers(self.directory, "*.parquet")
            shards = {
                self.shard_path(stage, number).name: shard
                for stage, done in stages.items()
                for number, shard in enumerate(done)
            }
            write_json(self.path, asdict(replace(index, committed=True, shards=shards)))
        return self

    def _index(self) -> Index:
        index = _load(self.path, Index.parse)
        if not index.committed:
            plans = {stage: self._plan_path(stage) for stage in STAGE_RECORDS}
            index.stages = {
                stage: _load(path, lambda num_shards: int(num_shards)) for stage, path in plans.items() if path.exists()
            }
        return index

    def _plan_path(self, stage: str) -> Path:
        return self.directory / f"plan-{stage}.json"

    def _shard(self, index: Index, stage: str, number: int) -> Shard | None:
        path = self.shard_path(stage, number)
        if index.committed:
            return index.shards.get(path.name)
        sidecar = path.with_suffix(".json")
        return _load(sidecar, Shard) if sidecar.exists() and path.exists() else None

    def _complete(self, stage: str) -> list[Shard]:
        shards = self.shards(stage)
        done = [shard for shard in shards if shard]
        if len(done) < len(shards):
            raise ValueError(f"{self.directory}: of stage {stage!r}, shards {self.missing(stage)} are not done yet.")
        return done


def _load(path: Path, parse: Callable[..., T]) -> T:
    """Read a JSON object from `path` and return `parse` called with its members as keyword arguments."""
    try:
        return parse(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or not a file of this kind: {error}.") from error


def audit(directory: Path, last: bool = True) -> tuple[str, list[str]]:
    """Check every shard of an iteration.

    Args:
        directory: an iteration's directory.
        last: whether it is the run's last iteration, the only one that may be unfinished.

    Returns:
        A one-line summary of the iteration, and one sentence per problem.
    """
    manifest = Manifest(directory)
    try:
        index = manifest._index()
        stages = {stage: manifest.shards(stage) for stage in index.stages}
    except (ValueError, OSError) as error:
        return "unreadable", [str(error)]
    problems = []
    if index.iteration != int(directory.name):
        problems.append(f"{manifest.path} belongs to iteration {index.iteration}.")
    if not (index.committed or last):
        problems.append(f"{manifest.path} is not committed, though a later iteration exists.")
    unplanned = {*directory.glob("*.parquet")}
    records: dict[str, list[Any]] = {stage: [] for stage in STAGE_RECORDS}
    for stage, shards in stages.items():
        for number, shard in enumerate(shards):
            path = manifest.shard_path(stage, number)
            unplanned.discard(path)
            try:
                found = read_shard(path, STAGE_RECORDS[stage], shard.sha256) if shard else []
                records[stage] += found
                if shard and len(found) != shard.num_records:
                    problems.append(f"{path} does not hold {shard.num_records} records, as its index says.")
                if index.committed and not shard:
                    problems.append(f"{manifest.path} is committed without {path.name}.")
            except (ValueError, OSError) as error:
                problems.append(str(error))
    if not problems:
        problems = [f"{directory}: {problem}" for problem in _contradictions(records, index.committed)]
    problems += [f"{path} is no planned shard." for path in sorted(unplanned)]
    done = [shard for shards in stages.values() for shard in shards if shard]
    num_pairs = sum(shard.num_records for shard in stages.get("pairs", []) if shard)
    return (
        f"{'committed' if index.committed else 'unfinished'}, {len(done)} of {sum(index.stages.values())} shards, "
        f"{num_pairs} pairs, dropped: {_enumerate(manifest.drops)}"
    ), problems


def _contradictions(records: Mapping[str, Sequence[Any]], complete: bool) -> Iterator[str]:
    """Yield one sentence per inconsistency between the records of an iteration."""
    keys = {stage: [_key(record) for record in some] for stage, some in records.items()}
    for stage, some in keys.items():
        for key in [key for key, count in Counter(some).items() if count > 1][:1]:
            yield f"{key!r} is there more than once among the {stage}."
    prompt_of = {response.id: response.prompt_id for response in records["responses"]}
    known = {stage: {*some} for stage, some in keys.items()}
    for what, missing in (
        ("responses are to prompts that are not there", {*prompt_of.values()} - known["prompts"]),
        (
            "claims are of responses that are not there",
            {claim.response_id for claim in records["claims"]} - {*prompt_of},
        ),
        ("judgements are of claims that are not there", known["judgements"] - known["claims"]),
        ("claims were not judged", known["claims"] - known["judgements"] if complete else set()),
    ):
        if missing:
            yield f"{what}, {min(missing)!r} for one."
    for pair in records["pairs"] if records["responses"] else ():  # imported pairs have no responses
        if {prompt_of.get(pair.chosen_response_id), prompt_of.get(pair.rejected_response_id)} != {pair.prompt_id}:
            yield f"pair {pair.id!r} is not made of two responses to {pair.prompt_id!r}."
            break


def _key(record: Any) -> str:
    """Return what identifies a record: its id, a judgement's claim, a route's prompt, or a score's model and response."""
    if isinstance(record, AnswerScore):
        return f"{record.model}: {record.response_id}"
    if isinstance(record, Judgement):
        return record.claim_id
    return str(record.prompt_id if isinstance(record, Route) else record.id)


def audit_run(run_dir: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Audit every iteration of a run: yield its number, a one-line summary, and one sentence per problem."""
    found = {int(path.name): path for path in (run_dir / "iterations").glob("*") if path.name.isdecimal()}
    before: dict[str, str] = {}
    for iteration in range(max(found, default=-1) + 1):
        line, problems = "missing", ["A later iteration exists."]
        if iteration in found:
            line, problems = audit(found[iteration], last=iteration == max(found))
        if line not in ("missing", "unreadable"):
            manifest = Manifest(found[iteration])
            producer = manifest._index().producer
            if before.get("policy", "") == producer.get("policy"):
                problems.append(
                    f"{manifest.path} names the policy of the iteration before: nothing was trained between."
                )
            if before.get("seed", producer.get("seed")) != producer.get("seed"):
                problems.append(f"{manifest.path} has another seed than the iteration before.")
            before = producer
        yield iteration, line, problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit a run directory, printing one line per iteration and its problems. Returns 1 if there are any, else 0."""
    parser = argparse.ArgumentParser(prog="python -m rlaifv.store.manifest", description="Audit the data of a run.")
    parser.add_argument("run_dir", type=Path, help="the directory that holds iterations/")
    run_dir = parser.parse_args(arguments).run_dir
    num_iterations, sound = 0, True
    for iteration, line, problems in audit_run(run_dir):
        print(f"{iteration:03d}  {line}", *problems, sep="\n     wrong: ")
        num_iterations, sound = num_iterations + 1, sound and not problems
    if num_iterations == 0:
        print(f"{run_dir} holds no iterations.")
        return 1
    return 0 if sound else 1


def _enumerate(drops: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in drops.items()) or "none"


if __name__ == "__main__":
    sys.exit(main())
