from collections.abc import Sequence

from rlaifv.engines.erring import ErringLabeler
from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.records import Prompt


class SureLabeler:
    """Says yes to everything, but not no to nothing."""

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        advance(len(asked))
        return [[(0.9, 0.1)] * len(questions) for _, questions in asked]


PROMPTS = [Prompt(f"p{k}", "What is it?", ()) for k in range(40)]
QUESTIONS = [f"Is there a star {k}?" for k in range(50)]


def turned(rate: float) -> list[bool]:
    answers = ErringLabeler(SureLabeler(), rate).answer_probabilities([(prompt, QUESTIONS) for prompt in PROMPTS])
    assert {answer for some in answers for answer in some} <= {(0.9, 0.1), (0.1, 0.9)}
    return [answer == (0.1, 0.9) for some in answers for answer in some]


def test_errs_at_its_rate() -> None:
    assert not any(turned(0.0))
    assert all(turned(1.0))
    assert 0.22 < sum(turned(0.25)) / 2000 < 0.28


def test_an_error_stays_whatever_else_is_asked() -> None:
    """So that asking again, or in another batch, does not mend it."""
    labeler = ErringLabeler(SureLabeler(), 0.5)
    together = labeler.answer_probabilities([(prompt, QUESTIONS) for prompt in PROMPTS[:3]])
    alone = [
        [labeler.answer_probabilities([(prompt, [question])])[0][0] for question in QUESTIONS] for prompt in PROMPTS[:3]
    ]
    assert alone == together
    assert together[0] != together[1]


def test_progress_is_passed_on() -> None:
    told: list[int] = []
    ErringLabeler(SureLabeler(), 0.5).answer_probabilities([(prompt, QUESTIONS) for prompt in PROMPTS[:3]], told.append)
    assert told == [3]
