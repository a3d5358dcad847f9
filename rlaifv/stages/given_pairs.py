"""Preferences that the data come with, in the place of sampled and judged ones: offline preference training."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rlaifv.data.rows import Row
from rlaifv.data.sources import PromptSource
from rlaifv.records import Pair, Prompt
from rlaifv.stages.stage import ITERATION, Made, Stage, Task


@runtime_checkable
class PairSource(PromptSource, Protocol):
    """A source whose prompts come with answers. `digest` changes with anything that a pair is made of."""

    digest: str

    def answers(self, prompt: Prompt) -> list[Row]:
        """Return the preferences of one of its prompts."""


class GivenPairs(Stage):
    """Take all preferences of the prompts, without those between equal answers (dropped as `identical`).

    Nobody counted rejected claims, so both scores of a pair are 0.

    Raises:
        ValueError: the source has no answers.
    """

    name = "pair"
    reads = ("prompts",)
    writes = "preferences"
    unit = ITERATION
    is_stored = False

    def __init__(self, source: PromptSource) -> None:
        if not isinstance(source, PairSource):
            raise ValueError(f"{type(source).__name__} has prompts without answers, so there are no pairs to train on.")
        self.source = source

    def producer(self) -> dict[str, str]:
        return {"data": self.source.digest}

    def __call__(self, task: Task, prompts: Sequence[Prompt]) -> Made:
        rows = [(prompt, row) for prompt in prompts for row in self.source.answers(prompt)]
        pairs = [_pair(prompt, row) for prompt, row in rows]
        different = [pair for pair in pairs if pair.chosen.strip() != pair.rejected.strip()]
        num_identical = len(pairs) - len(different)
        return Made(different, {"identical": num_identical} if num_identical else {})


def _pair(prompt: Prompt, row: Row) -> Pair:
    pair_id = f"{prompt.id}/{row.id}"
    ids = (pair_id, prompt.id, f"{pair_id}/chosen", f"{pair_id}/rejected")
    return Pair(*ids, row.chosen or "", row.rejected or "", (), (), 0.0, 0.0)
