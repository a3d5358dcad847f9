"""Losses of reward models: comparisons of answers, and classes of segments."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid


def comparison_loss(
    first: Tensor,
    second: Tensor,
    preferences: Tensor,
    margins: Tensor | None = None,
    centring: float = 0.0,
) -> Tensor:
    """Return the Bradley-Terry loss of N comparisons by H criteria.

    With p the probability that the first answer is better, d the difference of the scores and m the margin:
    -p log s(d - m) - (1 - p) log s(-d - m), s the logistic function. With p = 1 this is -log s(d - m) (Llama 2, arXiv
    2307.09288, equation 2; MORLAIF, arXiv 2406.07295); m = 0 is the plain loss. Centring adds its weight times the mean of
    |first + second|, which keeps scores around 0 (Fact-RLHF, arXiv 2309.14525).

    Args:
        first: float[N, H], scores of the first answers.
        second: float[N, H], of the second answers.
        preferences: float[N, H], p; negative where nothing is known, which has no part in the loss.
        margins: float[N, H], not negative; None for 0.
        centring: weight of the centring term.

    Returns:
        The mean over what is known; 0 if nothing is.
    """
    known = preferences >= 0
    ahead = first - second
    margin = torch.zeros_like(ahead) if margins is None else margins
    p = preferences.clamp(min=0)
    losses = -p * logsigmoid(ahead - margin) - (1 - p) * logsigmoid(-ahead - margin)
    losses = losses + centring * (first + second).abs()
    # Where, not a product: 0 times infinity would be NaN.
    return torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1)


def segment_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of T segments' classes, over H kinds (FGAIF, arXiv 2404.05046).

    Args:
        logits: float[T, H, C].
        labels: int64[T, H].
    """
    return cross_entropy(logits.flatten(0, 1), labels.flatten())
