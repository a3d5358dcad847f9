"""The clipped surrogate of PPO and GRPO, and the KL penalty, per token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["sequence", "token"]


@dataclass(frozen=True, slots=True)
class SurrogateTerms:
    """The loss and its parts. Apart from `loss`, nothing has a gradient.

    Attributes:
        loss: scalar.
        kl: estimate of KL(policy, old policy) per token.
        clipped: share of tokens whose ratio is beyond the clip range on the side that the advantage pushes to.
        ratio: mean ratio of policy to old policy.
    """

    loss: Tensor
    kl: Tensor
    clipped: Tensor
    ratio: Tensor


def kl_penalty(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """Return the k3 estimator of KL(policy, reference) of sampled tokens: q - log q - 1, with q = reference / policy.

    It is never negative, and its mean over the policy's samples is the exact KL (Schulman, "Approximating KL divergence",
    2020).

    Args:
        logps: float[S] under the policy.
        reference_logps: float[S] under the reference.
    """
    log_q = reference_logps - logps
    return log_q.exp() - log_q - 1


def surrogate_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    lengths: Sequence[int],
    clip: float = 0.2,
    kl_weight: float = 0.0,
    aggregation: Aggregation = "sequence",
) -> SurrogateTerms:
    """Return the clipped surrogate loss (PPO, arXiv 1707.06347, equation 7) with a KL penalty in the loss (GRPO).

    Args:
        logps: float[S], log-probs of the S tokens of all answers, one answer after another.
        old_logps: float[S], the same under the policy that sampled them.
        advantages: float[N], one for each answer, or float[S], one for each token.
        lengths: tokens of each answer.
        clip: ratios beyond 1 ± clip get no gradient in the direction that they have moved.
        kl_weight: weight of the KL penalty to the old policy.
        aggregation: sequence (mean over the tokens of each answer, then over answers, as GRPO) or token (mean over all tokens,
            in which long answers weigh more, as DAPO).
    """
    sizes = torch.tensor(list(lengths), device=logps.device)
    of_tokens = advantages if len(advantages) == len(logps) else advantages.repeat_interleave(sizes)
    per_token = of_tokens.to(logps.dtype)
    log_ratio = logps - old_logps
    ratio = log_ratio.exp()
    gain = torch.minimum(ratio * per_token, ratio.clamp(1 - clip, 1 + clip) * per_token)
    kl = kl_penalty(logps, old_logps)
    cost = kl_weight * kl - gain
    answers = [cost] if aggregation == "token" else cost.split(list(lengths))
    loss = torch.stack([part.mean() for part in answers]).mean()
    with torch.no_grad():
        clipped = ((ratio > 1 + clip) & (per_token > 0)) | ((ratio < 1 - clip) & (per_token < 0))
        return SurrogateTerms(loss, kl.detach().mean(), clipped.float().mean(), ratio.detach().mean())


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, lengths: Sequence[int], clip: float, aggregation: Aggregation
) -> Tensor:
    """Return half the squared error of a critic, clipped as PPO's code does: the larger of two errors counts.

    Args:
        values: float[S], of the critic.
        old_values: float[S], of the critic as the iteration began.
        returns: float[S], what it should say.
        lengths: tokens of each answer.
        clip: the second error is that of values moved from the old ones by at most this; 0 clips nothing.
        aggregation: as of `surrogate_loss`.
    """
    errors = (values - returns).square()
    if clip:
        near = old_values + (values - old_values).clamp(-clip, clip)
        errors = torch.maximum(errors, (near - returns).square())
    answers = [errors] if aggregation == "token" else errors.split(list(lengths))
    return 0.5 * torch.stack([part.mean() for part in answers]).mean()
