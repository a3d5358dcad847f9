"""Kinds of prompts: by rules, and by a labeler that is asked."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from rlaifv.records import Prompt, Route
from rlaifv.stages.routes import RouteByLabeler, RouteByRules
from rlaifv.stages.score import Wording
from rlaifv.stages.stage import Task


def prompts(*questions: str) -> list[Prompt]:
    return [Prompt(f"p{k}", question, ()) for k, question in enumerate(questions)]


def test_rules_tell_facts_from_other_wishes() -> None:
    made = RouteByRules()(
        Task(), prompts("Describe the image in detail.", "How many dogs are there?", "Write a poem about it.", "Hm.")
    )
    assert [route.kind for route in made.records] == ["fact", "fact", "other", "unknown"]
    assert made.drops == {"no_route": 1}


def test_a_wish_that_speaks_of_facts_is_still_a_wish() -> None:
    assert RouteByRules()(Task(), prompts("Write a story about what you see.")).records == [Route("p0", "other")]


def test_rules_can_be_given() -> None:
    made = RouteByRules(fact="^describe", other="^what is at")(Task(), prompts("What is at the top?", "Describe it."))
    assert [route.kind for route in made.records] == ["other", "fact"]
    with pytest.raises(ValueError, match="pattern 'fact' of RouteByRules is no regular expression"):
        RouteByRules(fact="(")


def test_a_labeler_is_asked_about_each_prompt() -> None:
    asked: list[str] = []

    def answer(questions: Sequence[tuple[Prompt, Sequence[str]]], advance: Any) -> list[list[tuple[float, float]]]:
        asked.extend(text for _, some in questions for text in some)
        known = {"p0": (0.9, 0.1), "p1": (0.2, 0.8), "p2": (0.0, 0.0)}
        return [[known[prompt.id]] for prompt, _ in questions]

    labeler: Any = SimpleNamespace(engine=SimpleNamespace(answer_probabilities=answer), wording=Wording(suffix=" Yes?"))
    made = RouteByLabeler(labeler, 'Does "{question}" ask for facts?')(Task(), prompts("One {x}?", "Two?", "Three?"))
    assert [route.kind for route in made.records] == ["fact", "other", "unknown"]
    assert asked[0] == 'Does "One {x}?" ask for facts? Yes?'
    assert made.drops == {"no_route": 1}
    with pytest.raises(ValueError, match=r"lacks \{question\}"):
        RouteByLabeler(labeler, "Facts?")
