"""Answers into comparisons: by claims, by a labeler that is asked in both orders, or as they are given."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log
from types import SimpleNamespace
from typing import Any

import pytest

from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.models.prompting import Prompter
from rlaifv.models.reward_head import RewardSpec
from rlaifv.records import Claim, Comparison, Judgement, Prompt, Response, Verdict
from rlaifv.stages.comparisons import (
    UNKNOWN,
    CompareByClaims,
    CompareByLabeler,
    CompareGiven,
    Weights,
    is_held_out,
)
from rlaifv.stages.score import Wording
from rlaifv.stages.stage import Made, Task

POLICY: Any = SimpleNamespace(num_tokens=lambda prompt: len(prompt.question.split()))
PROMPT = Prompt("p", "What is it?", ())
# Of these, the first is held out at a share of one half, the second is not.
HELD_OUT, TRAINED = Prompt("p0", "What is it?", ()), Prompt("p2", "What is it?", ())
TRUE, FULL, SHORT = Weights(rejected=-1.0), Weights(accepted=1.0), Weights(words=-1.0)
FORM = "{question} Is A better by {criterion}? A: {first} B: {second}"
Shares = Callable[[str, str], tuple[float, float]]


def tables(
    *answers: tuple[str, str], prompt: Prompt = PROMPT
) -> tuple[list[Prompt], list[Response], list[Claim], list[Judgement]]:
    """Answers to a prompt: text and verdicts (a: accepted, r: rejected, u: unknown) of distinct claims."""
    names: dict[str, Verdict] = {"a": "accepted", "r": "rejected", "u": "unknown"}
    responses, claims, judgements = [], [], []
    for k, (text, letters) in enumerate(answers):
        ids = (f"{prompt.id}/{k}", prompt.id)
        responses.append(Response(*ids, text, (k, 9), True, 0))
        for j, letter in enumerate(letters):
            claims.append(Claim(f"{ids[0]}/{j}", *ids, "It is.", f"Is it {j}?"))
            judgements.append(Judgement(f"{ids[0]}/{j}", *ids, 0.5, 0.5, names[letter]))
    return [prompt], responses, claims, judgements


def of_many(*answers: tuple[str, str]) -> tuple[list[Prompt], list[Response], list[Claim], list[Judgement]]:
    """The same answers to each of 400 prompts."""
    whole: tuple[list[Prompt], list[Response], list[Claim], list[Judgement]] = ([], [], [], [])
    for k in range(400):
        prompts, responses, claims, judgements = tables(*answers, prompt=Prompt(f"p{k}", "?", ()))
        whole[0].extend(prompts)
        whole[1].extend(responses)
        whole[2].extend(claims)
        whole[3].extend(judgements)
    return whole


def by_claims(criteria: dict[str, Weights | None], **settings: Any) -> CompareByClaims:
    heads = tuple(name for name, weights in criteria.items() if weights is not None)
    return CompareByClaims(POLICY, RewardSpec(heads), criteria, **{"per_prompt": 0, "held_out": 0.0, **settings})


def seen(made: Made) -> dict[tuple[str, str], tuple[tuple[float, ...], tuple[float, ...]]]:
    """Preferences and margins by the ids of the two answers, as if the one with the lower id stood first."""
    found = {}
    for one in made.records:
        first, _, second = one.id.partition(">")
        turned = tuple(p if p == UNKNOWN else 1 - p for p in one.preferences)
        found[min(first, second), max(first, second)] = (one.preferences if first < second else turned), one.margins
    assert len(found) == len(made.records)
    return found


class Asked:
    """A labeler that gets two answers and says how likely the first is better; notes what it was asked."""

    wording = Wording("")

    def __init__(self, shares: Shares) -> None:
        self.shares, self.engine = shares, self
        self.calls: list[tuple[str, list[str]]] = []

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        self.calls += [(prompt.id, list(questions)) for prompt, questions in asked]
        advance(len(asked))
        return [[self._answer(question) for question in questions] for _, questions in asked]

    def _answer(self, question: str) -> tuple[float, float]:
        first, _, second = question.partition(" A: ")[2].partition(" B: ")
        return self.shares(first, second)


def by_labeler(shares: Shares, criteria: dict[str, str] | None = None, **settings: Any) -> CompareByLabeler:
    criteria = criteria or {"score": "truth"}
    labeler: Any = Asked(shares)
    settings = {"held_out": 0.0, "is_soft": True, **settings}
    return CompareByLabeler(POLICY, RewardSpec(tuple(criteria)), labeler, criteria, FORM, **settings)


def both_orders(stage: CompareByLabeler, *answers: str) -> dict[str, Comparison]:
    """Comparisons of two answers, by id, of so many seeds that each of them stands first in some."""
    responses = tables(*((text, "") for text in answers))[1]
    found = {}
    for seed in range(20):
        for one in stage(Task(seed=seed), [PROMPT], responses).records:
            found[one.id] = one
    return found


def test_the_same_prompts_are_held_out_in_every_run() -> None:
    names = [f"p{k}" for k in range(2000)]
    some, more = ({name for name in names if is_held_out(name, share)} for share in (0.1, 0.3))
    assert some < more
    assert 150 < len(some) < 250
    assert not any(is_held_out(name, 0.0) for name in names)
    assert all(is_held_out(name, 1.0) for name in names)
    # What "every run" means: drawn by the name alone, these are the first twelve.
    assert [is_held_out(name, 0.5) for name in names[:12]] == [letter == "x" for letter in "xx..x.x.xxxx"]


def test_a_value_is_a_weighted_sum() -> None:
    weights = Weights(accepted=0.5, rejected=-2.0, words=0.1)
    assert weights.value({"accepted": 3, "rejected": 1, "unknown": 9}, 10) == pytest.approx(0.5)  # 1.5 - 2 + 1
    assert weights.value({}, 0) == 0.0


def test_answers_are_compared_by_each_criterion() -> None:
    # By truth -1 and 0, by accepted claims 2 and 1, by words -3 and -3.
    answers = tables(("A big cat.", "aar"), ("A small dog.", "a"))
    made = by_claims({"true": TRUE, "full": FULL, "short": SHORT})(Task(), *answers)
    assert seen(made) == {("p/0", "p/1"): ((0.0, 1.0, UNKNOWN), (1.0, 1.0, 0.0))}
    (one,) = made.records
    first, second = one.id.split(">")
    ids = {response.id: response.token_ids for response in answers[1]}
    assert (one.first_token_ids, one.second_token_ids) == (ids[first], ids[second])
    assert (one.prompt_id, one.is_held_out, one.prompt_tokens) == ("p", False, 3)


def test_margins_are_in_the_units_of_the_criterion() -> None:
    # -4 * 2 and -4 * 0 of rejected claims, 0.5 * 1 and 0.5 * 4 words: -7.5 and 2.
    criteria: dict[str, Weights | None] = {"both": Weights(rejected=-4.0, words=0.5)}
    made = by_claims(criteria)(Task(), *tables(("Cat.", "rr"), ("A dog is here.", "a")))
    assert seen(made) == {("p/0", "p/1"): ((0.0,), (9.5,))}


def test_a_claim_that_is_repeated_counts_once() -> None:
    prompts, responses, claims, judgements = tables(("A cat.", "aa"), ("A dog.", "a"))
    repeated = [replace(claim, question="Is it?") for claim in claims]
    made = by_claims({"full": FULL})(Task(), prompts, responses, repeated, judgements)
    assert (made.records, made.drops) == ([], {"tie": 1})


def test_answers_that_cannot_be_compared_are_dropped_and_counted() -> None:
    some = tables(("", "a"), ("Cut", "a"), ("Hm.", ""), ("Odd.", "au"), ("One.", "a"), ("Two.", "r"), ("Three.", "a"))
    responses = [replace(one, finished=one.text != "Cut") for one in some[1]]
    made = by_claims({"true": TRUE})(Task(), some[0], responses, *some[2:])
    assert seen(made) == {("p/4", "p/5"): ((1.0,), (1.0,)), ("p/5", "p/6"): ((0.0,), (1.0,))}
    assert made.drops == {"empty_response": 1, "truncated": 1, "no_claims": 1, "unknown": 1, "tie": 1}


def test_answers_of_the_same_words_are_one() -> None:
    made = by_claims({"true": TRUE})(Task(), *tables(("A cat.", "a"), (" A cat.\n", "a"), ("A dog.", "r")))
    assert len(made.records) == 1
    assert made.drops == {}


@pytest.mark.parametrize(("per_prompt", "wanted"), [(0, 6), (2, 2), (6, 6), (9, 6)])
def test_a_prompt_has_so_many_comparisons_at_most(per_prompt: int, wanted: int) -> None:
    answers = tables(*((f"{k}.", "a" * (k + 1)) for k in range(4)))
    made = by_claims({"full": FULL}, per_prompt=per_prompt)(Task(), *answers)
    assert len(seen(made)) == wanted


def test_pairs_are_drawn_by_seed_and_prompt_alone() -> None:
    stage, answers = by_claims({"full": FULL}), tables(*((f"{k}.", "a" * (k + 1)) for k in range(4)))
    drawn = [tuple(one.id for one in stage(Task(seed=seed), *answers).records) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_better_answer_stands_first_as_often_as_second() -> None:
    made = by_claims({"true": TRUE})(Task(), *of_many(("Cat.", "a"), ("Dog.", "r")))
    assert 160 < sum(one.preferences[0] for one in made.records) < 240  # 200 with a deviation of 10


def test_a_judge_that_errs_prefers_long_answers_but_never_in_what_measures() -> None:
    criteria: dict[str, Weights | None] = {"true": TRUE, "short": SHORT}
    answers = (("A long and wrong one.", "rrr"), ("Right.", "a"))
    for prompt, share, wanted in (
        (TRAINED, 1.0, ((1.0, 1.0), (4.0, 4.0))),  # 5 words and 1, by all criteria
        (TRAINED, 0.0, ((0.0, 0.0), (3.0, 4.0))),
        (HELD_OUT, 1.0, ((0.0, 0.0), (3.0, 4.0))),
    ):
        made = by_claims(criteria, held_out=0.5, long_share=share)(Task(), *tables(*answers, prompt=prompt))
        assert list(seen(made).values()) == [wanted]
        assert [one.is_held_out for one in made.records] == [prompt is HELD_OUT]


def test_a_judge_errs_in_about_its_share_of_comparisons() -> None:
    made = by_claims({"true": TRUE}, long_share=0.25)(Task(), *of_many(("A long one.", "r"), ("Dog.", "a")))
    wrong = sum(preferences[0] for preferences, _ in seen(made).values())
    assert 65 < wrong < 135  # 100 with a deviation of 9


def test_a_criterion_can_be_left_out() -> None:
    stage = by_claims({"true": TRUE, "full": None})
    assert len(stage(Task(), *tables(("A.", "aa"), ("B.", "r"))).records[0].preferences) == 1


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_a_share_of_errors_that_is_none_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="long_share must be between 0 and 1"):
        by_claims({"true": TRUE}, long_share=wrong)


def test_a_criterion_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="All weights of a criterion are 0"):
        Weights()


def test_criteria_that_are_not_the_heads_are_refused() -> None:
    message = "heads are full, true, but answers are compared by true, full; name the same ones in the same order"
    with pytest.raises(ValueError, match=message):
        CompareByClaims(POLICY, RewardSpec(("full", "true")), {"true": TRUE, "full": FULL})
    labeler: Any = Asked(lambda first, second: (0.5, 0.5))
    with pytest.raises(ValueError, match="heads are score, but answers are compared by truth"):
        CompareByLabeler(POLICY, RewardSpec(), labeler, {"truth": "truth"}, FORM)


@pytest.mark.parametrize("lacking", ["first", "second", "criterion"])
def test_a_comparing_question_that_lacks_something_is_refused(lacking: str) -> None:
    labeler: Any = Asked(lambda first, second: (0.5, 0.5))
    form = FORM.replace(f"{{{lacking}}}", "")
    with pytest.raises(ValueError, match=rf"The form of the comparing question lacks \{{{lacking}\}}: "):
        CompareByLabeler(POLICY, RewardSpec(), labeler, {"score": "truth"}, form)


def test_a_preference_is_the_mean_of_both_orders() -> None:
    # The cat first: 0.9. The dog first: 0.5, so the cat 0.5. Together 0.7, with odds of 0.7 / 0.3.
    stage = by_labeler(lambda first, second: (0.9, 0.1) if first == "Cat." else (0.5, 0.5))
    found = both_orders(stage, "Cat.", "Dog.")
    assert found["p/0>p/1"].preferences == pytest.approx((0.7,))
    assert found["p/0>p/1"].margins == pytest.approx((log(0.7 / 0.3),))


def test_swapping_the_answers_swaps_the_preference() -> None:
    # The better one by name, and 0.2 more for whichever stands first.
    stage = by_labeler(lambda first, second: (0.75, 0.25) if first < second else (0.45, 0.55))
    found = both_orders(stage, "Cat.", "Dog.")
    assert {*found} == {"p/0>p/1", "p/1>p/0"}
    there, back = found["p/0>p/1"], found["p/1>p/0"]
    assert there.preferences[0] == pytest.approx(0.65)  # (0.75 + 0.55) / 2
    assert there.preferences[0] + back.preferences[0] == pytest.approx(1.0)
    assert there.margins == pytest.approx(back.margins)
    assert (there.first_token_ids, there.second_token_ids) == (back.second_token_ids, back.first_token_ids)


def test_a_mere_liking_for_the_first_answer_says_nothing() -> None:
    stage = by_labeler(lambda first, second: (0.8, 0.2))
    made = stage(Task(), *tables(("Cat.", ""), ("Dog.", ""))[:2])
    assert (made.records, made.drops) == ([], {"unknown": 1})


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_only_the_share_of_yes_counts(scale: float) -> None:
    stage = by_labeler(lambda first, second: (0.9 * scale, 0.1 * scale) if first == "Cat." else (0.1, 0.9))
    assert both_orders(stage, "Cat.", "Dog.")["p/0>p/1"].preferences == pytest.approx((0.9,))


def test_hard_preferences_are_the_likelier_side() -> None:
    stage = by_labeler(lambda first, second: (0.6, 0.4) if first == "Cat." else (0.4, 0.6), is_soft=False)
    found = both_orders(stage, "Cat.", "Dog.")
    assert (found["p/0>p/1"].preferences, found["p/1>p/0"].preferences) == ((1.0,), (0.0,))
    assert found["p/0>p/1"].margins == pytest.approx((log(0.6 / 0.4),))


def test_a_margin_of_certainty_is_finite() -> None:
    stage = by_labeler(lambda first, second: (1.0, 0.0) if first == "Cat." else (0.0, 1.0))
    found = both_orders(stage, "Cat.", "Dog.")["p/0>p/1"]
    assert found.preferences == (1.0,)
    assert found.margins == pytest.approx((log(1e6),), rel=1e-3)


@pytest.mark.parametrize("silence", [(0.0, 0.0), (float("nan"), 0.2), (float("inf"), 0.2)])
def test_one_order_without_an_answer_leaves_nothing_known(silence: tuple[float, float]) -> None:
    stage = by_labeler(lambda first, second: (0.9, 0.1) if first == "Cat." else silence)
    made = stage(Task(), *tables(("Cat.", ""), ("Dog.", ""))[:2])
    assert (made.records, made.drops) == ([], {"unknown": 1})


def test_every_criterion_is_asked_in_both_orders() -> None:
    criteria = {"true": "truth", "short": "brevity"}
    stage = by_labeler(lambda first, second: (0.9, 0.1) if first == "Cat." else (0.1, 0.9), criteria)
    labeler: Any = stage.labeler
    made = stage(Task(), *tables(("Cat.", ""), ("Dog.", ""))[:2])
    ((prompt_id, questions),) = labeler.calls
    assert prompt_id == "p"
    assert sorted(questions) == sorted(
        f"What is it? Is A better by {text}? A: {first} B: {second}"
        for text in ("truth", "brevity")
        for first, second in (("Cat.", "Dog."), ("Dog.", "Cat."))
    )
    assert ["truth" in question for question in questions] == [True, True, False, False]
    ((preferences, _),) = seen(made).values()
    assert preferences == pytest.approx((0.9, 0.9))


def test_one_criterion_may_be_unknown_alone() -> None:
    stage = by_labeler(lambda first, second: (0.5, 0.5), {"true": "truth", "short": "brevity"})
    labeler: Any = stage.labeler
    labeler._answer = lambda asked: (0.0, 0.0) if "truth" in asked else (0.9, 0.1) if "A: Cat" in asked else (0.1, 0.9)
    ((preferences, margins),) = seen(stage(Task(), *tables(("Cat.", ""), ("Dog.", ""))[:2])).values()
    assert preferences == pytest.approx((UNKNOWN, 0.9))
    assert margins == pytest.approx((0.0, log(9)))


def test_answers_may_hold_what_the_form_replaces() -> None:
    stage = by_labeler(lambda first, second: (0.9, 0.1))
    labeler: Any = stage.labeler
    stage(Task(), *tables(("A {second} {question}.", ""), ("A {first} {criterion}.", ""))[:2])
    assert sorted(labeler.calls[0][1]) == [
        "What is it? Is A better by truth? A: A {first} {criterion}. B: A {second} {question}.",
        "What is it? Is A better by truth? A: A {second} {question}. B: A {first} {criterion}.",
    ]


def test_prompts_without_a_pair_are_passed_over() -> None:
    """The second of three prompts has one answer only; the others' comparisons keep their own answers."""
    prompts = [Prompt(name, "What is it?", ()) for name in ("a", "b", "c")]
    texts = {"a": ("Ant.", "Bee."), "b": ("Cat.",), "c": ("Yak.", "Dog.")}
    responses = [one for prompt in prompts for one in tables(*((t, "") for t in texts[prompt.id]), prompt=prompt)[1]]
    finished: list[int] = []
    stage = by_labeler(lambda first, second: (0.8, 0.2) if first < second else (0.2, 0.8))
    found = seen(stage(Task(advance=finished.append), prompts, responses))
    assert found["a/0", "a/1"][0] == pytest.approx((0.8,))
    assert found["c/0", "c/1"][0] == pytest.approx((0.2,))
    assert len(found) == 2
    assert sum(finished) == 3


def test_a_labeler_is_not_asked_about_unfinished_or_empty_answers() -> None:
    stage = by_labeler(lambda first, second: (0.9, 0.1))
    labeler: Any = stage.labeler
    _, responses, _, _ = tables(("Cat.", ""), ("Dog", ""), (" ", ""))
    responses[1] = replace(responses[1], finished=False)
    made = stage(Task(), [PROMPT], responses)
    assert (made.records, made.drops) == ([], {"truncated": 1, "empty_response": 1})
    assert labeler.calls == []


def test_a_small_model_can_be_the_labeler(model: Any, prompter: Prompter, prompts: list[Prompt]) -> None:
    engine = LocalEngine(model, prompter)
    labeler: Any = SimpleNamespace(engine=engine, wording=Wording())
    _, responses, _, _ = tables(("There is a red ring.", ""), ("There is a blue star.", ""), prompt=prompts[0])
    stage = CompareByLabeler(engine, RewardSpec(), labeler, {"score": "truth"}, FORM, is_soft=True, held_out=0.0)
    (one,) = stage(Task(), prompts[:1], responses).records
    assert 0 < one.preferences[0] < 1
    assert one.prompt_tokens == len(prompter.encode(prompts[0]).ids)


def test_lengths_are_of_prompts_as_the_reward_model_reads_them() -> None:
    spec = RewardSpec(("true",), facts="{facts} {question}")
    stage = CompareByClaims(POLICY, spec, {"true": TRUE})
    answers = (("Cat.", "a"), ("Dog.", "r"))
    told = replace(PROMPT, facts=("A cat sits.", "It sleeps."))
    (one,) = stage(Task(), *tables(*answers, prompt=told)).records
    assert one.prompt_tokens == 8  # 3 + 2 words of facts, 3 of the question
    with pytest.raises(ValueError, match="reads facts about the images, but prompt 'p' has none"):
        stage(Task(), *tables(*answers))


def test_comparisons_depend_on_every_setting() -> None:
    criteria: dict[str, Weights | None] = {"true": TRUE}
    claims: list[dict[str, Any]] = [{}, {"per_prompt": 3}, {"held_out": 0.2}, {"long_share": 0.5}]
    assert len({by_claims(criteria, **some).producer()["compare"] for some in claims}) == 4
    asked: list[dict[str, Any]] = [{}, {"per_prompt": 3}, {"held_out": 0.2}, {"is_soft": False}]
    asked.append({"criteria": {"score": "brevity"}})
    assert len({by_labeler(lambda first, second: (1.0, 0.0), **some).producer()["compare"] for some in asked}) == 5
    shares = [CompareGiven(POLICY, RewardSpec(), share).producer()["compare"] for share in (0.1, 0.2)]
    assert shares[0] != shares[1]
