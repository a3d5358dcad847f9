"""What a world knows about its images. It measures; no stage of the feedback ever sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Truth(Protocol):
    """The truth about the images of a world's prompts, by prompt id."""

    def facts(self, prompt_id: str) -> list[str]:
        """Return one sentence per object of the image."""
        ...

    def holds(self, prompt_id: str, claim: str) -> bool:
        """Return whether a claim is true of the image; what cannot be read as a claim is false."""
        ...

    def covered(self, prompt_id: str, claims: Sequence[str]) -> int:
        """Return how many of the image's objects the claims name correctly."""
        ...

    def exam(self, prompt_id: str) -> list[tuple[str, bool]]:
        """Return yes/no questions with their answers, half of them true, to test a labeler with."""
        ...


@dataclass(frozen=True, slots=True)
class BenchmarkQuestion:
    """A yes/no question of a benchmark.

    Attributes:
        prompt_id: of the image that it is about.
        kind: benchmark and split or dimension, as in "pope/random".
        text: the question, without a request to answer yes or no.
        object_name: what it asks for.
        is_true: whether the right answer is yes.
    """

    prompt_id: str
    kind: str
    text: str
    object_name: str
    is_true: bool


@runtime_checkable
class KnownObjects(Truth, Protocol):
    """A truth that knows objects by name, so that the benchmarks' formulas apply to its images."""

    def objects(self, prompt_id: str) -> list[str]:
        """Return names of the image's objects, each once."""
        ...

    def likely_objects(self, prompt_id: str) -> list[str]:
        """Return names of absent objects that language alone suggests."""
        ...

    def objects_named(self, text: str) -> list[str]:
        """Return names of the objects that an answer speaks of, repeated as it repeats them."""
        ...

    def benchmark_questions(self) -> list[BenchmarkQuestion]:
        """About some of the held-out prompts."""
        ...
