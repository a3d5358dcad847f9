"""HallusionBench: verdicts, and accuracy by question, figure and pair."""

import pytest

from rlaifv.metrics.hallusionbench import (
    RIGHT,
    UNCLEAR,
    WRONG,
    HallusionBench,
    Key,
    check_answer,
    hallusionbench_accuracies,
    is_verdict,
    read_verdict,
)


def key(category: str, set_id: int, figure: int, question: int, subcategory: str = "chart", edited: int = 2) -> Key:
    """The original is figure 0 of VD and 1 of VS, where 0 is no figure."""
    visual = ("1" if figure == 0 else str(edited)) if category == "VD" else str(min(figure, 2))
    return Key(category, subcategory, str(set_id), str(figure), str(question), visual)


@pytest.mark.parametrize(
    ("reply", "verdict", "is_readable"),
    [
        ("correct", RIGHT, True),
        ("“Correct”.", RIGHT, True),
        ("Incorrect", WRONG, True),
        ("Not correct", RIGHT, True),
        ("correct or incorrect", WRONG, True),
        ("Unclear", UNCLEAR, True),
        ("I cannot say", UNCLEAR, False),
        ("", UNCLEAR, False),
    ],
)
def test_quirk_verdicts_are_words_within_the_reply(reply: str, verdict: int, is_readable: bool) -> None:
    assert read_verdict(reply) == verdict
    assert is_verdict(reply) == is_readable


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("Yes", RIGHT),
        ("Yes.", RIGHT),
        ("yes, it is", RIGHT),
        ("(Yes)", RIGHT),
        ("No", WRONG),
        ("No, and yes", UNCLEAR),
        ("not at all", UNCLEAR),
        ("eyes", UNCLEAR),
        ("Well,yes", RIGHT),
        ("Well,yes - I see", RIGHT),
        ("Well,yes, I see", UNCLEAR),  # with a comma beside a space, all commas go, and two words become one
        ("Well-yes 1,000", UNCLEAR),  # and so with a number that has one
        ("", UNCLEAR),
    ],
)
def test_quirk_words_of_an_answer(answer: str, verdict: int) -> None:
    assert check_answer(answer, True) == verdict
    assert check_answer(answer, False) == {RIGHT: WRONG, WRONG: RIGHT, UNCLEAR: UNCLEAR}[verdict]


def test_accuracies_by_hand() -> None:
    """VD: two figures, two questions; the edited figure's second is wrong. VS: no figure and one, one question."""
    rows = [
        (key("VD", 0, 0, 0), RIGHT),
        (key("VD", 0, 0, 1), RIGHT),
        (key("VD", 0, 1, 0), RIGHT),
        (key("VD", 0, 1, 1), WRONG),
        (key("VS", 0, 0, 0), WRONG),
        (key("VS", 0, 1, 0), RIGHT),
    ]
    found = hallusionbench_accuracies([verdict for _, verdict in rows], [one for one, _ in rows])
    assert found["a_acc"] == pytest.approx(100 * 4 / 6)
    assert found["f_acc"] == pytest.approx(100 * 2 / 3)  # VD original, VD edited, VS figure
    assert found["q_acc"] == pytest.approx(100 * 1 / 3)  # only VD's first question is right with both figures
    assert found["easy_acc"] == pytest.approx(100 * 2 / 3)  # VS: with no figure wrong, so its pair is
    assert found["hard_acc"] == 50
    assert (found["f_acc/VD"], found["q_acc/VS"], found["a_acc/VS"]) == (50, 0, 50)
    assert "hard_acc/VS" not in found


def test_quirk_unclear_is_right_where_vs_shows_no_figure() -> None:
    keys = [key("VS", 0, 0, 0), key("VS", 0, 1, 0), key("VD", 0, 0, 0)]
    found = hallusionbench_accuracies([UNCLEAR, UNCLEAR, UNCLEAR], keys)
    assert found["a_acc/VS"] == 50
    assert found["a_acc/VD"] == 0


def test_quirk_no_figure_counts_for_pairs_and_not_for_figures() -> None:
    keys = [key("VS", 0, 0, 0), key("VS", 0, 1, 0)]
    found = hallusionbench_accuracies([WRONG, RIGHT], keys)
    assert (found["f_acc"], found["q_acc"]) == (100, 0)


def test_quirk_subcategories_of_one_name_stay_apart() -> None:
    """VD and VS both have "ocr"; a port that leaves the category out of its keys makes one figure of two."""
    keys = [key("VD", 0, 1, 0, "ocr"), key("VS", 0, 1, 0, "ocr")]
    assert hallusionbench_accuracies([RIGHT, WRONG], keys)["f_acc"] == 50


def test_easy_and_hard_are_pairs_not_questions() -> None:
    """Three edited figures of one question, one wrong: no pair is right, though two of three answers are."""
    keys = [key("VD", 0, figure, 0) for figure in range(4)]
    found = hallusionbench_accuracies([RIGHT, RIGHT, WRONG, RIGHT], keys)
    assert (found["easy_acc"], found["hard_acc"]) == (100, 0)


def test_the_same_question_twice_is_refused() -> None:
    twice = [key("VD", 0, 0, 0), key("VD", 0, 0, 1), key("VD", 0, 0, 0)]
    with pytest.raises(ValueError, match="Rows 0 and 2 are the same question, VD_chart_0_0_0"):
        HallusionBench(twice)
    with pytest.raises(ValueError, match="row 0 has to be VD or VS, but it is 'VX'"):
        HallusionBench([key("VX", 0, 0, 0)])
