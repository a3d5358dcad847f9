"""Which tokens count as corrected: cases by hand, and what holds for any two answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.learners.dpo.token_weights import MIN_SHARED_TOKENS, changed_token_weights

IDS = st.lists(st.integers(0, 5), max_size=24)


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected_chosen", "expected_rejected"),
    [
        # One word replaced between two shared passages.
        ([1, 2, 3, 7, 4, 5, 6], [1, 2, 3, 8, 4, 5, 6], [1, 1, 1, 5, 1, 1, 1], [1, 1, 1, 5, 1, 1, 1]),
        # Replaced by more words than there were.
        ([1, 2, 3, 7, 4, 5, 6], [1, 2, 3, 8, 9, 4, 5, 6], [1, 1, 1, 5, 1, 1, 1], [1, 1, 1, 5, 5, 1, 1, 1]),
        # The rejected answer adds a passage: an insertion, which nothing was put in place of.
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 9, 4, 5, 6], [1] * 6, [1] * 8),
        # And the other way round.
        ([1, 2, 3, 9, 9, 4, 5, 6], [1, 2, 3, 4, 5, 6], [1] * 8, [1] * 6),
        # Two tokens in common are no shared passage: 8 and 9 stand in the middle of one long replacement.
        ([1, 2, 3, 7, 8, 9, 7], [1, 2, 3, 6, 8, 9, 6], [1, 1, 1, 5, 5, 5, 5], [1, 1, 1, 5, 5, 5, 5]),
        # Three are.
        ([7, 1, 2, 3, 7], [8, 1, 2, 3, 8], [5, 1, 1, 1, 5], [5, 1, 1, 1, 5]),
        # Nothing in common.
        ([7, 7], [8, 8, 8], [5, 5], [5, 5, 5]),
        ([1, 2, 3], [1, 2, 3], [1, 1, 1], [1, 1, 1]),
        # Answers too short to share a passage, as "Yes." and "No." with their end: all tokens weigh the same.
        ([1, 4, 3], [2, 4, 3], [5, 5, 5], [5, 5, 5]),
        # One equal token at the start goes on with the prompt, which is a shared passage; elsewhere it would be none.
        ([9, 7, 1, 2, 3], [9, 8, 1, 2, 3], [1, 5, 1, 1, 1], [1, 5, 1, 1, 1]),
        # What only one side has between the prompt and the rest is an insertion.
        ([1, 2, 3], [9, 1, 2, 3], [1, 1, 1], [1, 1, 1, 1]),
        ([9], [9, 7], [1], [1, 1]),
        ([], [], [], []),
        # One side empty: an insertion.
        ([], [1, 2], [], [1, 1]),
    ],
)
def test_by_hand(
    chosen: list[int], rejected: list[int], expected_chosen: list[int], expected_rejected: list[int]
) -> None:
    assert changed_token_weights(chosen, rejected, 5.0) == (expected_chosen, expected_rejected)


def test_three_tokens_make_a_passage() -> None:
    """The cases above are built on this number."""
    assert MIN_SHARED_TOKENS == 3


@given(IDS, IDS, st.sampled_from([0.5, 1.1, 5.0]))
def test_weights_are_one_or_the_given_one_on_both_sides_or_none(
    chosen: list[int], rejected: list[int], changed_weight: float
) -> None:
    sides = changed_token_weights(chosen, rejected, changed_weight)
    assert [len(side) for side in sides] == [len(chosen), len(rejected)]
    assert {weight for side in sides for weight in side} <= {1.0, changed_weight}
    # A replacement has two sides.
    assert (changed_weight in sides[0]) == (changed_weight in sides[1])


@given(st.lists(st.integers(0, 5), min_size=MIN_SHARED_TOKENS, max_size=24))
def test_equal_answers_change_nothing(ids: list[int]) -> None:
    assert changed_token_weights(ids, ids, 5.0) == ([1.0] * len(ids), [1.0] * len(ids))


@given(IDS, IDS)
def test_weight_one_changes_nothing(chosen: list[int], rejected: list[int]) -> None:
    assert changed_token_weights(chosen, rejected, 1.0) == ([1.0] * len(chosen), [1.0] * len(rejected))


@given(IDS, IDS)
def test_as_if_the_prompt_stood_before_both(chosen: list[int], rejected: list[int]) -> None:
    """A prompt longer than the answers is their longest shared passage, whatever they begin with."""
    prompt = list(range(100, 130))
    whole = changed_token_weights([*prompt, *chosen], [*prompt, *rejected], 5.0)
    assert tuple(side[len(prompt) :] for side in whole) == changed_token_weights(chosen, rejected, 5.0)
