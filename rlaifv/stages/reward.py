"""Judged responses in, rollouts out: rewards from the labeler's verdicts, and advantages over the other answers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import get_args

from rlaifv.engines.local import LocalEngine
from rlaifv.models.digests import weights_digest
from rlaifv.models.sampling import Decoding
from rlaifv.records import Claim, Judgement, Prompt, Response, Rollout
from rlaifv.stages.advantages import EPSILON, Estimator, group_advantages, whiten
from rlaifv.stages.score import verdict_statistics
from rlaifv.stages.stage import ITERATION, Made, Stage, Task

RESPONSE_REASONS = ("empty_response", "no_claims", "unknown", "alone", "no_spread")


@dataclass(frozen=True, slots=True)
class RewardRules:
    """The reward of an answer: a sum of weighted terms, `accepted` - `rejected` - `cut`.

    Attributes:
        accepted: weight of each distinct claim that the labeler accepts. It pays for coverage: at 0, silence is best.
        rejected: weight of each distinct claim that it rejects.
        cut: taken off an answer that reached the maximum of tokens without an end.
        estimator: how rewards become advantages, see `group_advantages`.

    Raises:
        ValueError: a negative weight, no weight above 0, or an unknown estimator.
    """

    accepted: float = 0.2
    rejected: float = 1.0
    cut: float = 1.0
    estimator: Estimator = "grpo"

    def __post_init__(self) -> None:
        weights = {"accepted": self.accepted, "rejected": self.rejected, "cut": self.cut}
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"The weight {name} of the reward must be 0 or more, but it is {weight}.")
        if not any(weights.values()):
            raise ValueError("All weights of the reward are 0, so no answer would be better than another.")
        if self.estimator not in get_args(Estimator):
            known = ", ".join(get_args(Estimator))
            raise ValueError(f"The estimator must be one of {known}, but it is {self.estimator!r}.")

    def reward(self, num_accepted: int, num_rejected: int, is_cut: bool) -> float:
        """Return the reward of an answer.

        >>> RewardRules(accepted=0.5, rejected=1.0, cut=2.0).reward(3, 1, True)
        -1.5
        """
        return self.accepted * num_accepted - self.rejected * num_rejected - self.cut * is_cut


class Reward(Stage):
    """Reward every answer and compare it with the other answers to its prompt.

    Dropped and counted: answers that are empty, have no claims or an unknown verdict; answers left `alone`; and, with
    estimators that would give them an advantage of 0, prompts whose answers all have the same reward (`no_spread`).
    """

    name = "reward"
    reads = ("responses", "claims", "judgements")
    writes = "rewarded"
    unit = ITERATION
    is_stored = False

    def __init__(self, rules: RewardRules) -> None:
        self.rules = rules

    def producer(self) -> dict[str, str]:
        return {"reward": repr(self.rules)}

    def __call__(
        self, task: Task, responses: Sequence[Response], claims: Sequence[Claim], judgements: Sequence[Judgement]
    ) -> Made:
        rollouts, drops = build_rollouts(responses, claims, judgements, self.rules)
        # Responses that were not divided have no claims either, and are counted already.
        drops["no_claims"] -= task.drops.get("not_divided", 0)
        return Made(rollouts, +drops)


class RolloutLogps(Stage):
    """Compute the log-probs of rollouts under the policy that sampled them, in the arithmetic of training.

    They are both the old policy of the ratio and the reference of the KL penalty, which starts anew in each iteration.

    Raises:
        ValueError: answers are not drawn from the policy's own distribution, so that these are not their log-probs.
    """

    name = "log-probs"
    reads = ("prompts", "rewarded")
    writes = "rollouts"
    unit = "rewarded"
    shard_factor = 2

    def __init__(self, policy: LocalEngine, decoding: Decoding, chosen_from: object | None = None) -> None:
        if chosen_from is not None:
            raise ValueError("A policy gradient learns from the policy's own answers: set iteration.chosen_from=null.")
        plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
        wrong = [
            f"iteration.decoding.{name}={value}" for name, value in plain.items() if getattr(decoding, name) != value
        ]
        if wrong:
            raise ValueError(
                f"A policy gradient needs answers drawn from the policy's own distribution: set {' '.join(wrong)}."
            )
        self.policy = policy

    def producer(self) -> dict[str, str]:
        return {"policy": weights_digest(self.policy.model, is_cached=True)}

    def __call__(self, task: Task, prompts: Sequence[Prompt], rewarded: Sequence[Rollout]) -> Made:
        by_id = {prompt.id: prompt for prompt in prompts}
        groups: dict[str, list[Rollout]] = {}
        for rollout in rewarded:
            groups.setdefault(rollout.prompt_id, []).append(rollout)
        sizes = map(len, groups.values())
        logps = self.policy.completion_logps(
            [(by_id[name], [rollout.token_ids for rollout in group]) for name, group in groups.items()],
            lambda num_finished: task.advance(sum(islice(sizes, num_finished))),
        )
        return Made(
            [
                replace(rollout, logps=tuple(values), prompt_tokens=self.policy.num_tokens(by_id[name]))
                for (name, group), of_prompt in zip(groups.items(), logps, strict=True)
                for rollout, values in zip(group, of_prompt, strict=True)
            ]
        )


def distinct_verdicts(claims: Iterable[Claim], judgements: Iterable[Judgement]) -> dict[str, Counter[str]]:
    """Count the distinct claims of each response by verdict; one that an answer repeats counts once."""
    verdicts: dict[str, dict[str, str]] = {}
    questions = {claim.id: claim.question for claim in claims}
    for judgement in judgements:
        verdicts.setdefault(judgement.response_id, {})[questions[judgement.claim_id]] = judgement.verdict
    return {name: Counter(found.values()) for name, found in verdicts.items()}


def build_rollouts(
    responses: Sequence[Response], claims: Sequence[Claim], judgements: Iterable[Judgement], rules: RewardRules
) -> tuple[list[Rollout], Counter[str]]:
    """Return the rollouts of an iteration, those of a prompt together, and the drops by reason.

    A claim that an answer repeats counts once: otherwise repetition would pay.
    """
    verdicts = distinct_verdicts(claims, judgements)
    drops: Counter[str] = Counter()
    groups: dict[str, list[Rollout]] = {}
    for response in responses:
        found = verdicts.get(response.id, Counter())
        if not response.text.strip():
            drops["empty_response"] += 1
        elif not found:
            drops["no_claims"] += 1
        elif found["unknown"]:
            drops["unknown"] += 1
        else:
            counts = found["accepted"], found["rejected"]
            reward = rules.reward(*counts, not response.finished)
            rollout = Rollout(
                response.id, response.prompt_id, response.token_ids, response.finished, *counts, reward, 0.0
            )
            groups.setdefault(response.prompt_id, []).append(rollout)
    rollouts = []
    for group in groups.values():
        rewards = [rollout.reward for rollout in group]
        if len(group) < 2:
            drops["alone"] += 1
        elif max(rewards) - min(rewards) < EPSILON:
            drops["no_spread"] += len(group)
        else:
            advantages = group_advantages(rewards, rules.estimator)
            rollouts += [replace(one, advantage=value) for one, value in zip(group, advantages, strict=True)]
    if rules.estimator == "reinforce++":
        whitened = whiten([rollout.advantage for rollout in rollouts])
        rollouts = [replace(one, advantage=value) for one, value in zip(rollouts, whitened, strict=True)]
    return rollouts, drops


def rollout_statistics(
    responses: Sequence[Response], judgements: Sequence[Judgement], rollouts: Sequence[Rollout], drops: Counter[str]
) -> dict[str, float]:
    """Return the figures of an iteration's rewards, by name; every term of the reward is there alone."""
    num = max(len(rollouts), 1)
    mean = sum(one.reward for one in rollouts) / num
    return {
        **verdict_statistics(len(responses), judgements),
        "rollouts_kept": float(len(rollouts)),
        "reward/mean": mean,
        "reward/std": (sum((one.reward - mean) ** 2 for one in rollouts) / num) ** 0.5,
        "reward/accepted": sum(one.num_accepted for one in rollouts) / num,
        "reward/rejected": sum(one.num_rejected for one in rollouts) / num,
        "reward/cut": sum(not one.finished for one in rollouts) / num,
        **{f"dropped/{reason}": float(drops[reason]) for reason in dict.fromkeys((*RESPONSE_REASONS, *drops))},
    }
