"""POPE's numbers by hand, under each suite's rules, and over repeated rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.metrics.pope import POPE, pope_scores

RESPONSES = ["Yes.", "No, there is none.", "Yes", "It is hidden", "no", "No"]
TRUTHS = ["yes", "yes", "no", "yes", "no", "no"]
# Read as yes, no, yes, yes, no, no: two right yes of three, of three labels yes; two right no.
EXPECTED = {"accuracy": 4 / 6, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 0.5}


def measured(metric: POPE, rows: list[int]) -> dict[str, float]:
    metric.update([RESPONSES[row] for row in rows], [TRUTHS[row] for row in rows], rows)
    return {name: value.item() for name, value in metric.compute().items()}


def test_by_hand() -> None:
    assert measured(POPE(6), list(range(6))) == pytest.approx(EXPECTED, rel=1e-12)


def test_what_cannot_be_read_by_suite() -> None:
    """Answers yes, ?, ?, no to labels yes, yes, no, yes: VLMEvalKit misses two of three, lmms-eval one of two."""
    answers, truths = ["yes", "", "", "no"], ["yes", "yes", "no", "yes"]
    kit = pope_scores(answers, truths, "vlmevalkit")
    assert kit == pytest.approx({"accuracy": 1 / 4, "precision": 1.0, "recall": 1 / 3, "f1": 0.5, "yes_ratio": 1 / 4})
    assert pope_scores(answers, truths, "strict") == kit
    lmms = pope_scores(answers, truths, "lmms_eval")
    assert lmms == pytest.approx(
        {"accuracy": 1 / 4, "precision": 1.0, "recall": 1 / 2, "f1": 2 / 3, "yes_ratio": 3 / 4}
    )


def test_lmms_eval_may_be_perfect_in_what_it_could_read() -> None:
    scores = pope_scores(["yes"] + [""] * 9, ["yes"] * 5 + ["no"] * 5, "lmms_eval")
    assert scores == {"accuracy": 0.1, "precision": 1.0, "recall": 1.0, "f1": 1.0, "yes_ratio": 0.5}


@pytest.mark.parametrize(
    ("answers", "truths", "message"),
    [
        (
            ["no", "no"],
            ["yes", "no"],
            "precision is undefined: no answer was read as yes; POPE's script divides by zero",
        ),
        (["yes", "no"], ["no", "no"], "recall is undefined: no question has the label yes"),
        (["yes", "no"], ["no", "yes"], "f1 is undefined: no answer yes is right"),
        ([], [], "accuracy is undefined: there is no answer"),
    ],
)
def test_what_the_script_cannot_divide_is_named(answers: list[str], truths: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pope_scores(answers, truths)
    if answers:
        assert pope_scores(answers, truths, "vlmevalkit")["f1"] == 0.0
        assert pope_scores(answers, truths, "lmms_eval")["f1"] == 0.0


def test_every_label_but_no_is_positive() -> None:
    assert pope_scores(["yes", "yes"], ["Yes", "No"])["precision"] == 1.0


@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=4))
def test_order_and_repetitions_change_nothing(order: list[int], again: list[int]) -> None:
    assert measured(POPE(6), order + again) == pytest.approx(EXPECTED, rel=1e-12)


def test_broken_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows: \{'responses': 2, 'truths': 1, 'rows': 1\}"):
        POPE(6).update(["Yes", "No"], ["yes"], [0])
    with pytest.raises(ValueError, match="POPE has the parsers"):
        POPE(6, parser="contains_yes")
