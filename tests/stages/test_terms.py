"""Terms of a reward: what each gives an answer, where it lands, and what is refused."""

from collections import Counter
from typing import Any

import pytest

from rlaifv.records import AnswerScore, Prompt, Response
from rlaifv.stages.terms import Answer, Claims, Format, Length, NoEnd, RightAnswer, Scalarised, Score, Segments, Term


def answer(
    text: str = "A dog.",
    num_tokens: int = 4,
    finished: bool = True,
    right: str = "",
    verdicts: str = "",
    whole: dict[str, float] | None = None,
    segments: dict[int, tuple[float, float]] | None = None,
) -> Answer:
    """An answer with scores `judge/...` of the whole, and of the kinds existence and relation by a segment's end."""
    names = {"a": "accepted", "r": "rejected"}
    scores = {}
    if whole is not None:
        scores["judge"] = AnswerScore("p/0", "p", "judge", tuple(whole), tuple(whole.values()), (num_tokens - 1,))
    if segments is not None:
        values = tuple(value for some in segments.values() for value in some)
        scores["fine"] = AnswerScore("p/0", "p", "fine", ("existence", "relation"), values, tuple(segments))
    return Answer(
        Prompt("p", "What is it?", (), answer=right),
        Response("p/0", "p", text, tuple(range(num_tokens)), finished, 0),
        Counter(names[letter] for letter in verdicts),
        scores,
    )


def value(term: Term, one: Answer) -> float:
    """The one value of a term, which has to land on the last token."""
    (((place, found),),) = term([one])
    assert place == len(one.response.token_ids) - 1
    return found


def scored(*values: float) -> list[Answer]:
    return [answer(whole={"good": one}) for one in values]


def test_claims_are_counted_by_verdict() -> None:
    one = answer(verdicts="aara")
    assert value(Claims(verdict="accepted"), one) == 3.0
    assert value(Claims(verdict="rejected", weight=-2.0), one) == -2.0
    assert value(Claims(verdict="rejected"), answer()) == 0.0


@pytest.mark.parametrize("wrong", ["unknown", "Accepted", ""])
def test_another_verdict_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"verdict is accepted or rejected, but the term counts '{wrong}'"):
        Claims(verdict=wrong)


def test_only_an_answer_that_was_cut_pays_for_it() -> None:
    assert value(NoEnd(weight=-8.0), answer(finished=False)) == -8.0
    assert value(NoEnd(weight=-8.0), answer()) == 0.0


@pytest.mark.parametrize(("num_tokens", "wanted"), [(1, -1.25), (4, -5.0), (8, -10.0)])
def test_length_is_a_share_of_the_longest(num_tokens: int, wanted: float) -> None:
    assert value(Length(weight=-10.0, longest=8), answer(num_tokens=num_tokens)) == wanted


@pytest.mark.parametrize("wrong", [0, -3])
def test_a_longest_answer_without_tokens_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"at least one token, but longest is {wrong}"):
        Length(longest=wrong)


@pytest.mark.parametrize(
    ("text", "right", "wanted"),
    [
        ("B. A dog.", "B", 1.0),
        ("b", "B", 1.0),
        ("(B) A dog.", "B", 1.0),
        ("**B**", "B.", 1.0),
        ("Both are.", "B", 0.0),
        ("A or B", "B", 0.0),
        ("No, there is none.", "no", 0.5),
        ("no", "No.", 0.5),
        ("Yes, there is.", "no", -0.5),
        ("Nothing is there.", "no", 0.0),
        ("Perhaps not.", "no", 0.0),
        ("Yes, there is.", "yes", 0.0),
        ("No.", "Yes", 0.0),
        ("A red dog.", "a red dog", 1.0),
        ("A red dog runs.", "a red dog", 0.0),
        ("Anything.", "", 0.0),
        ("", "B", 0.0),
        ("...", "B", 0.0),
    ],
)
def test_a_right_answer_counts_as_fact_rlhf_has_it(text: str, right: str, wanted: float) -> None:
    assert value(RightAnswer(), answer(text, right=right)) == wanted


def test_saying_yes_is_never_rewarded() -> None:
    rights = ("yes", "no", "Yes.", "No.")
    assert [value(RightAnswer(), answer("Yes.", right=right)) for right in rights] == [0.0, -0.5, 0.0, -0.5]


@pytest.mark.parametrize(
    ("text", "wanted"), [("<think>a\nb</think> B", 1.0), (" <think></think> C\n", 1.0), ("B", 0.0), ("<think>a", 0.0)]
)
def test_a_format_matches_the_whole_answer(text: str, wanted: float) -> None:
    assert value(Format(pattern=r"<think>.*</think> [A-D]"), answer(text)) == wanted
    assert value(Format(pattern=r"[A-D]"), answer("B, I think")) == 0.0


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'\(' of the term Format is no regular expression: "):
        Format(pattern="(")


def test_a_score_is_taken_by_its_name() -> None:
    one = answer(whole={"good": 3.0, "long": -2.0})
    assert value(Score(name="judge/long"), one) == -2.0
    assert value(Score(name="judge/good", weight=0.5), one) == 1.5


def test_scores_are_normalised_first_and_then_clipped() -> None:
    # 1, 3, 8: mean 4, variance (9 + 1 + 16) / 3, deviation 2.943920.
    found = Score(name="judge/good", normalise="standard", clip=1.2)(scored(1.0, 3.0, 8.0))
    assert [number for ((_, number),) in found] == pytest.approx([-1.019049, -0.339683, 1.2], abs=1e-6)
    found = Score(name="judge/good", clip=2.0)(scored(1.0, 3.0, -8.0))
    assert found == [[(3, 1.0)], [(3, 2.0)], [(3, -2.0)]]


def test_a_score_alone_cannot_be_standard() -> None:
    assert value(Score(name="judge/good", normalise="standard"), scored(9.0)[0]) == 0.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "judge/bad",
            "There is no score 'judge/bad'; the reward models give judge/good, fine/existence, fine/relation",
        ),
        ("judge", "There is no score 'judge';"),
        ("other/good", "There is no score 'other/good';"),
        ("fine/existence", "'fine' scores segments: use the term Segments"),
    ],
)
def test_scores_that_are_not_there_are_refused(name: str, message: str) -> None:
    one = answer(whole={"good": 1.0}, segments={1: (1.0, 0.0), 3: (0.0, -1.0)})
    with pytest.raises(ValueError, match=message):
        Score(name=name)([one])


def test_without_reward_models_there_are_no_scores() -> None:
    with pytest.raises(ValueError, match="the reward models give none"):
        Score(name="judge/good")([answer()])


@pytest.mark.parametrize(
    ("how", "wanted"),
    [("linear", -1.0), ("worst_case", -4.0), ("max_median", -0.5)],  # of 1 * 3 and 2 * -2
)
def test_scalarised_scores_have_weights_by_name(how: Any, wanted: float) -> None:
    one = answer(whole={"long": -2.0, "good": 3.0})
    weights = {"judge": {"good": 1.0, "long": 2.0}}
    assert value(Scalarised(weights=weights, how=how, normalise="none"), one) == pytest.approx(wanted)
    assert value(Scalarised(weights=weights, how=how, normalise="none", weight=0.5), one) == pytest.approx(wanted / 2)


def test_scalarised_scores_are_made_comparable_first() -> None:
    # Each score is 1 deviation from its mean, so that units have no influence: -1 + 1, and 1 - 1, or the lower of them.
    some = [answer(whole={"good": 0.0, "long": 900.0}), answer(whole={"good": 1.0, "long": 100.0})]
    weights = {"judge": {"good": 1.0, "long": 1.0}}
    assert [number for ((_, number),) in Scalarised(weights=weights)(some)] == pytest.approx([0.0, 0.0])
    assert [number for ((_, number),) in Scalarised(weights=weights, how="worst_case")(some)] == pytest.approx([-1, -1])


def test_the_options_of_a_scalariser_arrive() -> None:
    one = answer(whole={"good": 2.0, "long": 4.0})

    def found(**options: Any) -> float:
        return value(Scalarised(weights={"judge": {"good": 1.0, "long": 1.0}}, normalise="none", **options), one)

    assert found(how="uncertainty_weighted", penalty=2.0) == pytest.approx(1.0)  # 3 - 2 * 1
    assert found(how="lower_quantile", share=1.0) == pytest.approx(3.0)
    assert found(how="soft_max_min", temperature=0.01) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weights": {}}, "needs weights of one score or more"),
        ({"weights": {"judge": {"good": 1.0}}, "how": "mean"}, "scalariser must be one of .*, but it is 'mean'"),
        ({"weights": {"judge": {"good": -1.0}}, "how": "bernoulli_nash"}, "takes positive scores"),
    ],
)
def test_wrong_scalarisers_are_refused_before_anything_is_scored(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scalarised(**wrong)


def test_an_unknown_normalisation_is_refused() -> None:
    wrong: Any = "minmax"
    for term in (
        Score(name="judge/good", normalise=wrong),
        Scalarised(weights={"judge": {"good": 1.0}}, normalise=wrong),
    ):
        with pytest.raises(ValueError, match="normalisation must be one of none, standard, sigmoid"):
            term(scored(1.0, 2.0))


def test_each_segment_is_rewarded_where_it_ends() -> None:
    one = answer(num_tokens=9, segments={2: (1.0, -1.0), 7: (1.0, 0.0)})
    assert Segments(model="fine")([one]) == [[(2, 0.0), (7, 1.0)]]
    # 2 * 1 + 0.5 * -1 = 1.5, and 2 * 1.
    kinds = {"relation": 0.5, "existence": 2.0}
    assert Segments(model="fine", kinds=kinds)([one]) == [[(2, 1.5), (7, 2.0)]]
    # Supported 0.5, hallucinated -3: 0.5 - 3 = -2.5, and 0.5.
    weighed = Segments(model="fine", supported=0.5, hallucinated=-3.0)
    assert weighed([one]) == [[(2, -2.5), (7, 0.5)]]
    assert weighed([answer(segments={3: (-0.5, 0.5)})]) == [[(3, -1.25)]]  # probabilities: -1.5 + 0.25
    assert Segments(model="fine", kinds={"relation": 3.0}, weight=-1.0)([one]) == [[(2, 2.0), (7, -1.0)]]


def test_segments_may_be_rewarded_at_the_end_together() -> None:
    one = answer(num_tokens=9, segments={2: (1.0, 1.0), 7: (1.0, 0.0)})
    assert Segments(model="fine", dense=False)([one]) == [[(8, 3.0)]]


def test_each_answer_keeps_its_own_segments() -> None:
    some = [answer(segments={1: (1.0, 0.0), 3: (0.0, 0.0)}), answer(segments={3: (-1.0, -1.0)})]
    assert Segments(model="fine")(some) == [[(1, 1.0), (3, 0.0)], [(3, -2.0)]]


def test_unknown_models_and_kinds_of_segments_are_refused() -> None:
    one = answer(segments={3: (1.0, 1.0)})
    with pytest.raises(ValueError, match="There is no reward model 'other'; there are fine"):
        Segments(model="other")([one])
    with pytest.raises(ValueError, match="there are none"):
        Segments(model="other")([answer()])
    with pytest.raises(ValueError, match="'fine' knows existence, relation, but not 'colour'"):
        Segments(model="fine", kinds={"existence": 1.0, "colour": 1.0})([one])


def test_terms_say_what_they_need() -> None:
    needs_claims: set[type[Term]] = {Claims}
    needs_scores: set[type[Term]] = {Score, Scalarised, Segments}
    kinds: tuple[type[Term], ...] = (Claims, NoEnd, Length, RightAnswer, Format, Score, Scalarised, Segments)
    assert {kind for kind in kinds if kind.needs_claims} == needs_claims
    assert {kind for kind in kinds if kind.needs_scores} == needs_scores
