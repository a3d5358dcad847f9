"""Locate the claims of an answer in its text so that the report can highlight them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlaifv.report.run import JudgedClaim


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of an answer's text and the claim that it states, if any."""

    text: str
    claim: JudgedClaim | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as consecutive segments of its text, plus the claims that were not found in the text (`elsewhere`)."""

    segments: tuple[Segment, ...]
    elsewhere: tuple[JudgedClaim, ...]


def mark_claims(text: str, claims: Sequence[JudgedClaim]) -> Answer:
    """Find each claim in the text, ignoring case, whitespace and a final full stop. Spans of claims never overlap.

    A phrase at the end of a claim may open the sentence in the text ("In front, there is a dog"). Claims that the
    divider reworded in any other way go to `elsewhere`.
    """
    taken: list[tuple[int, int, JudgedClaim]] = []
    elsewhere: list[JudgedClaim] = []
    for claim in claims:
        spans = (
            match.span() for pattern in _wordings(claim.text) for match in re.finditer(pattern, text, re.IGNORECASE)
        )
        span = next((span for span in spans if all(not _overlap(span, other[:2]) for other in taken)), None)
        if span is None:
            elsewhere.append(claim)
        else:
            taken.append((*span, claim))
    segments: list[Segment] = []
    end = 0
    for start, stop, claim in sorted(taken, key=lambda place: place[0]):
        if start > end:
            segments.append(Segment(text[end:start]))
        segments.append(Segment(text[start:stop], claim))
        end = stop
    if end < len(text):
        segments.append(Segment(text[end:]))
    return Answer(tuple(segments), tuple(elsewhere))


def _wordings(claim: str) -> Iterator[str]:
    """Yield regular expressions for a claim: as it is, then with each possible ending moved to the front."""
    words = [re.escape(word) for word in claim.rstrip(" .").split()]
    for k in range(len(words)):
        stated = [*words[k:-1], words[-1] + ",", *words[:k]] if k else words
        yield r"(?<!\w)" + r"\s+".join(stated) + r"(?!\w)\.?"


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]
