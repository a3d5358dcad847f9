"""Measure dividers against annotated claims.

Two claims match where the F1 of their content words is at least `MATCH`, both or neither of them is negated, and they name
the same numbers. Each claim of one side is matched with at most one of the other, so that as many match as can.
"""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from rlaifv.stages.dividers.content import content_words, is_negated, numbers

MATCH = 0.7
CONTAINED = 0.8


@dataclass(frozen=True, slots=True)
class DividedAnswer:
    """An answer to a question about an image, and its atomic checkable claims as an annotator wrote them."""

    id: str
    style: str
    question: str
    answer: str
    claims: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Division:
    """Counts over answers; they add up, and the rates are of the sums.

    Attributes:
        num_answers: answers that were divided, those that failed included.
        num_failed: answers of which the divider made nothing.
        num_true: claims that annotators wrote.
        num_found: claims that the divider made.
        num_matched: one-to-one matches of the two.
        num_atomic: claims of the divider that hold no more than one of the annotators'.
    """

    num_answers: int = 0
    num_failed: int = 0
    num_true: int = 0
    num_found: int = 0
    num_matched: int = 0
    num_atomic: int = 0

    def __add__(self, other: "Division") -> "Division":
        return Division(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def rates(self) -> dict[str, float]:
        """Return recall and precision of claims, their harmonic mean, and atomicity; a rate of nothing is 1."""
        recall, precision = _rate(self.num_matched, self.num_true), _rate(self.num_matched, self.num_found)
        f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        return {
            "recall": recall,
            "precision": precision,
            "f1": f1,
            "atomicity": _rate(self.num_atomic, self.num_found),
        }


def read_divided_answers(path: Path) -> list[DividedAnswer]:
    """Read answers from JSON lines with the keys of `DividedAnswer`.

    Raises:
        ValueError: a line is no such object; the message names file and line.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            answer = DividedAnswer(row["id"], row["style"], row["question"], row["answer"], tuple(row["claims"]))
            if not all(isinstance(text, str) for text in (*astuple(answer)[:-1], *answer.claims)):
                raise TypeError("not text")
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}, must be an object with id, style, question and answer as text, and claims as a list."
            ) from error
        found.append(answer)
    return found


def compare(true: Sequence[str], found: Sequence[str] | None) -> Division:
    """Count what a divider found of an answer's `true` claims; None where it failed.

    >>> compare(["The cat is black.", "A dog runs."], ["The black cat.", "A dog is not running."]).num_matched
    1
    """
    if found is None:
        return Division(num_answers=1, num_failed=1, num_true=len(true))
    return Division(
        num_answers=1,
        num_true=len(true),
        num_found=len(found),
        num_matched=_num_matches([[matches(some, other) for other in found] for some in true]),
        num_atomic=sum(_num_contained(claim, true) <= 1 for claim in found),
    )


def matches(claim: str, other: str) -> bool:
    """Return whether two statements say the same, by the rule above.

    >>> matches("Two dogs are lying on the grass.", "2 dogs lie on the grass"), matches("Two dogs.", "Three dogs.")
    (True, False)
    """
    words, others = content_words(claim), content_words(other)
    if is_negated(claim) != is_negated(other) or numbers(words) != numbers(others):
        return False
    both = len(words & others)
    return both > 0 and 2 * both / (len(words) + len(others)) >= MATCH


def _num_contained(claim: str, true: Sequence[str]) -> int:
    """Return how many true claims one statement holds; what is part of another one's words is not counted beside it."""
    words = content_words(claim)
    held = {some for some in map(content_words, true) if some and len(some & words) >= CONTAINED * len(some)}
    return sum(not any(some < other for other in held) for some in held)


def _num_matches(may_match: Sequence[Sequence[bool]]) -> int:
    """Return the size of a largest one-to-one matching (augmenting paths)."""
    owner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, allowed in enumerate(may_match[row]):
            if allowed and column not in seen:
                seen.add(column)
                if column not in owner or place(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return sum(place(row, set()) for row in range(len(may_match)))


def _rate(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
