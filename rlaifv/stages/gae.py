"""From rewards and a critic's values to advantages per token: the KL penalty in the reward, and GAE (PPO)."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlaifv.records import Rollout
from rlaifv.stages.advantages import generalised_advantages, whiten
from rlaifv.stages.stage import ITERATION, Made, Stage, Task
from rlaifv.store.iteration import statistics_path

KL_WEIGHT = "kl/weight"
KL_MEAN = "kl/per_answer"


class TooFarFromBase(ValueError):
    """Raised when the KL divergence to the reference passes `max_kl`."""


class Advantages(Stage):
    """Take the KL penalty off every token's reward, and estimate advantages with the critic's values.

    The reward of a token is `scale * reward - scale * kl_weight * kl`, kl its log-ratio of policy to reference (k1). The
    penalty's weight follows a target, if there is one: w *= 1 + clip(KL / target - 1, -0.2, 0.2) * answers / horizon (arXiv
    1909.08593, section 2.2), from the statistics of the iteration before.

    Args:
        run_dir: of the run.
        kl_weight: weight of the penalty in the first iteration.
        kl_target: KL per answer that the weight is steered to; 0 keeps the weight.
        kl_horizon: answers after which the weight has fully reacted.
        kl_is_clamped: whether log-ratios below 0 count as 0 (Fact-RLHF).
        scale: factor of rewards and penalty (Fact-RLHF: 10).
        gamma: discount of later rewards.
        lam: lambda of GAE.
        is_whitened: whether advantages are shifted and scaled to mean 0 and deviation 1 over all tokens of the iteration.
        max_kl: KL per answer above which the run stops; 0 never stops it.

    Raises:
        ValueError: a setting is out of its range.
    """

    name = "advantages"
    reads = ("valued",)
    writes = "rollouts"
    unit = ITERATION

    def __init__(
        self,
        run_dir: Path,
        kl_weight: float = 0.1,
        kl_target: float = 0.0,
        kl_horizon: float = 10_000,
        kl_is_clamped: bool = False,
        scale: float = 1.0,
        gamma: float = 1.0,
        lam: float = 0.95,
        is_whitened: bool = True,
        max_kl: float = 0.0,
    ) -> None:
        if not (0 <= gamma <= 1 and 0 <= lam <= 1):
            raise ValueError(f"gamma and lam must be between 0 and 1, but they are {gamma} and {lam}.")
        if not (kl_weight >= 0 and kl_target >= 0 and max_kl >= 0 and kl_horizon > 0 and scale > 0):
            raise ValueError("kl_weight, kl_target and max_kl must be 0 or more, kl_horizon and scale above 0.")
        self.run_dir = run_dir
        self.kl_weight, self.kl_target, self.kl_horizon, self.kl_is_clamped = (
            kl_weight,
            kl_target,
            kl_horizon,
            kl_is_clamped,
        )
        self.scale, self.gamma, self.lam, self.is_whitened, self.max_kl = scale, gamma, lam, is_whitened, max_kl

    def producer(self) -> dict[str, str]:
        rest = {name: value for name, value in vars(self).items() if name != "run_dir"}
        return {"advantages": repr(rest)}

    def __call__(self, task: Task, valued: Sequence[Rollout]) -> Made:
        """Return the rollouts with advantages and returns.

        Raises:
            TooFarFromBase: the KL is above `max_kl`.
        """
        kl = mean_kl(valued)
        if self.max_kl and kl > self.max_kl:
            raise TooFarFromBase(
                f"The KL to the reference is {kl:.3g} per answer, above max_kl={self.max_kl}. Raise "
                "method.stages.advantages.kl_weight, or lower learner.lr."
            )
        weight = self.weight_at(task.iteration)
        found = [self._advantages(rollout, weight) for rollout in valued]
        flat = [value for advantages, _ in found for value in advantages]
        whitened = iter(whiten(flat) if self.is_whitened else flat)
        task.advance(1)
        return Made(
            [
                replace(rollout, advantages=tuple(next(whitened) for _ in advantages), returns=tuple(returns))
                for rollout, (advantages, returns) in zip(valued, found, strict=True)
            ]
        )

    def weight_at(self, iteration: int) -> float:
        """Return the weight of the penalty, from what the iteration before it recorded."""
        if iteration == 0 or not self.kl_target:
            return self.kl_weight
        found = json.loads(statistics_path(self.run_dir, iteration - 1).read_text(encoding="utf-8"))
        error = min(max(found[KL_MEAN] / self.kl_target - 1, -0.2), 0.2)
        return float(found[KL_WEIGHT] * (1 + error * found["rollouts_kept"] / self.kl_horizon))

    def _advantages(self, rollout: Rollout, weight: float) -> tuple[list[float], list[float]]:
        ratios = [a - b for a, b in zip(rollout.logps, rollout.reference_logps, strict=True)]
        kls = [max(ratio, 0.0) for ratio in ratios] if self.kl_is_clamped else ratios
        rewards = [self.scale * (reward - weight * kl) for reward, kl in zip(rollout.rewards, kls, strict=True)]
        return generalised_advantages(rewards, rollout.values, self.gamma, self.lam)


def mean_kl(rollouts: Sequence[Rollout]) -> float:
    """Return the KL of policy to reference per answer, estimated by the mean of the summed log-ratios."""
    totals = [sum(rollout.logps) - sum(rollout.reference_logps) for rollout in rollouts]
    return sum(totals) / max(len(totals), 1)
