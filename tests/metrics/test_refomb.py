"""RefoMB: verdicts and shares as in the official scripts."""

import pytest

from rlaifv.metrics.refomb import RefoMB, read_verdict, refomb_scores


@pytest.mark.parametrize(
    ("review", "worth"),
    [
        ("So [[A]]", 0),
        ("So [[B]]", 1),
        ("So [[C]]", 0.5),
        ("If so [[C]], but [[B]]", 0.5),
        ("[A]", None),
        ("[[a]]", None),
        ("[[A] ]", None),
        ("[[D]] [[B]]", 1),
        ("", None),
    ],
)
def test_quirk_the_first_verdict_counts(review: str, worth: float | None) -> None:
    assert read_verdict(review) == worth


def test_quirk_ties_count_half() -> None:
    """As published: 30.5 of 99 are 30.8 percent."""
    reviews = ["[[B]]"] * 30 + ["[[C]]"] + ["[[A]]"] * 68
    scores = refomb_scores(reviews, reviews[::-1])
    assert scores["win"] == scores["trust"] == pytest.approx(30.5 / 99)
    assert round(scores["win"] * 100, 1) == 30.8


def test_quirk_what_has_no_verdict_is_left_out() -> None:
    """Without a first verdict there is no second one; without a second, only trust loses the answer."""
    metric = RefoMB(4)
    metric.update(["?", "[[B]]", "[[B]]", "[[A]]"], ["[[A]]", "?", "[[B]]", "[[A]]"])
    assert metric.compute()["win"].item() == pytest.approx(2 / 3)
    assert metric.compute()["trust"].item() == 1 / 2
    assert metric.num_invalid == 2
    with pytest.raises(ValueError, match="A review has no verdict: 'so what'"):
        RefoMB(1, invalid_judge="raise").update(["[[A]]"], ["so what"])


def test_without_verdicts_nothing_is_claimed() -> None:
    with pytest.raises(ValueError, match="trust is undefined: no second review has a verdict"):
        refomb_scores(["[[B]]"], ["?"])
    with pytest.raises(ValueError, match=r"is undefined: no .* review has a verdict"):
        refomb_scores(["?"], ["[[A]]"])


def test_both_stages_are_needed() -> None:
    with pytest.raises(ValueError, match=r"different numbers of rows: {'overall': 2, 'hallucination': 1}"):
        refomb_scores(["[[A]]", "[[A]]"], ["[[A]]"])
