"""Find the claims of an answer in its text, to mark them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlaifv.report.run import JudgedClaim


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of an answer, with the claim that is stated in it, if any."""

    text: str
    claim: JudgedClaim | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in segments that join to its text, and the claims whose words do not stand in it."""

    segments: tuple[Segment, ...]
    elsewhere: tuple[JudgedClaim, ...]


def mark_claims(text: str, claims: Sequence[JudgedClaim]) -> Answer:
    """Find each claim in the text, ignoring case, spacing and its final full stop; claims never share a character.

    A place that a sentence opens with may stand at the end of its claim. A claim that the divider worded anew in any other
    way is not guessed at: it goes to `elsewhere`.
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
    """Patterns of a claim as it stands, then with each end of it said first, as in "In front, there is a dog"."""
    words = [re.escape(word) for word in claim.rstrip(" .").split()]
    for k in range(len(words)):
        stated = [*words[k:-1], words[-1] + ",", *words[:k]] if k else words
        yield r"(?<!\w)" + r"\s+".join(stated) + r"(?!\w)\.?"


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]
