"""Several scores of an answer into one: the scalarisers of MORLAIF (arXiv 2406.07295), and how their weights are fit.

All take K weighted scores of each of N answers, R = weights * scores, and reduce over the scores alone, so that an answer's
result never depends on the other answers:

    linear                 sum of R
    worst_case             min of R
    soft_max_min           sum of s R, with s = softmax(-R / temperature)
    uncertainty_weighted   mean of R - penalty * variance of R (of the population)
    lower_quantile         mean of the floor(share * K) smallest R, at least one
    max_median             median of R (of an even number, the mean of the middle two)
    bernoulli_nash         geometric mean of R, which has to be positive: normalise by sigmoid
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Scalariser = Literal[
    "linear",
    "worst_case",
    "soft_max_min",
    "uncertainty_weighted",
    "lower_quantile",
    "max_median",
    "bernoulli_nash",
]
Normalisation = Literal["none", "standard", "sigmoid"]


def normalise(scores: Tensor, how: Normalisation) -> Tensor:
    """Make scores of different models comparable.

    Args:
        scores: float[N, K].
        how: none; standard, each score shifted and scaled to mean 0 and deviation 1 over the answers; or sigmoid, the logistic
            function of these, which lies between 0 and 1.

    Raises:
        ValueError: another name.
    """
    if how not in get_args(Normalisation):
        raise ValueError(f"The normalisation must be one of {', '.join(get_args(Normalisation))}, but it is {how!r}.")
    if how == "none":
        return scores
    deviation = scores.std(0, correction=0).clamp(min=1e-6)
    standard = (scores - scores.mean(0)) / deviation
    return standard.sigmoid() if how == "sigmoid" else standard


def scalarise(
    scores: Tensor,
    weights: Tensor,
    how: Scalariser,
    temperature: float = 1.0,
    penalty: float = 0.5,
    share: float = 1 / 3,
) -> Tensor:
    """Return one number for each answer, see above.

    Args:
        scores: float[N, K].
        weights: float[K].
        how: the scalariser.
        temperature: of soft_max_min.
        penalty: of uncertainty_weighted.
        share: of lower_quantile.

    Returns:
        float[N].

    Raises:
        ValueError: an unknown scalariser, or scores that are not positive where bernoulli_nash needs them to be.
    """
    weighted = scores * weights
    if how == "linear":
        return weighted.sum(1)
    if how == "worst_case":
        return weighted.amin(1)
    if how == "soft_max_min":
        return ((-weighted / temperature).softmax(1) * weighted).sum(1)
    if how == "uncertainty_weighted":
        return weighted.mean(1) - penalty * weighted.var(1, correction=0)
    if how == "lower_quantile":
        number = max(1, int(share * weighted.shape[1] + 1e-9))
        return weighted.sort(1).values[:, :number].mean(1)
    if how == "max_median":
        return weighted.quantile(0.5, 1)
    if how == "bernoulli_nash":
        if not (weighted > 0).all():
            raise ValueError("bernoulli_nash takes positive scores: set normalise=sigmoid and weights above 0.")
        return weighted.log().mean(1).exp()
    raise ValueError(f"The scalariser must be one of {', '.join(get_args(Scalariser))}, but it is {how!r}.")


def fit_weights(differences: Tensor, preferences: Tensor, num_steps: int = 100) -> Tensor:
    """Return weights that predict preferences from differences of scores: logistic regression without intercept.

    Differences are divided by their root mean square, and mirrored, so that the order of answers has no influence (MORLAIF). A
    tiny penalty on the weights keeps them finite where scores separate the preferences.

    Args:
        differences: float[N, K], scores of the first answers minus those of the second.
        preferences: float[N], probability that the first answer is better.
        num_steps: most iterations of L-BFGS.

    Returns:
        float[K], of the scores as they are, not of the scaled ones.

    Raises:
        ValueError: no comparisons, or a score that is the same for all answers.
    """
    if not len(differences):
        raise ValueError("Weights cannot be fit to no comparisons.")
    scale = differences.square().mean(0).sqrt()
    if not (scale > 1e-9).all():
        raise ValueError("Weights cannot be fit: a score is the same for all answers.")
    scaled = (differences / scale).double()
    weights = torch.zeros(scaled.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=num_steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        ahead = scaled @ weights
        loss = torch.nn.functional.binary_cross_entropy_with_logits(ahead, preferences.double())
        loss = loss + 1e-6 * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (weights.detach() / scale.double()).float()
