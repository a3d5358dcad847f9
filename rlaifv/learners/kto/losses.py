"""The KTO loss as pure functions of tensors.

Shapes: N answers with a label each; M mismatched answers, which are answers to other prompts.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import sigmoid


class KTOTerms(NamedTuple):
    """Loss of a batch of labelled answers: float[] `loss` to minimise, and detached rewards, float[N], for logging."""

    loss: Tensor
    rewards: Tensor


def reference_point(
    policy_logps: Tensor, reference_logps: Tensor, summed: Callable[[Tensor], Tensor] = lambda sums: sums
) -> Tensor:
    """Return z0, the estimate of KL(policy, reference) that rewards are compared with: max(0, mean of log-ratios).

    The answers are mismatched ones, each put after a prompt that it is no answer to (arXiv 2402.01306, section 4.1). Their
    log-ratios are biased, and the estimate is below the KL. z0 is a constant of the loss: no gradient flows through it.

    Args:
        policy_logps: float[M], log-probs of mismatched answers under the policy.
        reference_logps: float[M], those under the reference.
        summed: adds up float[2] over ranks: the sum of the log-ratios, and their number.

    Returns:
        float[], in nats; 0 without mismatched answers. It is NaN where a log-prob is not finite.
    """
    log_ratios = policy_logps.detach() - reference_logps
    number = log_ratios.new_tensor(float(len(log_ratios)))
    total, number = summed(torch.stack([log_ratios.sum(), number]))
    mean = total / number.clamp(min=1.0)
    return mean.clamp(min=0.0) + 0.0 * mean  # the last term keeps an infinite mean from passing as 0


def kto_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    is_desirable: Tensor,
    weights: Tensor,
    point: Tensor,
    beta: float,
) -> KTOTerms:
    """Compute the loss of Kahneman-Tversky optimization (arXiv 2402.01306, equations 6 and 7), averaged over answers.

    With h = policy_logps - reference_logps, the loss of an answer with weight w is

        desirable     w (1 - sigmoid(beta (h - z0)))
        undesirable   w (1 - sigmoid(beta (z0 - h)))

    Args:
        policy_logps: float[N], log-probs of the answers under the policy.
        reference_logps: float[N], those under the reference.
        is_desirable: bool[N].
        weights: float[N], lambda_D of desirable answers and lambda_U of the others.
        point: float[], z0 in nats, see `reference_point`.
        beta: strength of the regularization towards the reference, 0.1 in the paper.

    A log-prob that is infinite or NaN gives a non-finite loss.

    Raises:
        ValueError: shapes that differ, or no answers.
    """
    shapes = {tuple(values.shape) for values in (policy_logps, reference_logps, is_desirable, weights)}
    if len(shapes) > 1 or policy_logps.dim() != 1 or not len(policy_logps):
        raise ValueError(
            f"Answers need log-probs, labels and weights of one shape [N], but they have {sorted(shapes)}."
        )
    rewards = beta * (policy_logps - reference_logps)
    margins = rewards - beta * point
    # 1 - sigmoid(x) is sigmoid(-x), which keeps its digits where x is large. The last term is 0 or, for infinity, NaN.
    losses = sigmoid(torch.where(is_desirable, -margins, margins)) + 0.0 * margins
    return KTOTerms((weights * losses).mean(), rewards.detach())
