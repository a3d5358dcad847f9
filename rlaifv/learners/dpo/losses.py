"""Sequence log-probs and the DPO loss as pure functions of tensors.

Shapes: S scored tokens over all branches; N branches, or N pairs in the losses.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

Reduction = Literal["sum", "mean", "weighted"]
Loss = Literal["sigmoid", "robust", "hinge", "ipo"]
# Losses that support label smoothing, which models swapped preferences.
SMOOTHED: tuple[Loss, ...] = ("sigmoid", "robust")


class DPOTerms(NamedTuple):
    """Loss terms of a batch of pairs: float[] `loss` to minimise, and detached rewards, float[N], for logging."""

    loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def reduce_logps(
    token_logps: Tensor,
    lengths: Sequence[int],
    reduction: Reduction,
    token_weights: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """Reduce token log-probs to one log-prob per branch.

    `sum` is the sequence log-prob, for which DPO is derived; `mean` averages over tokens. `weighted` is the dense DPO
    of RLHF-V (DDPO, arXiv 2312.00849): corrected tokens have weight gamma > 1, unchanged ones 1, and the weighted sum
    is divided by the sum of the weights, so that long answers do not count more. The paper divides, with gamma 5 and
    beta 0.5; the authors' later training script does not (`normalize=False`), with gamma 1.1 and beta 0.1.

    Args:
        token_logps: float[S], branches concatenated, as `branch_logps` returns them.
        lengths: number of tokens of each of the N branches (`PackedTrees.branch_lengths`), summing to S.
        reduction: see above.
        token_weights: float[S], for `weighted` only.
        normalize: whether `weighted` divides by the sum of the weights.

    Returns:
        float[N], in the dtype of `token_logps`.

    Raises:
        ValueError: an unknown reduction, no branch, a branch without tokens or with zero weight, mismatched sizes,
            `weighted` without weights, or weights or `normalize=False` without `weighted`.
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"The reduction has to be one of {', '.join(get_args(Reduction))}, but it is {reduction!r}.")
    if not lengths or min(lengths) < 1:
        raise ValueError(f"Every sequence needs at least one scored token, but the lengths are {list(lengths)}.")
    if token_logps.shape != (sum(lengths),):
        raise ValueError(
            f"The lengths add up to {sum(lengths)}, but the log-probs have shape {list(token_logps.shape)}."
        )
    if (reduction == "weighted") != (token_weights is not None):
        raise ValueError(
            f"Token weights belong to reduction 'weighted' and to no other; the reduction is {reduction!r}."
        )
    if not normalize and reduction != "weighted":
        raise ValueError(f"normalize=False has a meaning for reduction 'weighted' only, not for {reduction!r}.")
    if token_weights is None:
        sums = _segment_sums(token_logps, lengths)
        return sums if reduction == "sum" else sums / torch.tensor(lengths, dtype=sums.dtype, device=sums.device)
    if token_weights.shape != token_logps.shape:
        raise ValueError(
            f"There are {list(token_weights.shape)} token weights for log-probs of shape {list(token_logps.shape)}."
        )
    weighted_sums = _segment_sums(token_weights * token_logps, lengths)
    totals = _segment_sums(token_weights, lengths)
    if not bool((totals > 0).all()):
        raise ValueError("The token weights of every sequence have to add up to more than 0.")
    return weighted_sums / totals if normalize else weighted_sums


def _segment_sums(values: Tensor, lengths: Sequence[int]) -> Tensor:
    # Not scatter or index_add: on a GPU they add in no fixed order, and a resumed run would differ in the last bits.
    return torch.stack([part.sum() for part in torch.split(values, list(lengths))])


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
    loss: Loss = "sigmoid",
) -> DPOTerms:
    """Compute a loss of the DPO family, averaged over pairs.

    With h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected), m = beta * h and an assumed
    fraction e of swapped preferences, the loss of a pair is

        sigmoid   -(1 - e) log sigmoid(m) - e log sigmoid(-m)                 DPO (arXiv 2305.18290, equation 7), and with
                                                                              e > 0 conservative DPO
        robust    (-(1 - e) log sigmoid(m) + e log sigmoid(-m)) / (1 - 2 e)   robust DPO (arXiv 2403.00409, equation 12)
        hinge     max(0, 1 - m)                                               SLiC-HF as DPO (arXiv 2309.06657)
        ipo       (h - 1 / (2 beta))^2                                        IPO (arXiv 2310.12036, equation 17)

    IPO's authors average log-probs over tokens, since its square would grow with answer length: use it with `mean`.

    Args:
        policy_chosen: float[N], log-probs of the chosen answers of N pairs under the policy.
        policy_rejected: float[N], those of the rejected answers.
        reference_chosen: float[N], those of the chosen answers under the reference.
        reference_rejected: float[N], those of the rejected answers under the reference.
        beta: strength of the regularization towards the reference, 0.1 in RLAIF-V.
        label_smoothing: e above, in [0, 0.5); 0 for losses without it.
        loss: one of the above.

    A log-prob that is infinite or NaN gives a non-finite loss.

    Raises:
        ValueError: an unknown loss, shapes that differ, or a label smoothing outside its range or without effect.
    """
    if loss not in get_args(Loss):
        raise ValueError(f"The loss has to be one of {', '.join(get_args(Loss))}, but it is {loss!r}.")
    shapes = {tuple(logps.shape) for logps in (policy_chosen, policy_rejected, reference_chosen, reference_rejected)}
    if len(shapes) > 1 or len(policy_chosen.shape) != 1:
        raise ValueError(f"The four log-probs of a pair need one shape [N], but they have {sorted(shapes)}.")
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing has to lie in [0, 0.5), but it is {label_smoothing}.")
    if label_smoothing > 0 and loss not in SMOOTHED:
        raise ValueError(f"label_smoothing={label_smoothing} has no effect on the loss {loss!r}.")
    chosen_rewards = beta * (policy_chosen - reference_chosen)
    rejected_rewards = beta * (policy_rejected - reference_rejected)
    margins = chosen_rewards - rejected_rewards
    if loss == "hinge":
        losses = relu(1.0 - margins) + 0.0 * margins
    elif loss == "ipo":
        losses = (margins / beta - 1.0 / (2.0 * beta)) ** 2
    else:
        # Numerically equal to the first term; an infinite margin, whose loss would silently be 0, makes the sum NaN.
        losses = -logsigmoid(margins) + 0.0 * margins
        if label_smoothing > 0.0:
            swapped = -label_smoothing * logsigmoid(-margins)
            losses = (1.0 - label_smoothing) * losses + (swapped if loss == "sigmoid" else -swapped)
            losses = losses if loss == "sigmoid" else losses / (1.0 - 2.0 * label_smoothing)
    return DPOTerms(losses.mean(), chosen_rewards.detach(), rejected_rewards.detach())
