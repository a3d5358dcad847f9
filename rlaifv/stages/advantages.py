"""From rewards to advantages, without a critic."""

from collections.abc import Sequence
from typing import Literal

Estimator = Literal["grpo", "rloo", "reinforce++"]
EPSILON = 1e-6


def group_advantages(rewards: Sequence[float], estimator: Estimator) -> list[float]:
    """Return the advantage of each answer to one prompt.

    grpo         (r - mean) / (std + 1e-6), with the sample standard deviation (DeepSeekMath, arXiv 2402.03300, section 4.1.2)
    rloo         r - mean of the others' (arXiv 2402.14740, section 2)
    reinforce++  r - mean; `whiten` then divides by the deviation over all prompts (arXiv 2501.03262, with its group baseline)

    Args:
        rewards: of the answers to one prompt, two or more.
        estimator: one of the above.

    Raises:
        ValueError: fewer than two rewards, or an unknown estimator.

    >>> group_advantages([0.0, 2.0], "rloo")
    [-2.0, 2.0]
    """
    num = len(rewards)
    if num < 2:
        raise ValueError(f"Advantages compare answers to one prompt, but there are only {num}.")
    mean = sum(rewards) / num
    centred = [reward - mean for reward in rewards]
    if estimator == "reinforce++":
        return centred
    if estimator == "rloo":
        return [num / (num - 1) * value for value in centred]
    if estimator == "grpo":
        deviation = (sum(value * value for value in centred) / (num - 1)) ** 0.5
        return [value / (deviation + EPSILON) for value in centred]
    raise ValueError(f"The estimator must be one of grpo, rloo, reinforce++, but it is {estimator!r}.")


def whiten(advantages: Sequence[float]) -> list[float]:
    """Return the values shifted to mean 0 and scaled to standard deviation 1; all zeros if they are equal.

    >>> whiten([1.0, 3.0, 5.0])
    [-1.0, 0.0, 1.0]
    """
    num = len(advantages)
    mean = sum(advantages) / max(num, 1)
    deviation = (sum((value - mean) ** 2 for value in advantages) / max(num - 1, 1)) ** 0.5
    return [(value - mean) / deviation if deviation > EPSILON else 0.0 for value in advantages]


def generalised_advantages(
    rewards: Sequence[float], values: Sequence[float], gamma: float = 1.0, lam: float = 0.95
) -> tuple[list[float], list[float]]:
    """Return generalised advantage estimates of the tokens of one answer, and returns (GAE, arXiv 1506.02438, equation 16).

    The answer ends after its last token, so that nothing is expected of what follows.

    Args:
        rewards: of each token.
        values: what the critic expects before each token.
        gamma: discount of later rewards.
        lam: weight of later errors: 0 trusts the critic, 1 the rewards.

    Returns:
        Advantages, and returns (advantages + values), which the critic learns.

    >>> generalised_advantages([0.0, 1.0], [0.5, 0.25], gamma=1.0, lam=0.5)
    ([0.125, 0.75], [0.625, 1.0])
    """
    advantages = [0.0] * len(rewards)
    later = value_after = 0.0
    for t in reversed(range(len(rewards))):
        error = rewards[t] + gamma * value_after - values[t]
        later = error + gamma * lam * later
        advantages[t], value_after = later, values[t]
    return advantages, [advantage + value for advantage, value in zip(advantages, values, strict=True)]
