"""The interface of stages: steps of a method, from records to records.

A stage knows nothing of manifests, ranks, progress bars or resume. The loop (`rlaifv.loop`) reads its records, calls it shard
by shard, and stores what it returns.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.store.iteration import ITERATION


@dataclass(frozen=True, slots=True)
class Task:
    """Context of one call of a stage.

    Attributes:
        iteration: index of the iteration, from 0.
        seed: derived from the run's seed, the iteration and the stage's name; the same for all shards.
        advance: progress callback; takes the number of finished units.
        drops: records that earlier stages dropped, counted by reason. Given to stages over a whole iteration only.
    """

    iteration: int = 0
    seed: int = 0
    advance: Advance = ignore_progress
    drops: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Made:
    """Records that a stage made, and how many it dropped, by reason."""

    records: Sequence[Any]
    drops: Mapping[str, int] = field(default_factory=dict)


class Stage(ABC):
    """A step of a method.

    Class attributes:
        name: shown in progress bars, and part of the stage's seed.
        reads: tables that `__call__` takes, in this order.
        writes: table that it makes. Stored tables are those of `rlaifv.store.manifest.STAGE_RECORDS`.
        unit: table that is cut into shards, each a call of its own, or `ITERATION` for one call per iteration. Of `reads`, a
            call gets the shard's part: its slice of `unit`, what other stages made of the same slice, and the prompts that
            these belong to. All other tables come whole.
        is_stored: whether the records are stored. Others are kept in memory, and every rank makes them again: use it for
            what is cheap and deterministic. Their unit is the iteration, and they are not a method's last stage.
        shard_factor: units per shard are `shard_factor` times the loop's `shard_prompts`.
        models: frozen models of its own, which have to be moved to the device.
    """

    name: ClassVar[str]
    reads: tuple[str, ...] = ()
    writes: ClassVar[str]
    unit: ClassVar[str] = "prompts"
    is_stored: ClassVar[bool] = True
    shard_factor: ClassVar[int] = 1
    models: Sequence[Any] = ()

    def __init_subclass__(cls) -> None:
        if not cls.is_stored and cls.unit != ITERATION:
            raise TypeError(f"{cls.__name__} stores nothing, so its unit has to be the iteration, not {cls.unit!r}.")

    @abstractmethod
    def __call__(self, task: Task, *tables: Any) -> Made:
        """Make the records of one shard, or of the iteration."""

    def open(self, iteration: int) -> None:
        """Get ready for an iteration. Called on every rank, also when all of its records exist."""
        return

    def producer(self) -> dict[str, str]:
        """Return what the records depend on. An unfinished iteration is refused when any of it has changed."""
        return {}
