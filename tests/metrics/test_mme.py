"""MME's scores by hand, over orders and batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.metrics.mme import MME, TASKS, mme_scores

# Response, truth, task, image: both questions right, one, none, and both in tasks of one or two images.
ROWS = [
    ("Yes", "yes", "existence", 0),
    ("No", "no", "existence", 0),
    ("Yes, it is", "yes", "existence", 1),
    ("Yes", "no", "existence", 1),
    ("two", "yes", "count", 0),
    ("no.", "no", "count", 0),
    ("left", "yes", "position", 0),
    ("right", "no", "position", 0),
    ("YES", "yes", "color", 0),
    ("nope", "no", "color", 0),
]
EXPECTED = {
    "existence/accuracy": 75.0,
    "existence/accuracy_plus": 50.0,
    "existence": 125.0,
    "count/accuracy": 50.0,
    "count/accuracy_plus": 0.0,
    "count": 50.0,
    "position/accuracy": 0.0,
    "position/accuracy_plus": 0.0,
    "position": 0.0,
    "color/accuracy": 100.0,
    "color/accuracy_plus": 100.0,
    "color": 200.0,
    "total": 375.0,
}


def measured(metric: MME, rows: list[int]) -> dict[str, float]:
    metric.update(*([ROWS[row][part] for row in rows] for part in range(4)), rows)
    return {name: value.item() for name, value in metric.compute().items()}


def test_by_hand() -> None:
    assert measured(MME(10), list(range(10))) == EXPECTED


def test_everything_right_is_800() -> None:
    tasks = [task for task in TASKS for _ in range(60)]
    assert mme_scores([True] * 240, tasks, [row // 2 for row in range(240)])["total"] == 800.0


def test_a_total_wants_all_tasks() -> None:
    scores = mme_scores([True, False], ["count", "count"], [0, 0])
    assert scores == {"count/accuracy": 50.0, "count/accuracy_plus": 0.0, "count": 50.0}


def test_the_same_image_in_two_tasks_is_two_images() -> None:
    scores = mme_scores([True, True, True, False], ["count", "count", "color", "color"], [7] * 4)
    assert (scores["count"], scores["color"]) == (200.0, 50.0)


@given(st.permutations(range(10)), st.integers(0, 10), st.lists(st.integers(0, 9), max_size=4))
def test_order_batches_and_repetitions_change_nothing(order: list[int], cut: int, again: list[int]) -> None:
    metric = MME(10)
    metric.update(*([ROWS[row][part] for row in order[:cut]] for part in range(4)), order[:cut])
    assert measured(metric, order[cut:] + again) == EXPECTED


def test_what_is_undefined_is_named() -> None:
    with pytest.raises(ValueError, match="total is undefined: there is no answer"):
        mme_scores([], [], [])
    with pytest.raises(ValueError, match="count/accuracy_plus is undefined: image 3 does not have two answers, but 1"):
        mme_scores([True], ["count"], [3])


def test_broken_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="The tasks are existence, count, position, color, but got 'posters'"):
        MME(2).update(["Yes"], ["yes"], ["posters"], [0])
    with pytest.raises(ValueError, match="different numbers of rows"):
        MME(2).update([], ["yes"], ["count"], [0])
