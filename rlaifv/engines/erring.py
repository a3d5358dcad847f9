"""A labeler that errs as often as one wants: what feedback of a poor labeler does can then be tried."""

import random
from collections.abc import Sequence

from rlaifv.engines.protocol import Advance, Labeler, ignore_progress
from rlaifv.records import Prompt
from rlaifv.runtime.seeds import derive_seed


class ErringLabeler:
    """Gives some questions the opposite answer of another labeler's.

    Which ones depends on prompt and question alone: asked again, in whatever company, an error stays.

    Args:
        labeler: whose answers are turned around.
        error_rate: share of questions with the opposite answer, from 0 to 1.
    """

    def __init__(self, labeler: Labeler, error_rate: float) -> None:
        self.labeler, self.error_rate = labeler, error_rate
        self.model = getattr(labeler, "model", None)
        self.prompter = getattr(labeler, "prompter", None)

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        """See `Labeler`."""
        answered = self.labeler.answer_probabilities(asked, advance)
        return [
            [
                (p_no, p_yes) if self._errs(prompt, question) else (p_yes, p_no)
                for question, (p_yes, p_no) in zip(questions, answers, strict=True)
            ]
            for (prompt, questions), answers in zip(asked, answered, strict=True)
        ]

    def _errs(self, prompt: Prompt, question: str) -> bool:
        return random.Random(derive_seed("erring labeler", prompt.id, question)).random() < self.error_rate
