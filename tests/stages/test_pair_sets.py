"""FLAME's sets of pairs by hand: extremes by each reward, vetoes, and the mixture."""

from typing import Any

import pytest

from rlaifv.records import AnswerScore, Route
from rlaifv.stages.pair_sets import BuildPairSets, PairSet
from rlaifv.stages.stage import Task
from rlaifv.stages.terms import Claims, Score, Supported
from tests.stages.test_comparisons import of_many, tables

SAID = {"a": Claims(verdict="accepted"), "r": Claims(verdict="rejected")}
TRUE = {"supported": Supported()}
FACT = [Route("p", "fact")]


def build(stage: BuildPairSets, found: Any, routes: list[Route] = FACT, scores: Any = ()) -> tuple[list[str], Any]:
    """Return which answer is preferred to which in which set, and drops."""
    prompts, responses, claims, judgements = found
    extra = (scores,) if "scores" in stage.reads else ()
    made = stage(Task(), prompts, routes, responses, claims, judgements, *extra)
    texts = {response.id: response.text for response in responses}
    shown = [
        f"{one.id.partition(':')[0]}: {texts[one.chosen_response_id]} > {texts[one.rejected_response_id]}"
        for one in made.records
    ]
    return shown, dict(made.drops)


ANSWERS = tables(("true", "aa"), ("long", "aaar"), ("short", "a"), ("wrong", "rr"))


def test_each_set_has_the_extremes_of_its_reward() -> None:
    stage = BuildPairSets({"helpful": PairSet(SAID), "factual": PairSet(TRUE)})
    assert sorted(build(stage, ANSWERS)[0]) == ["factual: true > wrong", "helpful: long > short"]


def test_a_helpful_answer_that_is_less_true_is_no_preference() -> None:
    stage = BuildPairSets({"helpful": PairSet(SAID, not_worse=["factual"]), "factual": PairSet(TRUE)})
    shown, drops = build(stage, ANSWERS)
    assert shown == ["factual: true > wrong"]
    assert drops == {"helpful/worse": 1}


def test_a_fact_pair_of_unequal_helpfulness_is_dropped() -> None:
    found = tables(("true", "aaaa"), ("wrong", "r"))
    sets = {"helpful": PairSet(SAID), "factual": PairSet(TRUE, max_gaps={"helpful": 2.0})}
    assert build(BuildPairSets(sets), found)[1] == {"factual/gap": 1}
    sets["factual"] = PairSet(TRUE, max_gaps={"helpful": 3.0})
    assert "factual: true > wrong" in build(BuildPairSets(sets), found)[0]


def test_a_set_of_facts_skips_other_prompts_and_unknown_ones() -> None:
    stage = BuildPairSets({"factual": PairSet(TRUE, kinds=["fact"])})
    assert len(build(stage, ANSWERS)[0]) == 1
    for kind in ("other", "unknown"):
        assert build(stage, ANSWERS, [Route("p", kind)]) == ([], {})


def test_ties_and_unusable_answers_are_counted() -> None:
    stage = BuildPairSets({"factual": PairSet(TRUE)})
    assert build(stage, tables(("one", "a"), ("two", "aa")))[1] == {"factual/tie": 1}
    assert build(stage, tables(("one", "a"), ("odd", "u"), (" ", ""), ("mute", "")))[1] == {
        "unknown": 1,
        "empty_response": 1,
        "no_claims": 1,
        "factual/tie": 1,
    }


def test_a_reward_may_be_a_rating() -> None:
    scores = [
        AnswerScore(f"p/{k}", "p", "labeler", ("helpful",), (value,), (1,))
        for k, value in enumerate((0.1, 0.9, 0.5, 0.2))
    ]
    stage = BuildPairSets({"helpful": PairSet({"rating": Score(name="labeler/helpful")})})
    assert build(stage, ANSWERS, scores=scores)[0] == ["helpful: long > true"]


def test_sets_are_mixed_by_their_weights_and_what_is_left_over_is_counted() -> None:
    found = of_many(("true", "aa"), ("wrong", "rr"), ("full", "aaar"))
    routes = [Route(prompt.id, "fact") for prompt in found[0]]
    stage = BuildPairSets({"helpful": PairSet(SAID, weight=1.0), "factual": PairSet(TRUE, weight=3.0)})
    shown, drops = build(stage, found, routes)
    sizes = {name: sum(one.startswith(name) for one in shown) for name in ("helpful", "factual")}
    assert sizes == {"helpful": 133, "factual": 400}
    assert drops == {"helpful/mixed_out": 267}


def test_sets_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="refers to 'useful'; there are factual"):
        BuildPairSets({"factual": PairSet(TRUE, not_worse=["useful"])})
    with pytest.raises(ValueError, match="no set of pairs"):
        BuildPairSets({"factual": None})
    with pytest.raises(ValueError, match="needs a reward"):
        PairSet({})
    with pytest.raises(ValueError, match="weight of a set of pairs must be above 0"):
        PairSet(TRUE, weight=0.0)


def test_an_empty_set_does_not_empty_the_others() -> None:
    stage = BuildPairSets({"never": PairSet(TRUE, min_gap=9.0), "factual": PairSet(TRUE)})
    assert build(stage, ANSWERS) == (["factual: true > wrong"], {"never/tie": 1})
