"""What stages need of a model: sample answers, and answer yes/no questions."""

from collections.abc import Callable, Sequence
from typing import Protocol

from rlaifv.models.sampling import Decoding, Sampled
from rlaifv.records import Prompt

Advance = Callable[[int], None]
"""Progress callback; takes the number of prompts that were just finished."""


def ignore_progress(num_finished: int) -> None:
    """Show no progress."""


class Sampler(Protocol):
    """Draws answers to prompts from one policy with one decoding."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[Sequence[int]],
        decoding: Decoding,
        advance: Advance = ignore_progress,
    ) -> list[list[Sampled]]:
        """Return one answer per seed for each prompt; an answer depends on its prompt and its seed alone."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of emitted ids, without special tokens."""
        ...


class Labeler(Protocol):
    """Answers yes/no questions about images."""

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        """For each prompt and question, (p_yes, p_no): full-vocabulary probabilities of the first answer token,
        summed over {yes, Yes} and {no, No}. Every question is a conversation of its own about the prompt's images.
        """
        ...
