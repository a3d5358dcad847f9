"""Given preferences become comparisons."""

from dataclasses import replace
from typing import Any

import pytest

from rlaifv.engines.local import LocalEngine
from rlaifv.models.prompting import Prompter
from rlaifv.models.reward_head import RewardSpec
from rlaifv.records import Comparison, Pair, Prompt
from rlaifv.stages.comparisons import (
    CompareGiven,
)
from rlaifv.stages.stage import Task


def given(prompt: Prompt, chosen: str = "A red ring.", rejected: str = "A blue star.", name: str = "g") -> Pair:
    return Pair(name, prompt.id, "", "", chosen, rejected, (), (), -1.0, -3.5)


def test_a_given_preference_becomes_a_comparison(model: Any, prompter: Prompter, prompts: list[Prompt]) -> None:
    engine, finished = LocalEngine(model, prompter), list[int]()
    stage = CompareGiven(engine, RewardSpec(), held_out=1.0)
    made = stage(Task(advance=finished.append), prompts[:2], [given(prompts[1])])
    first, second = (prompter.completion_ids(prompts[1], text) for text in ("A red ring.", "A blue star."))
    num_tokens = len(prompter.encode(prompts[1]).ids)
    # -1 - -3.5 = 2.5.
    assert made.records == [Comparison("g", prompts[1].id, first, second, (1.0,), (2.5,), True, num_tokens)]
    assert (made.drops, sum(finished)) == ({}, 1)


def test_given_token_ids_stay_as_they_are(model: Any, prompter: Prompter, prompts: list[Prompt]) -> None:
    sampled = replace(given(prompts[0]), chosen_token_ids=(48, 73, 3), rejected_token_ids=(48, 75, 3))
    (one,) = CompareGiven(LocalEngine(model, prompter), RewardSpec(), 0.0)(Task(), prompts[:1], [sampled]).records
    assert (one.first_token_ids, one.second_token_ids, one.is_held_out) == ((48, 73, 3), (48, 75, 3), False)


def test_given_preferences_that_do_not_fit_are_dropped(model: Any, prompter: Prompter, prompts: list[Prompt]) -> None:
    pairs = [given(prompts[0], "red " * 600, name="long"), given(prompts[0], name="fits")]
    made = CompareGiven(LocalEngine(model, prompter), RewardSpec())(Task(), prompts[:1], pairs)
    assert [one.id for one in made.records] == ["fits"]
    assert made.drops == {"too_long": 1}


def test_given_preferences_are_of_one_criterion(model: Any, prompter: Prompter) -> None:
    with pytest.raises(ValueError, match="of one criterion, but the reward model has 2 heads"):
        CompareGiven(LocalEngine(model, prompter), RewardSpec(("true", "full")))
