"""Accuracy, bias and calibration of a labeler by hand."""

import math

import pytest

from rlaifv.metrics.labeler_quality import labeler_quality

YES, NO, NOTHING = (0.9, 0.1), (0.2, 0.6), (0.0, 0.0)


def test_by_hand() -> None:
    """Three true statements, two of them seen; of two false ones, one is believed and one is beyond the labeler.

    Accuracy (2/3 + 0) / 2; yes is said to 3 of 5, as many as are true. With a verdict: 0.9 three times, of which two are
    true, and 0.25 once, which is true: error 3/4 * |0.9 - 2/3| + 1/4 * |0.25 - 1|.
    """
    found = labeler_quality([YES, YES, NO, YES, NOTHING], [True, True, True, False, False])
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.says_yes == pytest.approx(0.0)
    assert found.unknown == pytest.approx(0.2)
    assert found.calibration_error == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.75, abs=1e-6)
    assert found.num_questions == 5
    assert found.is_near_chance


def test_one_that_always_says_yes_is_near_chance() -> None:
    found = labeler_quality([YES] * 10, [True] * 9 + [False])
    assert found.accuracy == 0.5
    assert found.is_near_chance
    assert found.says_yes == pytest.approx(0.1)


def test_a_perfect_one() -> None:
    found = labeler_quality([(1.0, 0.0), (0.0, 1.0)], [True, False])
    assert (found.accuracy, found.calibration_error, found.is_near_chance) == (1.0, 0.0, False)


def test_one_without_any_verdict() -> None:
    found = labeler_quality([NOTHING, NOTHING], [True, False])
    assert (found.accuracy, found.unknown) == (0.0, 1.0)
    assert math.isnan(found.calibration_error)


def test_one_kind_of_statement_measures_nothing() -> None:
    with pytest.raises(ValueError, match="there is only one kind here"):
        labeler_quality([YES], [True])
