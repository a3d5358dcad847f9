"""AMBER's numbers for yes/no questions: the oracles of its full size, small samples, and parsers."""

import pytest

from rlaifv.metrics.amber_discriminative import (
    AMBERDiscriminative,
    Kind,
    amber_score,
    discriminative_scores,
    read_answer,
)

# AMBER's own numbers of questions, by kind and truth.
SIZES: list[tuple[Kind, str, int]] = [
    ("existence", "no", 4924),
    ("state", "yes", 2382),
    ("state", "no", 2382),
    ("number", "yes", 1036),
    ("number", "no", 1036),
    ("action", "yes", 396),
    ("action", "no", 396),
    ("relation", "yes", 975),
    ("relation", "no", 689),
]
KINDS = [kind for kind, _, size in SIZES for _ in range(size)]
TRUTHS = [truth for _, truth, size in SIZES for _ in range(size)]


def scores_of(responses: list[str], parser: str = "official") -> dict[str, float]:
    metric = AMBERDiscriminative(len(KINDS), parser)
    metric.update(responses, TRUTHS, KINDS)
    return {name: value.item() for name, value in metric.compute().items()}


def test_always_no_at_full_size() -> None:
    scores = scores_of(["No"] * len(KINDS))
    assert (scores["accuracy"], scores["precision"], scores["recall"], scores["f1"]) == (66.3, 66.3, 100.0, 79.7)
    assert (scores["existence/accuracy"], scores["existence/f1"]) == (100.0, 100.0)
    assert (scores["attribute/accuracy"], scores["attribute/f1"]) == (50.0, 66.7)
    assert scores["relation/accuracy"] == 41.4


def test_always_yes_and_gold_at_full_size() -> None:
    scores = scores_of(["Yes"] * len(KINDS))
    assert (scores["accuracy"], scores["f1"]) == (33.7, 0.0)
    gold = scores_of([truth.capitalize() for truth in TRUTHS])
    assert set(gold.values()) == {100.0}


@pytest.mark.parametrize("response", ["no", "No.", "No, it is not.", " No"])
def test_the_official_parser_wants_exactly_no(response: str) -> None:
    assert set(scores_of([response] * len(KINDS)).values()) == {0.0}
    assert scores_of([response] * len(KINDS), "contains_yes")["accuracy"] == 66.3


@pytest.mark.parametrize(
    ("parser", "read"),
    [
        ("official", ["", "", "", "", "", "no"]),
        ("contains_yes", ["yes", "yes", "no", "no", "no", "no"]),
        ("lmms_eval", ["yes", "yes", "", "", "no", "no"]),
        ("vlmevalkit", ["yes", "no", "", "", "", "no"]),
        ("strict", ["yes", "", "", "", "", "no"]),
    ],
)
def test_every_suite_reads_answers_in_its_own_way(parser: str, read: list[str]) -> None:
    texts = ["YES", "No, but eyes.", "", "maybe", "I know", "No"]
    assert [read_answer(text, parser) for text in texts] == read


def test_a9_existence_has_no_yes_so_its_recall_is_its_accuracy() -> None:
    scores = discriminative_scores(["no"] * 640 + ["yes"] * 360, ["no"] * 1000, ["existence"] * 1000)
    assert scores["existence/precision"] == 100.0
    assert scores["existence/accuracy"] == scores["existence/recall"] == 64.0


def test_attribute_adds_up_three_smoothings() -> None:
    """2 / 2.001 prints 100.0, and 2 / 2.003 prints 99.9."""
    scores = discriminative_scores(["no"] * 2, ["no"] * 2, ["state"] * 2)
    assert scores["attribute/state/accuracy"] == 100.0
    assert scores["attribute/accuracy"] == 99.9


def test_f1_comes_from_rounded_shares_with_a_constant_by_dimension() -> None:
    """Shares of 50.0 and 100.0: 2 · 0.5 / (1.5 + k) is 66.6 for k = 0.001 and 66.7 for k = 0.0001."""
    answers, truths = ["no"] * 4000, ["no", "yes"] * 2000
    assert discriminative_scores(answers, truths, ["existence"] * 4000)["existence/f1"] == 66.6
    assert discriminative_scores(answers, truths, ["relation"] * 4000)["relation/f1"] == 66.7
    # One of three right: 33.3 and not 33.333…, so 2 · 0.333 · 1 / 1.3331 = 0.49959.
    exact = discriminative_scores(["no"] * 3000, ["no", "yes", "yes"] * 1000, ["relation"] * 3000, rounded=False)
    assert exact["relation/precision"] == pytest.approx(100_000 / 3000.001)
    assert exact["relation/f1"] == pytest.approx(49.99, abs=0.01)


def test_overall_numbers_want_all_three_dimensions() -> None:
    two = discriminative_scores(["no", "yes"], ["no", "yes"], ["existence", "relation"])
    assert "accuracy" not in two
    assert {name.split("/")[0] for name in two} == {"existence", "relation"}
    three = discriminative_scores(["no", "yes", ""], ["no", "yes", "no"], ["existence", "relation", "action"])
    assert three["accuracy"] == 66.6  # 2 / 3.001
    assert three["attribute/action/accuracy"] == 0.0


def test_overall_numbers_want_no_dimension_that_there_is_not() -> None:
    metric = AMBERDiscriminative(2, dimensions=["existence/", "relation/"])
    metric.update(["No", "No"], ["no", "yes"], ["existence", "relation"])
    assert metric.compute()["accuracy"].item() == 50.0


def test_order_batches_and_repetitions_change_nothing() -> None:
    kinds: list[Kind] = ["existence", "state", "relation", "action"]
    responses, truths = ["No", "Yes", "Yes", "no"], ["no", "no", "yes", "no"]
    once, other = AMBERDiscriminative(4), AMBERDiscriminative(4)
    once.update(responses, truths, kinds)
    for rows in ([3, 1], [1, 0, 2, 2]):
        other.update(*([part[row] for row in rows] for part in (responses, truths, kinds)), rows)
    assert other.compute() == once.compute()


def test_without_questions_nothing_is_claimed_to_be_measured() -> None:
    metric = AMBERDiscriminative(4)
    metric.update([], [], [])
    with pytest.raises(ValueError, match="accuracy is undefined: there is no answer"):
        metric.compute()


def test_the_published_score_is_a_mean() -> None:
    assert amber_score(7.8, 74.7) == 83.45


def test_broken_arguments_are_refused() -> None:
    metric = AMBERDiscriminative(4)
    with pytest.raises(ValueError, match="but got 'colour' and 'no'"):
        metric.update(["No"], ["no"], ["colour"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="but got 'state' and 'No'"):
        metric.update(["No"], ["No"], ["state"])
    with pytest.raises(ValueError, match="different numbers of rows"):
        metric.update([], ["no"], ["state"])
    with pytest.raises(ValueError, match=r"AMBER has the parsers official, contains_yes, .*, but got 'first'"):
        AMBERDiscriminative(4, parser="first")
