"""Reward against measurement: whether a policy learns what was meant, or only what is rewarded."""

from collections.abc import Mapping, Sequence

from rlaifv.report.run import Run
from rlaifv.report.summary import HEADLINES, headlines

# Changes below this are noise on a few hundred held-out prompts.
LEAST_CHANGE = 0.02


def reward_names(statistics: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the figures that say how high the reward is: scores of reward models as they are, else the reward.

    A reward that is shifted and scaled in each iteration has a mean of 0 by design, so the scores themselves are compared.
    """
    scores = [name for name in (statistics[0] if statistics else ()) if name.startswith("score/")]
    return scores or [name for name in ("reward/mean",) if any(name in values for values in statistics)]


def reward_warning(run: Run) -> str:
    """Return one sentence if the reward rose while a measurement on held-out prompts got worse; empty if not.

    The statistics of iteration k and the evaluation after k iterations are of the same policy.
    """
    evaluations = {one.num_iterations: one.metrics for one in run.evaluations}
    last = min(len(run.statistics) - 1, max(evaluations, default=0))
    if last < 1 or 0 not in evaluations or last not in evaluations:
        return ""
    names = headlines(evaluations)
    worse = {
        name: (evaluations[0][name], evaluations[last][name])
        for name in (*names[:2], *(("coverage",) if names is HEADLINES else ()))
        if name in evaluations[0] and name in evaluations[last]
    }
    sign = {"coverage": -1.0}
    parted = [name for name, (a, b) in worse.items() if sign.get(name, 1.0) * (b - a) > LEAST_CHANGE]
    for reward in reward_names(run.statistics):
        before, after = run.statistics[0].get(reward), run.statistics[last].get(reward)
        if parted and before is not None and after is not None and after > before:
            a, b = worse[parted[0]]
            return (
                f"The reward ({reward}) rose from {before:.2f} to {after:.2f} while {parted[0]} got worse, from {a:.3f} to "
                f"{b:.3f}: the policy exploits the reward. Stop earlier, or change the terms of the reward."
            )
    return ""
