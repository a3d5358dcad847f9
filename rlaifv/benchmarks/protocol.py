"""The interface of benchmarks for the commands that score and run them.

A benchmark reads questions from official files, writes answers in the official form, and scores them. Its formulas are in
`rlaifv.metrics`. It runs neither models nor judges.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from rlaifv.models.sampling import Decoding


@dataclass(frozen=True, slots=True)
class Given:
    """The files and choices that a user gives. None stands for a file that is not given.

    Attributes:
        questions: the benchmark's question file.
        answers: the model's answers, in the benchmark's own form.
        annotations: a file, or the directory where a benchmark has several.
        images: the directory of the images.
        nouns: {id: [noun, …]}, in place of a tagger (AMBER).
        similarity: {"a|b": value}, in place of word vectors (AMBER).
        objects: {image_id: [phrase, …]}, in place of an extractor (Object HalBench).
        synonyms: comma-separated rows, class name first (CHAIR, Object HalBench).
        reviews: raw replies of a judge, in order or by id.
        judge: who wrote the reviews; it goes into the protocol.
        parser: how an answer is read; "official" is the benchmark's own script.
        invalid_judge: what an unreadable review is worth: by the official rule, left out, or an error.
        rounding: "official" rounds as the official script prints; "none" does not.
        allow_incomplete: score what is there where answers are missing.
    """

    questions: Path | None = None
    answers: Path | None = None
    annotations: Path | None = None
    images: Path | None = None
    nouns: Path | None = None
    similarity: Path | None = None
    objects: Path | None = None
    synonyms: Path | None = None
    reviews: Path | None = None
    judge: str | None = None
    parser: str = "official"
    invalid_judge: Literal["official", "skip", "raise"] = "official"
    rounding: Literal["official", "none"] = "official"
    allow_incomplete: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """A question to a model. Images are names below the directory of images, or the bytes of a picture."""

    id: str
    question: str
    images: tuple[str | bytes, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What answers are worth.

    Attributes:
        metrics: by lower-case name, in percent where the official script prints percent; nested by split or category.
        counts: how many rows, answers, mentions… the metrics rest on.
        num_invalid: answers (or reviews) that could not be read, and so were scored by rule.
        version: which edition of the benchmark the files are, as far as they show it.
        protocol: what a comparison depends on: parser, mode, judge, and whether rows were missing.
        warnings: full sentences.
    """

    metrics: dict[str, Any]
    counts: dict[str, int]
    num_invalid: int
    version: str
    protocol: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Benchmark(Protocol):
    """One benchmark.

    Attributes:
        name: as on the command line.
        uses: the fields of `Given` that mean something to it, without those of every benchmark (answers, rounding,
            allow_incomplete).
        parsers: the values of `parser` that it knows, "official" first.
        decoding: how its authors, or those who report it, have answers made.
    """

    name: str
    uses: tuple[str, ...]
    parsers: tuple[str, ...]
    decoding: Decoding

    def items(self, given: Given) -> list[Item]:
        """Return the questions to a model, from the user's copy of the official files.

        Raises:
            ValueError: a file is missing or not of its form; the message names file and row.
        """
        ...

    def answer_rows(self, given: Given, items: Sequence[Item], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return answers to `items` as rows of the official answer file, which `score` reads as JSON or JSON Lines."""
        ...

    def score(self, given: Given) -> Result:
        """Return the score of the answers.

        Raises:
            ValueError: a file is missing, not of its form, or incomplete without `allow_incomplete`; the message names
                file and row.
        """
        ...


class JudgedBenchmark(Benchmark, Protocol):
    """A benchmark whose answers are read by a judge; `score` wants its replies as `Given.reviews`.

    Attributes:
        stages: what the judge is asked about each answer, one after the other; `conversations` are of the first.
    """

    stages: "tuple[Stage, ...]"

    def conversations(self, given: Given, template: str | None = None) -> list[tuple[str, str]]:
        """Return the request to the judge about each answer, with the id under which its reply is stored.

        Args:
            given: with answers.
            template: the official prompt, for those who have it; this project's own words otherwise.
        """
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """One question that a judge is asked about every answer.

    Attributes:
        name: the field of a review that holds the reply.
        template: the question in this project's own words, with placeholders (`rlaifv.benchmarks.templates`);
            that of a later stage has {review}, the reply of the stage before.
        is_valid: whether a reply can be read.
    """

    name: str
    template: str
    is_valid: Callable[[str], bool]
