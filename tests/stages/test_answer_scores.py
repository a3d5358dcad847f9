"""Scores of answers: numbers by hand, and what holds of any feedback."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.records import Claim, Judgement, Response
from rlaifv.stages.answer_scores import score_responses
from tests.stages.test_pair import answer, feedback, table


def test_score_is_minus_the_number_of_rejected_claims() -> None:
    responses, judgements = table(
        answer("p1/0", "a", "+-+-"), answer("p1/1", "b", "++"), answer("p1/2", "c", ""), answer("p1/3", "d", "?-")
    )
    assert score_responses(responses, judgements) == {"p1/0": -2.0, "p1/1": 0.0, "p1/3": -1.0}


def test_other_scores_by_hand() -> None:
    """P(no) is 0.1 of 1.0 where a claim is accepted and 0.1 of 0.2 where it is not, in these judgements."""
    responses, judgements = table(
        answer("p1/0", "a", "+-+-"), answer("p1/1", "b", "++"), answer("p1/2", "c", "?-"), answer("p1/3", "d", "?")
    )
    assert score_responses(responses, judgements, "rate") == {"p1/0": -0.5, "p1/1": 0.0, "p1/2": -1.0, "p1/3": 0.0}
    by_probability = score_responses(responses, judgements, "probability")
    assert by_probability == pytest.approx({"p1/0": -1.2, "p1/1": -0.2, "p1/2": -0.5, "p1/3": 0.0})


def test_scores_that_pay_for_accepted_claims_by_hand() -> None:
    """The first answer repeats an accepted claim, which counts once; the group's accepted claims are a, b and c."""
    responses, judgements = table(
        answer("p/0", "repeats", "+++-"),
        answer("p/1", "two", "++"),
        answer("p/2", "wrong", "-"),
        answer("p/3", "odd", "?"),
    )
    asked = iter(["a?", "a?", "b?", "x?", "a?", "c?", "y?", "z?"])
    claims = [Claim(one.claim_id, one.response_id, one.prompt_id, "", next(asked)) for one in judgements]
    assert score_responses(responses, judgements, "net", 3.0, claims) == {
        "p/0": 2 - 3.0,
        "p/1": 2.0,
        "p/2": -3.0,
        "p/3": 0.0,
    }
    precision, recall = Fraction(2, 3), Fraction(2, 3)  # of a, b, x; of a, b, c
    f_half = float((1 + Fraction(1, 4)) * precision * recall / (Fraction(1, 4) * precision + recall))
    found = score_responses(responses, judgements, "f_score", 0.5, claims)
    assert found == pytest.approx({"p/0": f_half, "p/1": 1.25 * 1 * (2 / 3) / (0.25 + 2 / 3), "p/2": 0.0, "p/3": 0.0})


@given(feedback(), st.floats(0.1, 10))
def test_f_score_is_between_0_and_1_and_grows_with_what_is_accepted(
    tables: tuple[list[Response], list[Judgement]], weight: float
) -> None:
    responses, judgements = tables
    scores = score_responses(responses, judgements, "f_score", weight)
    assert all(0 <= score <= 1 for score in scores.values())
    for response in responses:
        # One more accepted claim that others have too: here every claim is distinct, so it joins the union as well.
        own = [one for one in judgements if one.response_id == response.id and one.verdict == "accepted"]
        rest = [one for one in judgements if one not in own[:1]]
        less = score_responses(responses, rest, "f_score", weight)
        assert not own or less.get(response.id, 0.0) <= scores[response.id] + 1e-9


def test_a_score_sees_the_answers_of_its_own_prompt_only() -> None:
    first, second = answer("p/0", "a", "+"), answer("q/0", "b", "++")
    assert score_responses(*table(first, second), "f_score") == {"p/0": 1.0, "q/0": 1.0}


def test_score_refuses_mixed_up_records() -> None:
    responses, judgements = table(answer("p1/0", "a", "+"))
    with pytest.raises(ValueError, match="Two responses carry the id 'p1/0'"):
        score_responses(responses * 2, judgements)
    with pytest.raises(ValueError, match="Claim 'p1/0/0' was judged twice"):
        score_responses(responses, judgements * 2)
    with pytest.raises(ValueError, match="belongs to response 'p1/0', which is not there"):
        score_responses([], judgements)
