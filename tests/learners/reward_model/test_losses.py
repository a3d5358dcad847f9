"""Hand-computed losses of reward models."""

import math

import pytest
import torch
from torch import Tensor

from rlaifv.learners.reward_model.losses import comparison_loss, segment_loss


def column(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_bradley_terry_by_hand() -> None:
    # d = 2 with p = 1: log(1 + e^-2); d = -1 with p = 0: log(1 + e^-1).
    found = comparison_loss(column(3.0, 0.0), column(1.0, 1.0), column(1.0, 0.0))
    assert found.item() == pytest.approx((softplus(-2) + softplus(-1)) / 2)


def test_a_margin_asks_for_more_on_the_better_side() -> None:
    # d - m = 1 with p = 1; -d - m = 0.5 with p = 0.
    found = comparison_loss(column(3.0, 0.0), column(1.0, 1.0), column(1.0, 0.0), column(1.0, 0.5))
    assert found.item() == pytest.approx((softplus(-1) + softplus(-0.5)) / 2)


def test_soft_labels_weigh_both_sides() -> None:
    found = comparison_loss(column(2.0), column(0.0), column(0.75))
    assert found.item() == pytest.approx(0.75 * softplus(-2) + 0.25 * softplus(2))


def test_centring_adds_the_distance_of_the_mean_from_0() -> None:
    plain = comparison_loss(column(2.0), column(1.0), column(1.0))
    assert comparison_loss(column(2.0), column(1.0), column(1.0), centring=0.1).item() == pytest.approx(
        plain.item() + 0.3
    )


def test_unknown_preferences_have_no_part() -> None:
    known = comparison_loss(column(2.0), column(1.0), column(1.0))
    first = column(2.0, math.inf).requires_grad_()
    found = comparison_loss(first, column(1.0, 0.0), column(1.0, -1.0))
    assert found.item() == pytest.approx(known.item())
    assert comparison_loss(column(2.0), column(1.0), column(-1.0)).item() == 0.0


def test_classes_of_segments_by_hand() -> None:
    # Two segments, one kind, three classes: uniform logits, and e^2 against two of e^0.
    logits = torch.tensor([[[0.0, 0.0, 0.0]], [[2.0, 0.0, 0.0]]])
    found = segment_loss(logits, torch.tensor([[1], [0]]))
    assert found.item() == pytest.approx((math.log(3) + math.log(math.exp(2) + 2) - 2) / 2)
