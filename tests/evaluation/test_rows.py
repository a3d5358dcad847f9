"""Rows count once, whatever the order, the batches, or the padding of samplers."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.evaluation.rows import RowMetric


class Total(RowMetric):
    """Sums what it kept."""

    def update(self, rows: list[int], kept: list[tuple[int, int]]) -> None:
        self.keep(rows, kept)

    def compute(self) -> list[int]:
        return [sum(column) for column in zip(*self.seen, strict=True)]


@given(st.permutations(range(5)), st.lists(st.integers(0, 5), max_size=3), st.lists(st.integers(0, 4), max_size=4))
def test_order_batches_and_repetitions_change_nothing(order: list[int], cuts: list[int], again: list[int]) -> None:
    metric = Total(5, 2)
    rows = order + again
    for start, stop in itertools.pairwise([0, *sorted(cuts), len(rows)]):
        metric.update(rows[start:stop], [(row, 10 * row) for row in rows[start:stop]])
    assert metric.compute() == [0 + 1 + 2 + 3 + 4, 100]
    assert metric.seen == [[row, 10 * row] for row in range(5)]


def test_a_row_of_zeros_is_seen() -> None:
    metric = Total(3, 2)
    metric.update([1], [(0, 0)])
    assert metric.seen == [[0, 0]]
    metric.reset()
    assert metric.seen == []


def test_a_step_returns_its_own_rows_and_keeps_all() -> None:
    metric = Total(3, 2)
    assert metric([0, 1], [(1, 1), (2, 2)]) == [3, 3]
    assert metric([1, 2], [(2, 2), (4, 4)]) == [6, 6]
    assert metric.compute() == [7, 7]


@pytest.mark.parametrize(
    ("rows", "kept", "message"),
    [
        ([3], [(0, 0)], "Row 3 is outside of the set, which has rows 0 to 2."),
        ([-1], [(0, 0)], "Row -1 is outside of the set"),
        ([0, 1], [(0, 0)], "There are 2 rows, but numbers for 1."),
    ],
)
def test_wrong_places_are_refused(rows: list[int], kept: list[tuple[int, int]], message: str) -> None:
    metric = Total(3, 2)
    with pytest.raises(ValueError, match=re.escape(message)):
        metric.update(rows, kept)
    assert metric.seen == []
