"""A committed iteration's training records as a map-style data set, and the order in which an epoch reads them."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from torch.utils.data import Dataset, Sampler

from rlaifv.models.tree.packing import batches_by_tokens
from rlaifv.records import Prompt


class TrainingRecord(Protocol):
    """A record that learners train on: one or more answers to a prompt."""

    @property
    def id(self) -> str: ...
    @property
    def prompt_id(self) -> str: ...
    @property
    def prompt_tokens(self) -> int:
        """Tokens of the encoded prompt, its images included."""

    @property
    def answer_tokens(self) -> int:
        """Tokens of all its answers."""


class TrainingSet(Dataset[tuple[Prompt, Any]]):
    """Records with their prompts.

    Args:
        prompts: of the iteration.
        records: what a learner trains on.
        check: of the learner; raises ValueError for a record that it cannot train on.

    Raises:
        ValueError: a record belongs to no prompt, or fails `check`.
    """

    def __init__(
        self, prompts: Sequence[Prompt], records: Sequence[TrainingRecord], check: Callable[[Any], None] | None = None
    ) -> None:
        self.prompts = {prompt.id: prompt for prompt in prompts}
        self.records = list(records)
        for record in self.records:
            if record.prompt_id not in self.prompts:
                kind = type(record).__name__
                raise ValueError(
                    f"{kind} {record.id!r} belongs to prompt {record.prompt_id!r}, which the iteration lacks."
                )
            if check is not None:
                check(record)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Prompt, Any]:
        record = self.records[index]
        return self.prompts[record.prompt_id], record


# Prompts sorted by length at a time. More would mix less; fewer would pad more.
WINDOW_PROMPTS = 512


class PromptBatchSampler(Sampler[list[int]]):
    """Batches of records in a seeded order that keeps the records of a prompt together.

    A batch has a fixed number of records, or as many as fit a number of tokens. The latter come from prompts of similar
    length, to save padding. Ranks take every n-th batch of the same order. Batches that would give some ranks more
    than others are dropped: at most `world_size` - 1, and none on one rank.

    Args:
        records: in data set order; their `prompt_tokens` and `answer_tokens` are used with `batch_tokens` only.
        batch_size: records per batch and rank; the last batch may be smaller.
        seed: of the order; differs between epochs.
        rank: of this process.
        world_size: number of ranks.
        batch_tokens: instead of `batch_size`, the most tokens of a batch, padding included; a single record may exceed it. 0
            uses `batch_size`.
        num_done: batches of this rank to skip, which an earlier process of a resumed run has read. They count in `len`.

    Raises:
        ValueError: fewer batches than ranks; Lightning would take an empty loader for the end of the run.
    """

    def __init__(
        self,
        records: Sequence[TrainingRecord],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        batch_tokens: int = 0,
        num_done: int = 0,
    ) -> None:
        groups: dict[str, list[int]] = {}
        for index, record in enumerate(records):
            groups.setdefault(record.prompt_id, []).append(index)
        order = list(groups.values())
        rng = random.Random(seed)
        rng.shuffle(order)
        if batch_tokens:
            batches = _batches_by_tokens(records, order, batch_tokens, rng, world_size)
        else:
            flat = [index for group in order for index in group]
            batches = [flat[k : k + batch_size] for k in range(0, len(flat), batch_size)]
        if len(batches) < world_size:
            bound = f"learner.batch_tokens={batch_tokens}" if batch_tokens else f"learner.batch_size={batch_size}"
            raise ValueError(
                f"{len(batches)} batches cannot be shared out among {world_size} processes; lower {bound}, make more pairs, "
                "or run fewer processes."
            )
        even = len(batches) - len(batches) % world_size if world_size > 1 else len(batches)
        self.batches = batches[rank:even:world_size]
        self.num_done = num_done
        self._everyones, self._rank, self._world_size = batches[:even], rank, world_size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches[self.num_done :])

    def weights(self, units: Sequence[int], accumulate: int = 1) -> list[float]:
        """Return the weight of each batch of this rank in its optimizer step.

        A step averages the gradients of `accumulate` batches of each rank, and a batch's loss is a mean over its units. With
        these weights the step's gradient is that of the mean over all its units, whatever batches and ranks they lie in.

        Args:
            units: of each record: how many terms the loss averages over.
            accumulate: batches per rank and step. The last step of an epoch may have fewer, and is still divided by this.
        """
        sizes = [sum(units[index] for index in batch) for batch in self._everyones]
        per_step = accumulate * self._world_size
        totals = [sum(sizes[start : start + per_step]) for start in range(0, len(sizes), per_step)]
        own = sizes[self._rank :: self._world_size]
        return [size * per_step / max(1, totals[k // accumulate]) for k, size in enumerate(own)]


def _batches_by_tokens(
    records: Sequence[TrainingRecord],
    groups: Sequence[list[int]],
    max_tokens: int,
    rng: random.Random,
    world_size: int,
) -> list[list[int]]:
    """Return batches of trees of similar size in a random order; batches that ranks run together are of similar size."""
    trees = [tree for group in groups for tree in _trees(records, group, max_tokens)]
    batches: list[list[int]] = []
    for start in range(0, len(trees), WINDOW_PROMPTS):
        window = sorted(trees[start : start + WINDOW_PROMPTS], key=lambda tree: -tree[0])
        for some in batches_by_tokens([size for size, _ in window], max_tokens):
            batches.append([index for k in some for index in window[k][1]])
    steps = [batches[k : k + world_size] for k in range(0, len(batches), world_size)]
    whole = [step for step in steps if len(step) == world_size]
    rng.shuffle(whole)
    rest = [step for step in steps if len(step) < world_size]
    return [batch for step in whole + rest for batch in step]


def _trees(records: Sequence[TrainingRecord], group: Sequence[int], max_tokens: int) -> Iterator[tuple[int, list[int]]]:
    """Yield the records of a prompt in trees of at most `max_tokens`, or of one record, with their sizes."""
    size, some = 0, list[int]()
    for index in group:
        answers = records[index].answer_tokens
        if some and size + answers > max_tokens:
            yield size, some
            some = []
        size = size + answers if some else records[index].prompt_tokens + answers
        some.append(index)
    yield size, some
