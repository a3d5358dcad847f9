"""Ratings of whole answers by a labeler."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from rlaifv.records import Prompt, Response
from rlaifv.stages.rate import RateAnswers
from rlaifv.stages.score import Wording
from rlaifv.stages.stage import Task

FORMS = {"helpful": "Q: {question} A: {answer} Helpful?", "polite": "{answer} Polite?"}


def test_every_answer_is_rated_by_every_question() -> None:
    asked: list[str] = []

    def answer(questions: Sequence[tuple[Prompt, Sequence[str]]], advance: Any) -> list[list[tuple[float, float]]]:
        asked.extend(text for _, some in questions for text in some)
        return [[(0.3, 0.1), (0.0, 0.0), (0.1, 0.4), (float("nan"), 0.1)] for _ in questions]

    labeler: Any = SimpleNamespace(engine=SimpleNamespace(answer_probabilities=answer), wording=Wording(suffix=""))
    prompts = [Prompt("p", "What {answer}?", ()), Prompt("q", "?", ())]
    responses = [
        Response("p/0", "p", "A {question}.", (1, 2), True, 0),
        Response("p/1", "p", "B.", (1,), True, 0),
        Response("q/0", "q", " ", (1,), True, 0),
    ]
    made = RateAnswers(labeler, FORMS)(Task(), prompts, responses)
    assert asked[0] == "Q: What {answer}? A: A {question}. Helpful?"
    assert [(one.response_id, one.names, one.ends) for one in made.records] == [
        ("p/0", ("helpful", "polite"), (1,)),
        ("p/1", ("helpful", "polite"), (0,)),
    ]
    assert [one.values for one in made.records] == [pytest.approx((0.75, 0.5)), pytest.approx((0.2, 0.5))]
    with pytest.raises(ValueError, match=r"'polite' lacks \{answer\}"):
        RateAnswers(labeler, {"polite": "Polite?"})
    with pytest.raises(ValueError, match="no question"):
        RateAnswers(labeler, {})
