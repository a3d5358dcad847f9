"""Figures of reward models, by hand."""

import math

import pytest
import torch

from rlaifv.metrics.reward_model import comparison_metrics, segment_metrics


def test_comparisons_by_hand() -> None:
    # The third is a tie of scores, the fourth is unknown, the fifth has no better side.
    ahead = torch.tensor([2.0, -1.0, 0.0, 5.0, 5.0])
    preferences = torch.tensor([1.0, 1.0, 0.0, -1.0, 0.5])
    longer = torch.tensor([3, -2, 4, 1, 1])
    found = comparison_metrics(ahead, preferences, longer)
    assert found["comparisons"] == 3.0
    assert found["accuracy"] == pytest.approx(0.5)  # right, wrong, half
    assert found["accuracy_longer"] == 1.0  # only the first one's better side is the longer one
    assert found["accuracy_shorter"] == pytest.approx(0.25)  # wrong and half
    assert found["margin"] == pytest.approx(1 / 3)


def test_calibration_by_hand() -> None:
    # Both say 0.88 for the first answer and one is right: off by 0.38.
    found = comparison_metrics(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.0]), torch.tensor([1, 1]))
    assert found["ece"] == pytest.approx(1 / (1 + math.exp(-2)) - 0.5, abs=1e-5)


def test_a_model_that_only_likes_long_answers_is_seen() -> None:
    longer = torch.tensor([5, -5, 5, -5])
    found = comparison_metrics(longer.float(), torch.tensor([1.0, 1.0, 0.0, 0.0]), longer)
    assert (found["accuracy"], found["accuracy_longer"], found["accuracy_shorter"]) == (0.5, 1.0, 0.0)


def test_no_comparisons_have_no_figures() -> None:
    assert comparison_metrics(torch.zeros(0), torch.zeros(0), torch.zeros(0)) == {"comparisons": 0.0}


def test_segments_by_hand() -> None:
    logits = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0]])
    found = segment_metrics(logits, torch.tensor([1, 2, 1, 0]))
    assert (found["segments"], found["accuracy"]) == (4.0, 0.75)
    assert found["f1_hallucinated"] == pytest.approx(2 / 3)  # precision 1/2, recall 1
    assert found["ece"] == pytest.approx(0.25, abs=1e-3)
    assert segment_metrics(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == {"segments": 0.0}
