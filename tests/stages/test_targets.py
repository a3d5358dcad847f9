"""Targets of fine-tuning: what people wrote, and what the policy says and the labeler accepts."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from rlaifv.data.rows import Row
from rlaifv.records import Claim, Judgement, Prompt, Response, Route
from rlaifv.stages.stage import Task
from rlaifv.stages.targets import ChooseTargets, GivenTargets, RoutedTargets
from tests.stages.test_comparisons import tables

PROMPT = Prompt("p", "What is it?", (), demonstration=" A dog. ")


class Source:
    """Prompts with pairs, as published data have them."""

    digest = "d"

    def prompts(self, iteration: int, num_prompts: int | None) -> list[Prompt]:
        return []

    def held_out(self) -> list[Prompt]:
        return []

    def answers(self, prompt: Prompt) -> list[Row]:
        return [Row(str(k), "?", (), chosen, "worse") for k, chosen in enumerate(("A cat.", "A cat.", "Two cats."))]


def policy(max_positions: int | None = None, has_history: bool = True) -> Any:
    """Encodes an answer as the lengths of its words and an end token."""
    prompter = SimpleNamespace(
        completion_ids=lambda prompt, text: (*map(len, text.split()), 0),
        template=SimpleNamespace(has_history=has_history),
    )
    return SimpleNamespace(prompter=prompter, max_positions=max_positions, num_tokens=lambda prompt: 5)


def of(*answers: tuple[str, str]) -> tuple[list[Prompt], list[Response], list[Claim], list[Judgement]]:
    return tables(*answers, prompt=PROMPT)


def test_a_demonstration_is_the_target() -> None:
    (target,) = GivenTargets(policy(), Source())(Task(), [PROMPT]).records
    assert (target.prompt_id, target.token_ids, target.source, target.prompt_tokens) == ("p", (1, 4, 0), "person", 5)


def test_without_one_the_chosen_answers_are_each_once() -> None:
    made = GivenTargets(policy(), Source())(Task(), [replace(PROMPT, demonstration="")])
    assert [target.token_ids for target in made.records] == [(1, 4, 0), (3, 5, 0)]


@pytest.mark.parametrize(
    ("prompt", "made_by", "reason"),
    [
        (replace(PROMPT, demonstration=""), {}, "no_demonstration"),
        (PROMPT, {"max_positions": 7}, "too_long"),
        (replace(PROMPT, history=("Hi.", "Hello.")), {"has_history": False}, "no_history"),
    ],
)
def test_prompts_without_a_usable_answer_are_counted(prompt: Prompt, made_by: dict[str, Any], reason: str) -> None:
    source: Any = SimpleNamespace()
    made = GivenTargets(policy(**made_by), source)(Task(), [prompt])
    assert (made.records, made.drops) == ([], {reason: 1})


def texts(made: Sequence[Any], responses: Sequence[Response]) -> list[str]:
    by_ids = {response.token_ids: response.text for response in responses}
    return [by_ids[target.token_ids] for target in made]


def test_the_best_of_the_accepted_answers_are_taken() -> None:
    """The answer with three claims has a rejected one; of equal texts, one counts; unknown verdicts disqualify."""
    found = of(("one", "a"), ("wrong", "aar"), ("two", "aa"), ("two", "aa"), ("odd", "aau"), ("mute", ""))
    made = ChooseTargets(policy(), Source(), per_prompt=2)(Task(), *found)
    assert texts(made.records, found[1]) == ["two", "one"]
    assert {target.source for target in made.records} == {"policy"}
    tolerant = ChooseTargets(policy(), Source(), per_prompt=1, score_weight=0.5, max_rejected=0.4)
    (best,) = tolerant(Task(), *of(("one", "a"), ("wrong", "aaar"))).records
    assert best.id == "p/1/policy"


def test_a_prompt_without_a_good_answer_is_counted() -> None:
    found = of(("wrong", "ar"), ("silent", "r"))
    cut = [replace(response, finished=False) for response in of(("true", "a"))[1]]
    stage = ChooseTargets(policy(), Source())
    assert stage(Task(), *found).drops == {"no_good_answer": 1}
    prompts, _, claims, judgements = of(("true", "a"))
    assert stage(Task(), prompts, cut, claims, judgements).drops == {"no_good_answer": 1}


def test_routes_decide_whose_answer_is_learned() -> None:
    found = of(("true", "a"))
    stage = RoutedTargets(policy(), Source())
    sources = {
        kind: [one.source for one in stage(Task(), *found, [Route("p", kind)]).records]
        for kind in ("fact", "other", "unknown")
    }
    assert sources == {"fact": ["policy"], "other": ["person"], "unknown": []}


@pytest.mark.parametrize("wrong", [{"per_prompt": 0}, {"max_rejected": 1.5}, {"score": "sum"}, {"score_weight": 0.0}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ChooseTargets(policy(), Source(), **wrong)
