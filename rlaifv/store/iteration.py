"""The tables of one iteration: stored ones in its manifest, others in memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from rlaifv.records import Prompt
from rlaifv.store.manifest import Manifest, iteration_directory

# Unit of stages that are called once for the whole iteration.
ITERATION = "iteration"


class Table(Protocol):
    """Records, and how many were dropped when they were made, by reason."""

    @property
    def records(self) -> Sequence[Any]: ...
    @property
    def drops(self) -> Mapping[str, int]: ...


def statistics_path(run_dir: Path, iteration: int) -> Path:
    """Return the file with the statistics of an iteration's data."""
    return iteration_directory(run_dir, iteration) / "statistics.json"


@dataclass
class Iteration:
    """An iteration that is being made.

    Attributes:
        number: from 0.
        manifest: holds the stored tables.
        tables: tables that are not stored, with their records and drops.
        units: for each stored table, the table whose shards it was made from.
        whole: stored tables that were read as a whole; several stages and the statistics read the same ones.
    """

    number: int
    manifest: Manifest
    tables: dict[str, Table] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    whole: dict[str, Sequence[Any]] = field(default_factory=dict)

    def keep(self, name: str, table: Table) -> None:
        """Keep a table in memory."""
        self.tables[name] = table

    def records(self, table: str) -> Sequence[Any]:
        """Return all records of a table. Raises ValueError if it is not complete, or damaged."""
        if table in self.tables:
            return self.tables[table].records
        if table not in self.whole:
            self.whole[table] = self.manifest.records(table)
        return self.whole[table]

    def plan(self, table: str, unit: str, size: int) -> list[Sequence[Any]]:
        """Cut a table's unit into shards, as `shards_of` does, and declare them in the manifest."""
        shards = self.shards_of(unit, size)
        self.units[table] = unit
        self.manifest.plan(table, len(shards))
        return shards

    def size_of(self, unit: str) -> int:
        """Return the number of records of a table; the iteration counts as one."""
        return 1 if unit == ITERATION else len(self.records(unit))

    def shards_of(self, unit: str, size: int) -> list[Sequence[Any]]:
        """Cut a table into shards of at most `size` records. An empty table, and the iteration, are one empty shard."""
        records = [] if unit == ITERATION else self.records(unit)
        return [records[k : k + size] for k in range(0, len(records), size)] or [[]]

    def drops(self, table: str) -> Counter[str]:
        """Count what was dropped while a table was made, by reason."""
        if table in self.tables:
            return Counter(self.tables[table].drops)
        counts: Counter[str] = Counter()
        for shard in self.manifest.shards(table):
            counts.update(shard.drops if shard else {})
        return counts

    def unstored_drops(self, unit: str, shard: int) -> Counter[str]:
        """Return the drops of a table that is not stored with the first shard that is made of it."""
        return Counter(self.tables[unit].drops) if unit in self.tables and shard == 0 else Counter()

    def inputs(self, reads: Sequence[str], unit: str, shard: int, units: Sequence[Any]) -> list[Sequence[Any]]:
        """Return the part of each table that belongs to one shard.

        Args:
            reads: names of the tables.
            unit: table that was cut into shards.
            shard: number of the shard.
            units: the shard's records of `unit`.
        """
        return [self._part(table, unit, shard, units) for table in reads]

    def _part(self, table: str, unit: str, shard: int, units: Sequence[Any]) -> Sequence[Any]:
        if table == unit:
            return units
        if self.units.get(table) == unit and table not in self.tables:
            return self.manifest.read(table, shard)
        if table == "prompts":
            return [self.prompts_by_id[prompt_id] for prompt_id in dict.fromkeys(one.prompt_id for one in units)]
        return self.records(table)

    @cached_property
    def prompts_by_id(self) -> dict[str, Prompt]:
        """The iteration's prompts by id."""
        return {prompt.id: prompt for prompt in self.records("prompts")}
