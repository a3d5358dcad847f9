"""Judgements from a fake labeler with a table of answers."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.records import Claim, Judgement, Prompt
from rlaifv.stages.score import NEGLIGIBLE, Wording, distinct_questions, score, verdict_of

NAN, INFINITY = float("nan"), float("inf")
PROMPTS = [Prompt(f"p{k}", "What do you see?", (f"/images/{k}.png",)) for k in range(3)]


class TableLabeler:
    """Answers from a table by question without its suffix, (0.9, 0.1) where it has none; notes what it was asked."""

    def __init__(self, **answers: tuple[float, float]) -> None:
        self.answers = answers
        self.calls: list[list[tuple[Prompt, list[str]]]] = []

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        self.calls.append([(prompt, list(questions)) for prompt, questions in asked])
        advance(len(asked))
        return [
            [self.answers.get(question.partition("?")[0], (0.9, 0.1)) for question in questions]
            for _, questions in asked
        ]


def claim(prompt_id: str, response: int, number: int, question: str) -> Claim:
    return Claim(
        f"{prompt_id}/{response}/{number}", f"{prompt_id}/{response}", prompt_id, f"{question}.", f"{question}?"
    )


@pytest.mark.parametrize(
    ("p_yes", "p_no", "verdict"),
    [
        (0.6, 0.4, "accepted"),
        (0.4, 0.6, "rejected"),
        (0.5, 0.5, "rejected"),  # a tie is no yes
        (0.03, 0.02, "accepted"),  # most of the weight on other words still leaves a preference
        (NEGLIGIBLE, 0.0, "accepted"),
        (0.0, NEGLIGIBLE, "rejected"),
        (0.4 * NEGLIGIBLE, 0.4 * NEGLIGIBLE, "unknown"),
        (0.0, 0.0, "unknown"),
        (NAN, 0.3, "unknown"),
        (0.3, NAN, "unknown"),
        (INFINITY, 0.3, "unknown"),
        (0.3, -INFINITY, "unknown"),
    ],
)
def test_verdicts(p_yes: float, p_no: float, verdict: str) -> None:
    assert verdict_of(p_yes, p_no) == verdict


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_claim_is_accepted_only_for_a_larger_p_yes(p_yes: float, p_no: float) -> None:
    assert (verdict_of(p_yes, p_no) == "accepted") == (p_yes > p_no and p_yes + p_no >= NEGLIGIBLE)


def test_judgements_come_in_the_order_of_the_claims() -> None:
    claims = [claim("p1", 0, 0, "Cat"), claim("p0", 0, 0, "Dog"), claim("p1", 1, 0, "Dog"), claim("p0", 0, 1, "Cat")]
    labeler = TableLabeler(Cat=(0.2, 0.7))
    assert score(PROMPTS, claims, labeler, Wording(" Yes or no.")) == [
        Judgement("p1/0/0", "p1/0", "p1", 0.2, 0.7, "rejected"),
        Judgement("p0/0/0", "p0/0", "p0", 0.9, 0.1, "accepted"),
        Judgement("p1/1/0", "p1/1", "p1", 0.9, 0.1, "accepted"),
        Judgement("p0/0/1", "p0/0", "p0", 0.2, 0.7, "rejected"),
    ]


def test_identical_questions_about_one_image_are_asked_once() -> None:
    """Six claims in two answers hold three distinct questions; about another image a question is another one."""
    claims = [claim("p0", 0, k, name) for k, name in enumerate(("Cat", "Dog", "Cat"))]
    claims += [claim("p0", 1, k, name) for k, name in enumerate(("Dog", "Cow", "Cat"))]
    claims += [claim("p2", 0, 0, "Cat")]
    labeler = TableLabeler()
    judgements = score(PROMPTS, claims, labeler, Wording(" Yes or no."))
    asked = [f"{name}? Yes or no." for name in ("Cat", "Dog", "Cow")]
    assert labeler.calls == [[(PROMPTS[0], asked), (PROMPTS[2], asked[:1])]]
    assert len(judgements) == 7
    assert distinct_questions(claims) == {"p0": ["Cat?", "Dog?", "Cow?"], "p2": ["Cat?"]}


def test_the_answer_itself_is_never_shown() -> None:
    labeler = TableLabeler()
    score(PROMPTS, [claim("p0", 0, 0, "Cat")], labeler)
    assert labeler.calls == [[(PROMPTS[0], ["Cat? Please answer yes or no."])]]


@pytest.mark.parametrize(
    ("answer", "stored"), [((NAN, 0.3), (0.0, 0.3)), ((INFINITY, NAN), (0.0, 0.0)), ((1e-6, 1e-7), (1e-6, 1e-7))]
)
def test_no_number_is_unknown_and_stored_as_zero(answer: tuple[float, float], stored: tuple[float, float]) -> None:
    (judgement,) = score(PROMPTS, [claim("p0", 0, 0, "Cat")], TableLabeler(Cat=answer))
    assert judgement == Judgement("p0/0/0", "p0/0", "p0", *stored, "unknown")
    assert math.isfinite(judgement.p_yes + judgement.p_no)


def test_progress_reaches_all_prompts_also_those_without_claims() -> None:
    finished: list[int] = []
    score(PROMPTS, [claim("p0", 0, 0, "Cat")], TableLabeler(), advance=finished.append)
    assert sum(finished) == len(PROMPTS)


def test_nothing_claimed_asks_nothing() -> None:
    labeler = TableLabeler()
    assert score(PROMPTS, [], labeler) == []
    assert labeler.calls == [[]]


class FirstWordLabeler(TableLabeler):
    """Prefers the answer that is named first, by as much as it knows."""

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        known = super().answer_probabilities(asked, advance)
        pushed = []
        for (_, questions), of_prompt in zip(asked, known, strict=True):
            push = [0.3 if "yes or no" in question else -0.3 for question in questions]
            pushed.append([(yes + by, no - by) for (yes, no), by in zip(of_prompt, push, strict=True)])
        return pushed


def test_another_wording_cancels_a_preference() -> None:
    claims = [claim("p0", 0, 0, "Cat"), claim("p0", 0, 1, "Dog")]
    biased = FirstWordLabeler(Cat=(0.4, 0.6), Dog=(0.6, 0.4))
    assert [judgement.verdict for judgement in score(PROMPTS, claims, biased)] == ["accepted", "accepted"]
    debiased = score(PROMPTS, claims, biased, Wording(other_forms=("{question} Please answer no or yes.",)))
    assert [judgement.verdict for judgement in debiased] == ["rejected", "accepted"]
    assert [judgement.p_yes for judgement in debiased] == pytest.approx([0.4, 0.6])
    assert biased.calls[-1] == [
        (
            PROMPTS[0],
            [f"{thing}? Please answer {words}." for thing in ("Cat", "Dog") for words in ("yes or no", "no or yes")],
        )
    ]


def test_a_wording_that_gives_no_number_leaves_none() -> None:
    (judgement,) = score(
        PROMPTS,
        [claim("p0", 0, 0, "Cat")],
        TableLabeler(Cat=(0.9, 0.1), Or=(NAN, 0.1)),
        Wording(other_forms=("Or? {question}",)),
    )
    assert judgement.verdict == "unknown"
