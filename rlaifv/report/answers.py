"""Where the claims of an answer stand in its text, so that a page can mark them there."""

import re
from collections.abc import Sequence
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

    A divider may word a claim anew. Such a claim is not guessed at: it goes to `elsewhere`.
    """
    taken: list[tuple[int, int, JudgedClaim]] = []
    elsewhere: list[JudgedClaim] = []
    for claim in claims:
        words = [re.escape(word) for word in claim.text.rstrip(" .").split()]
        pattern = r"(?<!\w)" + r"\s+".join(words) + r"(?!\w)\.?"
        matches = re.finditer(pattern, text, re.IGNORECASE) if words else ()
        free = (match.span() for match in matches if all(not _overlap(match.span(), span[:2]) for span in taken))
        span = next(free, None)
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


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]
