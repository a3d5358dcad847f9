"""MMStar: letters as the official scorer finds them, and its constant divisors."""

import pytest

from rlaifv.metrics.mmstar import CATEGORIES, MMStar, mmstar_scores, read_choice


@pytest.mark.parametrize(
    ("prediction", "official", "lmms_eval"),
    [
        ("B", "b", "b"),
        ("b", "b", None),
        (" b: a cat", "b", None),
        ("(B) a cat", "b", "b"),
        ("Option C", "c", "c"),
        ("the answer is d.", "d", None),
        ("The answer is D.", "d", "d"),
        ("A dog sleeps", "a", None),
        ("Because A", "b", "a"),
        ("Answer: B", "a", "b"),
        ("Absolutely", "a", None),
        ("**B**", None, "b"),
        ("The correct answer is A", None, "a"),
        ("I think C", None, "c"),
        ("\nB", "b", "b"),
        ("(", None, None),
        ("option ", None, None),
        ("E", None, None),
        ("", None, None),
    ],
)
def test_quirk_which_letter_is_read(prediction: str, official: str | None, lmms_eval: str | None) -> None:
    assert read_choice(prediction) == official
    assert read_choice(prediction, "lmms_eval") == lmms_eval


def test_quirk_divisors_are_constant() -> None:
    scores = mmstar_scores(["A", "A", "B"], ["A", "A", "A"], [("math", "x"), ("math", "y"), ("math", "y")])
    assert scores["accuracy"] == 2 / 1500
    assert scores["math"] == 2 / 250
    assert (scores["math/x"], scores["math/y"]) == (1, 0.5)
    assert scores["coarse perception"] == 0


def test_a_whole_benchmark_is_a_share() -> None:
    categories = [(name, str(k % 3)) for name in CATEGORIES for k in range(250)]
    scores = mmstar_scores(["A"] * 1500, ["A"] * 750 + ["B"] * 750, categories)
    assert scores["accuracy"] == 0.5
    assert (scores["coarse perception"], scores["math"]) == (1, 0)


def test_quirk_lmms_eval_averages_subcategories() -> None:
    """x: 1 of 1, y: 1 of 3; their mean is 2/3, though half of all answers are right."""
    categories = [("math", "x")] + [("math", "y")] * 3
    scores = mmstar_scores(["A", "A", "B", "B"], ["A"] * 4, categories, "lmms_eval")
    assert scores["accuracy"] == scores["math"] == pytest.approx(2 / 3)
    assert "coarse perception" not in scores


def test_choices_that_cannot_be_read_are_counted_and_wrong() -> None:
    metric = MMStar(["A", "a"], [("math", "x")] * 2)
    metric.update(["**A**", "(a)"])
    assert metric.num_invalid == 1
    assert metric.compute()["math/x"] == 0.5


@pytest.mark.parametrize(
    ("answers", "categories", "message"),
    [
        (["E"], [("math", "x")], "has to be A, B, C or D, but there is 'E'"),
        (["A"], [("maths", "x")], "not 'maths'"),
        (["A", "A"], [("math", "x")], "There are 2 right answers, but 1 categories"),
    ],
)
def test_a_question_file_of_another_kind_is_refused(
    answers: list[str], categories: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MMStar(answers, categories)
