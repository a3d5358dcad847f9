"""LLaVA-Bench: two numbers in a first line, and a ratio of means."""

import pytest

from rlaifv.metrics.llava_bench import LLaVABench, llava_bench_scores, read_ratings


@pytest.mark.parametrize(
    ("review", "official", "lmms_eval"),
    [
        ("8 7\nBecause", (8, 7), (8, 7)),
        ("8.5 7", (8.5, 7), (8.5, 7)),
        ("9,8", (9, 8), (9, 8)),
        ("9, 8", None, (9, 8)),
        ("8  7", None, (8, 7)),
        ("8 7 ", None, (8, 7)),
        ("8\t7", None, (8, 7)),
        ("8/10 7/10", None, (8, 10)),
        ("Ratings: 8 7", None, (8, 7)),
        ("-8 7", (-8, 7), (-8, 7)),
        ("8", None, None),
        ("\n8 7", None, (8, 7)),
        ("nan 7", None, None),
        ("", None, None),
    ],
)
def test_quirk_what_counts_as_two_ratings(
    review: str, official: tuple[float, float] | None, lmms_eval: tuple[float, float] | None
) -> None:
    assert read_ratings(review) == read_ratings(review, "vlmevalkit") == official
    assert read_ratings(review, "lmms_eval") == lmms_eval


def test_a_ratio_of_means_by_hand() -> None:
    """(8 + 10) and (6 + 9): 15 / 18 = 83.3 percent, while the mean of the ratios is 82.5."""
    scores = llava_bench_scores(["8 6", "10 9"], ["conv", "detail"])
    assert scores == {"all": 83.3, "conv": 75.0, "detail": 90.0}


def test_quirk_an_unreadable_review_is_averaged_in_as_minus_one() -> None:
    """Official: (8 + 9 − 1) / 3 = 5.333, (7 + 8 − 1) / 3 = 4.667; left out, as by RLHF-V: 7.5 / 8.5."""
    reviews, categories = ["8 7", "9 8", "8  7"], ["conv"] * 3
    assert llava_bench_scores(reviews, categories)["all"] == 87.5
    assert llava_bench_scores(reviews, categories, invalid_judge="skip")["all"] == 88.2
    metric = LLaVABench(categories, invalid_judge="skip")
    metric.update(reviews)
    assert metric.num_invalid == 1
    with pytest.raises(ValueError, match="Review 2 has no two ratings: '8  7'"):
        llava_bench_scores(reviews, categories, invalid_judge="raise")


def test_quirk_nothing_but_unreadable_reviews_is_a_hundred_percent() -> None:
    assert llava_bench_scores(["?", "?"], ["conv", "conv"])["all"] == 100
    with pytest.raises(ValueError, match="all is undefined: no review has two ratings"):
        llava_bench_scores(["?"], ["conv"], invalid_judge="skip")


def test_quirk_means_are_rounded_before_they_are_divided() -> None:
    """Means 1/3 and 2.8/3, rounded 0.333 and 0.933: 280.2 percent instead of 280.0."""
    reviews, categories = ["1 2.8", "0 0", "0 0"], ["complex"] * 3
    assert llava_bench_scores(reviews, categories)["complex"] == 280.2
    assert llava_bench_scores(reviews, categories, parser="vlmevalkit")["complex"] == 280.0
    assert llava_bench_scores(reviews, categories, rounding="none")["complex"] == pytest.approx(280, abs=1e-9)


def test_without_a_reference_rating_nothing_is_claimed() -> None:
    with pytest.raises(ValueError, match="conv is undefined: the reference is rated 0 on average"):
        llava_bench_scores(["0 5", "5 5"], ["conv", "detail"])


def test_an_unknown_category_is_refused() -> None:
    with pytest.raises(ValueError, match="one of conv, detail, complex, not 'chat'"):
        LLaVABench(["conv", "chat"])
