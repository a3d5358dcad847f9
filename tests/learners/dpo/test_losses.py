"""Sequence log-probs and the DPO loss against numbers derived by hand and against a slow twin in plain floats."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaifv.learners.dpo.losses import DPOTerms, Loss, Reduction, dpo_loss, reduce_logps

TOKEN_LOGPS = torch.tensor([-1.0, -3.0, -0.5, -2.0, -2.0, -4.0])
LENGTHS = (2, 1, 3)


@pytest.mark.parametrize(("reduction", "expected"), [("sum", [-4.0, -0.5, -8.0]), ("mean", [-2.0, -0.5, -8.0 / 3.0])])
def test_sum_and_mean_by_hand(reduction: Reduction, expected: list[float]) -> None:
    """Branches (-1, -3), (-0.5) and (-2, -2, -4): sums -4, -0.5, -8; divided by 2, 1, 3."""
    torch.testing.assert_close(reduce_logps(TOKEN_LOGPS, LENGTHS, reduction), torch.tensor(expected))


def test_weighted_by_hand() -> None:
    """Gamma 5 on the second, third and last token.

    Sums: -1 - 5*3 = -16, -5*0.5 = -2.5, -2 - 2 - 5*4 = -24. Weights: 6, 5, 7. Ratios: -16/6, -0.5, -24/7.
    """
    weights = torch.tensor([1.0, 5.0, 5.0, 1.0, 1.0, 5.0])
    torch.testing.assert_close(
        reduce_logps(TOKEN_LOGPS, LENGTHS, "weighted", weights), torch.tensor([-16 / 6, -0.5, -24 / 7])
    )
    torch.testing.assert_close(
        reduce_logps(TOKEN_LOGPS, LENGTHS, "weighted", weights, normalize=False), torch.tensor([-16.0, -2.5, -24.0])
    )


def test_weights_of_one_reduce_to_mean_and_sum() -> None:
    ones = torch.ones(6)
    weighted = reduce_logps(TOKEN_LOGPS, LENGTHS, "weighted", ones)
    torch.testing.assert_close(weighted, reduce_logps(TOKEN_LOGPS, LENGTHS, "mean"))
    unnormalized = reduce_logps(TOKEN_LOGPS, LENGTHS, "weighted", ones, normalize=False)
    torch.testing.assert_close(unnormalized, reduce_logps(TOKEN_LOGPS, LENGTHS, "sum"))


def test_gradient_of_each_token_is_its_share() -> None:
    """d(sum)/dx = 1, d(mean)/dx = 1/length, d(weighted)/dx = w / sum(w) with w = (1, 3 | 2 | 1, 1, 2)."""
    weights = torch.tensor([1.0, 3.0, 2.0, 1.0, 1.0, 2.0])
    shares = {"sum": [1, 1, 1, 1, 1, 1], "mean": [1 / 2, 1 / 2, 1, 1 / 3, 1 / 3, 1 / 3]}
    shares["weighted"] = [0.25, 0.75, 1, 0.25, 0.25, 0.5]
    reductions: tuple[Reduction, ...] = ("sum", "mean", "weighted")
    for reduction in reductions:
        logps = TOKEN_LOGPS.clone().requires_grad_()
        reduce_logps(logps, LENGTHS, reduction, weights if reduction == "weighted" else None).sum().backward()
        torch.testing.assert_close(logps.grad, torch.tensor(shares[reduction], dtype=torch.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": (2, 0, 4)}, "at least one scored token, but the lengths are [2, 0, 4]"),
        ({"lengths": ()}, "at least one scored token"),
        ({"lengths": (2, 3)}, "add up to 5, but the log-probs have shape [6]"),
        ({"reduction": "median"}, "one of sum, mean, weighted, but it is 'median'"),
        ({"reduction": "weighted"}, "belong to reduction 'weighted'"),
        ({"token_weights": torch.ones(6)}, "the reduction is 'sum'"),
        ({"normalize": False}, "normalize=False has a meaning for reduction 'weighted' only"),
        ({"reduction": "weighted", "token_weights": torch.ones(5)}, "[5] token weights"),
        ({"reduction": "weighted", "token_weights": torch.tensor([1.0, 1, 0, 1, 1, 1])}, "more than 0"),
        ({"reduction": "weighted", "token_weights": torch.full((6,), math.nan)}, "more than 0"),
    ],
)
def test_what_cannot_be_reduced_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        reduce_logps(**{"token_logps": TOKEN_LOGPS, "lengths": LENGTHS, "reduction": "sum", **arguments})  # type: ignore[arg-type]


def losses_in_plain_floats(
    pairs: list[tuple[float, float, float, float]], beta: float, label_smoothing: float
) -> tuple[float, list[float], list[float]]:
    """The slow twin: one pair at a time, log sigmoid(x) as -log(1 + exp(-x))."""
    total = 0.0
    for policy_chosen, policy_rejected, reference_chosen, reference_rejected in pairs:
        margin = beta * (policy_chosen - policy_rejected) - beta * (reference_chosen - reference_rejected)
        total += (1 - label_smoothing) * math.log1p(math.exp(-margin)) + label_smoothing * math.log1p(math.exp(margin))
    chosen = [beta * (pair[0] - pair[2]) for pair in pairs]
    rejected = [beta * (pair[1] - pair[3]) for pair in pairs]
    return total / len(pairs), chosen, rejected


def terms_of(
    pairs: list[tuple[float, float, float, float]], beta: float, label_smoothing: float = 0.0, loss: Loss = "sigmoid"
) -> DPOTerms:
    columns = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    return dpo_loss(columns[0], columns[1], columns[2], columns[3], beta, label_smoothing, loss)


def test_loss_by_hand() -> None:
    """Two pairs, beta 0.5.

    First:  chosen reward 0.5 * (-10 + 12) = 1, rejected reward 0.5 * (-9 + 7) = -1, margin 2, log(1 + e^-2) = 0.126928.
    Second: chosen reward 0.5 * (-6 + 4) = -1, rejected reward 0.5 * (-5 + 5) = 0, margin -1, log(1 + e) = 1.313262.
    Mean: 0.720095. With a tenth of the labels swapped a pair costs 0.1 * margin more, as
    -log sigmoid(-m) = m - log sigmoid(m): 0.720095 + 0.1 * (2 - 1) / 2 = 0.770095.
    """
    pairs = [(-10.0, -9.0, -12.0, -7.0), (-6.0, -5.0, -4.0, -5.0)]
    terms = terms_of(pairs, beta=0.5)
    assert terms.loss.shape == ()
    assert terms.loss.item() == pytest.approx(0.720095, abs=1e-6)
    assert terms.chosen_rewards.tolist() == [1.0, -1.0]
    assert terms.rejected_rewards.tolist() == [-1.0, 0.0]
    assert terms_of(pairs, beta=0.5, label_smoothing=0.1).loss.item() == pytest.approx(0.770095, abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "label_smoothing", "expected"),
    [
        # (-0.9 log sigmoid(m) + 0.1 log sigmoid(-m)) / 0.8 for m = 2: (0.9 * 0.126928 - 0.1 * 2.126928) / 0.8 = -0.123072,
        # and for m = -1: (0.9 * 1.313262 - 0.1 * 0.313262) / 0.8 = 1.438262.
        ("robust", 0.1, [-0.123072, 1.438262]),
        ("robust", 0.0, [0.126928, 1.313262]),
        ("hinge", 0.0, [0.0, 2.0]),
        # h = 4 and h = -2, and 1 / (2 * 0.5) = 1
        ("ipo", 0.0, [9.0, 9.0]),
    ],
)
def test_the_family_by_hand(loss: Loss, label_smoothing: float, expected: list[float]) -> None:
    """The pairs of the test above, beta 0.5: margins 2 and -1."""
    pairs = [(-10.0, -9.0, -12.0, -7.0), (-6.0, -5.0, -4.0, -5.0)]
    for pair, one in zip(pairs, expected, strict=True):
        assert terms_of([pair], 0.5, label_smoothing, loss).loss.item() == pytest.approx(one, abs=1e-6)
    terms = terms_of(pairs, 0.5, label_smoothing, loss)
    assert terms.loss.item() == pytest.approx(sum(expected) / 2, abs=1e-6)
    assert terms.chosen_rewards.tolist() == [1.0, -1.0]


def test_robust_is_unbiased() -> None:
    """Averaged over labels of which a share e is swapped, it is the loss of the true ones (arXiv 2403.00409, lemma 3.1)."""
    pair, swapped = (-10.0, -9.0, -12.0, -7.0), (-9.0, -10.0, -7.0, -12.0)
    clean = terms_of([pair], 0.5).loss.item()
    seen = [terms_of([one], 0.5, 0.2, "robust").loss.item() for one in (pair, swapped)]
    assert 0.8 * seen[0] + 0.2 * seen[1] == pytest.approx(clean, abs=1e-9)


def test_ipo_stops_at_its_goal() -> None:
    """Its least is at h = 1 / (2 beta), where sigmoid still pushes."""
    goal = terms_of([(-1.0, -6.0, -1.0, -1.0)], 0.1, 0.0, "ipo")
    assert goal.loss.item() == pytest.approx(0.0, abs=1e-12)


def test_unknown_losses_and_settings_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="has to be one of sigmoid, robust, hinge, ipo, but it is 'kto'"):
        terms_of([(0.0, 0.0, 0.0, 0.0)], 0.1, 0.0, "kto")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"label_smoothing=0\.1 has no effect on the loss 'ipo'"):
        terms_of([(0.0, 0.0, 0.0, 0.0)], 0.1, 0.1, "ipo")


logps = st.floats(-200.0, 0.0)


@settings(max_examples=50, deadline=None)
@given(
    pairs=st.lists(st.tuples(logps, logps, logps, logps), min_size=1, max_size=5),
    beta=st.floats(0.0, 1.0),
    label_smoothing=st.floats(0.0, 0.49),
)
def test_loss_equals_the_slow_twin(
    pairs: list[tuple[float, float, float, float]], beta: float, label_smoothing: float
) -> None:
    terms = terms_of(pairs, beta, label_smoothing)
    loss, chosen, rejected = losses_in_plain_floats(pairs, beta, label_smoothing)
    assert terms.loss.item() == pytest.approx(loss, rel=1e-9, abs=1e-9)
    assert terms.chosen_rewards.tolist() == pytest.approx(chosen, abs=1e-9)
    assert terms.rejected_rewards.tolist() == pytest.approx(rejected, abs=1e-9)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_no_preference_costs_log_two(label_smoothing: float) -> None:
    """sigmoid(0) = 1/2, whether beta vanishes or chosen equals rejected."""
    vanishing = terms_of([(-5.0, -90.0, -30.0, -2.0)], beta=1e-12, label_smoothing=label_smoothing)
    identical = terms_of([(-5.0, -5.0, -7.0, -7.0)], beta=0.3, label_smoothing=label_smoothing)
    unmoved = terms_of([(-5.0, -8.0, -5.0, -8.0)], beta=0.3, label_smoothing=label_smoothing)
    for terms in (vanishing, identical, unmoved):
        assert terms.loss.item() == pytest.approx(math.log(2.0), abs=1e-9)


def test_gradient_raises_the_chosen_and_lowers_the_rejected() -> None:
    """At margin 0 the gradient is -/+ beta * sigmoid(0) / N = 0.1 * 0.5 / 2 = 0.025 for each of two pairs."""
    chosen = torch.tensor([-4.0, -6.0], requires_grad=True)
    rejected = torch.tensor([-5.0, -3.0], requires_grad=True)
    terms = dpo_loss(chosen, rejected, chosen.detach().clone(), rejected.detach().clone(), beta=0.1)
    terms.loss.backward()
    torch.testing.assert_close(chosen.grad, torch.tensor([-0.025, -0.025]))
    torch.testing.assert_close(rejected.grad, torch.tensor([0.025, 0.025]))
    assert not terms.chosen_rewards.requires_grad
    assert not terms.rejected_rewards.requires_grad


@pytest.mark.parametrize("policy_chosen", [-1e30, -1e6, 0.0])
def test_extreme_margins_stay_finite(policy_chosen: float) -> None:
    chosen = torch.tensor([policy_chosen], requires_grad=True)
    terms = dpo_loss(chosen, torch.tensor([-2e6]), torch.tensor([-1e6]), torch.tensor([0.0]), 0.5, label_smoothing=0.1)
    terms.loss.backward()
    assert math.isfinite(terms.loss.item())
    assert chosen.grad is not None
    assert math.isfinite(chosen.grad.item())


def test_shapes_that_would_broadcast_are_refused() -> None:
    three, one = torch.zeros(3), torch.zeros(1)
    with pytest.raises(ValueError, match=r"\[\(1,\), \(3,\)\]"):
        dpo_loss(three, three, three, one, beta=0.1)
    with pytest.raises(ValueError, match="one shape"):
        dpo_loss(*(torch.zeros(3, 2),) * 4, beta=0.1)


@pytest.mark.parametrize("label_smoothing", [-0.1, 0.5, math.nan])
def test_label_smoothing_outside_its_range_is_refused(label_smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"has to lie in \[0, 0.5\)"):
        dpo_loss(*(torch.zeros(1),) * 4, beta=0.1, label_smoothing=label_smoothing)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_extreme_log_probs_give_finite_losses(label_smoothing: float) -> None:
    """The margins are 2000 and -2000; -log sigmoid(m) is -m for m far below 0, and 0 for m far above."""
    huge = torch.tensor([1e4, -1e4], requires_grad=True)
    zero = torch.zeros(2)
    terms = dpo_loss(huge, -huge, zero, zero, beta=0.1, label_smoothing=label_smoothing)
    terms.loss.backward()
    assert float(terms.loss.detach()) == pytest.approx(1000)
    assert huge.grad is not None
    assert torch.isfinite(huge.grad).all()


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_log_probs_that_are_no_numbers_show_in_the_loss(place: int, value: float) -> None:
    """Also where the margin is plus infinity, for which -log sigmoid is 0."""
    logps = [torch.zeros(3) for _ in range(4)]
    logps[place][1] = value
    policy_chosen, policy_rejected, reference_chosen, reference_rejected = logps
    terms = dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1)
    assert not torch.isfinite(terms.loss)
