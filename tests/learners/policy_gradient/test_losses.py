"""The surrogate and the KL penalty: by hand, and against exact expectations over a tiny vocabulary."""

import itertools
import math
from typing import Any

import pytest
import torch

from rlaifv.learners.policy_gradient.losses import kl_penalty, surrogate_loss, value_loss


def logs(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def test_the_clipped_loss_of_two_answers_by_hand() -> None:
    """Ratios 1.5 and 1 (advantage 2: clipped to 1.2 and 1), and 0.5 (advantage -1: clipped to 0.8).

    First answer -(2.4 + 2) / 2 = -2.2, second -(-0.8) = 0.8; their mean is -0.7. By tokens: (-2.4 - 2 + 0.8) / 3 = -1.2.
    """
    ratios, old = logs(1.5, 1.0, 0.5), logs(0.1, 0.2, 0.4)
    arguments = (ratios + old, old, torch.tensor([2.0, -1.0]), (2, 1))
    terms = surrogate_loss(*arguments)
    assert terms.loss.item() == pytest.approx(-0.7)
    assert terms.clipped.item() == pytest.approx(2 / 3)
    assert terms.ratio.item() == pytest.approx(1.0)
    assert surrogate_loss(*arguments, aggregation="token").loss.item() == pytest.approx(-1.2)


def test_the_kl_penalty_by_hand() -> None:
    """Policy 0.5, reference 0.25: q = 1/2, so 1/2 - log(1/2) - 1 = log 2 - 1/2. Equal probabilities cost nothing."""
    assert kl_penalty(logs(0.5, 0.3), logs(0.25, 0.3)).tolist() == pytest.approx([math.log(2) - 0.5, 0.0])
    old = logs(0.25)
    terms = surrogate_loss(logs(0.5), old, torch.tensor([0.0]), (1,), kl_weight=3.0)
    assert terms.loss.item() == pytest.approx(3 * (math.log(2) - 0.5))
    assert terms.kl.item() == pytest.approx(math.log(2) - 0.5)


def test_a_ratio_beyond_the_clip_range_gets_no_gradient_in_its_direction() -> None:
    """Up with a positive advantage, and down with a negative one; the way back is open."""
    old = logs(0.2, 0.2, 0.2, 0.2)
    policy = (logs(1.5, 0.5, 1.5, 0.5) + old).requires_grad_()
    surrogate_loss(policy, old, torch.tensor([1.0, -1.0, -1.0, 1.0]), (1, 1, 1, 1)).loss.backward()
    assert policy.grad is not None
    assert policy.grad[:2].tolist() == [0.0, 0.0]
    assert policy.grad[2].item() > 0 > policy.grad[3].item()


def test_the_mean_of_the_kl_penalty_is_the_exact_kl() -> None:
    """Over the policy's own samples. Over the reference's it is not: the roles are not symmetric."""
    generator = torch.Generator().manual_seed(0)
    policy, reference = (torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(0) for _ in range(2))
    exact = (policy.exp() * (policy - reference)).sum().item()
    penalty = kl_penalty(policy, reference)
    assert (policy.exp() * penalty).sum().item() == pytest.approx(exact)
    assert (reference.exp() * penalty).sum().item() != pytest.approx(exact)


def test_a_policy_that_has_moved_away_is_pulled_back() -> None:
    """With no advantage, a step down the gradient of the loss brings the policy closer to the old one."""
    reference = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64).log()
    scores = torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64).log().requires_grad_()

    def exact() -> torch.Tensor:
        policy = scores.log_softmax(0)
        return (policy.exp() * (policy - reference)).sum()

    before = exact().item()
    policy = scores.log_softmax(0)
    terms = [
        policy[k].detach().exp()
        * surrogate_loss(policy[k : k + 1], reference[k : k + 1], torch.zeros(1), (1,), kl_weight=1.0).loss
        for k in range(3)
    ]
    (gradient,) = torch.autograd.grad(sum(terms), scores)  # type: ignore[arg-type]
    with torch.no_grad():
        scores -= 0.1 * gradient
    assert exact().item() < before
    with torch.no_grad():
        scores += 0.2 * gradient  # the other way it would move further
    assert exact().item() > before


def test_the_expected_gradient_is_that_of_the_exact_expected_reward() -> None:
    """Three tokens, answers of two: all nine are enumerated, weighted by their probability, with a reward each.

    An answer's loss is the mean over its two tokens, hence the factor 2.
    """
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    answers = list(itertools.product(range(3), repeat=2))
    rewards = torch.randn(9, generator=generator, dtype=torch.float64)

    def logps(answer: tuple[int, ...]) -> torch.Tensor:
        """First token from row 0, second from the row that the first one names."""
        first, second = answer
        return torch.stack([scores[0].log_softmax(0)[first], scores[1 + first].log_softmax(0)[second]])

    expected = sum(reward * logps(one).sum().exp() for one, reward in zip(answers, rewards, strict=True))
    (exact,) = torch.autograd.grad(expected, scores)  # type: ignore[arg-type]
    total = torch.zeros((), dtype=torch.float64)
    for one, reward in zip(answers, rewards, strict=True):
        found = logps(one)
        loss = surrogate_loss(found, found.detach(), reward[None], (2,)).loss
        total = total + found.sum().exp().detach() * 2 * loss
    (estimated,) = torch.autograd.grad(total, scores)
    torch.testing.assert_close(-estimated, exact)
    assert not torch.allclose(estimated, exact)


def test_advantages_of_tokens_weigh_their_own_token() -> None:
    """At ratio 1 the gradient of a token's log-prob is minus its own advantage, over the number of tokens."""
    logps = torch.zeros(3, requires_grad=True)
    terms = surrogate_loss(logps, torch.zeros(3), torch.tensor([1.0, -2.0, 3.0]), [2, 1], aggregation="token")
    terms.loss.backward()  # type: ignore[no-untyped-call]
    assert logps.grad is not None
    assert logps.grad.tolist() == pytest.approx([-1 / 3, 2 / 3, -1.0])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    # Errors 0.25, 1 and 4; the mean of all, or of the answers' means (0.625 and 4); half of it.
    [("token", 0.5 * 5.25 / 3), ("sequence", 0.5 * (0.625 + 4) / 2)],
)
def test_the_critics_loss_by_hand(aggregation: Any, expected: float) -> None:
    values, returns = torch.tensor([0.5, 1.0, -1.0]), torch.tensor([1.0, 2.0, 1.0])
    assert value_loss(values, values, returns, [2, 1], 0.2, aggregation).item() == pytest.approx(expected)


def test_a_critic_that_moved_far_counts_the_larger_error() -> None:
    # Moved from 0 to 1 with a return of 1: no error, but at 0.2, where clipping stops it, 0.64. Without clipping none.
    values, old, returns = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0])
    assert value_loss(values, old, returns, [1], 0.2, "token").item() == pytest.approx(0.32)
    assert value_loss(values, old, returns, [1], 0.0, "token").item() == 0.0
