"""What a world knows about its images. It measures; no stage of the feedback ever sees it."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Truth(Protocol):
    """The truth about the images of a world's prompts, by prompt id."""

    def facts(self, prompt_id: str) -> list[str]:
        """One sentence per object of the image."""
        ...

    def holds(self, prompt_id: str, claim: str) -> bool:
        """Whether a claim is true of the image; what cannot be read as a claim is false."""
        ...

    def covered(self, prompt_id: str, claims: Sequence[str]) -> int:
        """How many of the image's objects the claims name correctly."""
        ...

    def exam(self, prompt_id: str) -> list[tuple[str, bool]]:
        """Yes/no questions with their answers, half of them true, to test a labeler with."""
        ...
