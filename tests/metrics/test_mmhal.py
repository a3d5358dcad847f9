"""MMHal-Bench: ratings as the official script finds them, and what it makes of them."""

import pytest

from rlaifv.metrics.mmhal import MMHalBench, mmhal_scores, read_rating


@pytest.mark.parametrize(
    ("review", "rating"),
    [
        ("- Rating: 4, somewhat informative", 4),
        ("RATING: 0", 0),
        ("**Rating: 3**", 3),
        ("Rating: **5**", None),
        ("Rating:4", None),
        ("Rating:  4", None),
        ("Rating 5", None),
        ("Rating: 5.5", 5),
        ("Rating: 10", 1),
        ("Rating: 7", None),
        ("Rating: 2. As I said: rating: 2", 2),
        ("Rating: 2 or rating: 3", None),
        ("", None),
    ],
)
def test_quirk_what_counts_as_a_rating(review: str, rating: int | None) -> None:
    assert read_rating(review) == rating


def test_scores_by_hand() -> None:
    """6, 5, 3, 2, 1, 0, 4 and nothing: mean 21 / 8; 2, 1, 0 and nothing hallucinate; 3 + 2 + 0 + 2 + 1 + 0 + 1 + 0 = 9."""
    reviews = [f"Rating: {k}" for k in (6, 5, 3, 2, 1, 0, 4)] + ["?"]
    scores = mmhal_scores(reviews)
    assert scores["score"] == 21 / 8
    assert scores["hallucination_rate"] == 4 / 8
    assert scores["informativeness"] == pytest.approx(9 / 8 / 3 * 100)
    assert scores["score/adversarial"] == 5
    assert scores["hallucination_rate/other"] == 1


def test_quirk_a_review_that_cannot_be_read_lowers_both() -> None:
    reviews = ["Rating: 6", "?"]
    official, skipping = MMHalBench(2), MMHalBench(2, invalid_judge="skip")
    for metric in (official, skipping):
        metric.update(reviews)
        assert metric.num_invalid == 1
    assert official.compute()["score"] == 3
    assert official.compute()["hallucination_rate"] == 0.5
    assert skipping.compute()["score"] == 6
    assert skipping.compute()["hallucination_rate"] == 0
    with pytest.raises(ValueError, match=r"Review 1 has no single rating: '\?'"):
        MMHalBench(2, invalid_judge="raise").update(reviews)


def test_quirk_types_go_by_position() -> None:
    scores = mmhal_scores(["Rating: 6", "Rating: 1", "Rating: 4"], rows=[0, 8, 9])
    assert scores["score/attribute"] == 3.5
    assert scores["score/adversarial"] == 4
    assert "score/other" not in scores


def test_without_reviews_nothing_is_claimed() -> None:
    with pytest.raises(ValueError, match="score is undefined: there is no review"):
        mmhal_scores([])
    with pytest.raises(ValueError, match="score is undefined: no review has a rating"):
        mmhal_scores(["?"], invalid_judge="skip")
