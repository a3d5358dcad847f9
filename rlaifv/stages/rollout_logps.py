"""Log-probs of rollouts, in the arithmetic of training: under the policy that sampled them, and under the base model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal, get_args

from rlaifv.engines.local import LocalEngine
from rlaifv.engines.reward import RewardEngine
from rlaifv.models.digests import weights_digest
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt, Rollout
from rlaifv.stages.stage import Made, Stage, Task

Reference = Literal["start", "base"]


class LowEntropy(ValueError):
    """Raised when the policy has nearly ceased to explore."""


class RolloutLogps(Stage):
    """Compute the log-probs of rollouts under the policy that sampled them.

    They are the old policy of the ratio and the reference of the KL penalty in the loss, which starts anew in each iteration.

    Args:
        policy: sampled the answers.
        decoding: of the answers.
        chosen_from: another model that gave some of them, which is refused.
        min_entropy: entropy per token, estimated by the mean of minus the log-probs, below which the run stops; 0 never does.

    Raises:
        ValueError: answers are not drawn from the policy's own distribution, so that these are not their log-probs.
    """

    name = "log-probs"
    reads = ("prompts", "rewarded")
    writes = "rollouts"
    unit = "rewarded"
    shard_factor = 2

    def __init__(
        self, policy: LocalEngine, decoding: Decoding, chosen_from: object | None = None, min_entropy: float = 0.0
    ) -> None:
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
        self.min_entropy = min_entropy

    def producer(self) -> dict[str, str]:
        return {"policy": weights_digest(self.policy.model, is_cached=True)}

    def __call__(self, task: Task, prompts: Sequence[Prompt], rewarded: Sequence[Rollout]) -> Made:
        """Return the rollouts with log-probs.

        Raises:
            LowEntropy: the policy's entropy is below `min_entropy`.
        """
        by_id = {prompt.id: prompt for prompt in prompts}
        groups: dict[str, list[Rollout]] = {}
        for rollout in rewarded:
            groups.setdefault(rollout.prompt_id, []).append(rollout)
        sizes = map(len, groups.values())
        answered = [(by_id[name], [rollout.token_ids for rollout in group]) for name, group in groups.items()]
        logps = self.policy.completion_logps(
            answered, lambda num_finished: task.advance(sum(islice(sizes, num_finished)))
        )
        found = [
            replace(rollout, logps=tuple(values), prompt_tokens=self.policy.num_tokens(by_id[name]))
            for (name, group), of_prompt in zip(groups.items(), logps, strict=True)
            for rollout, values in zip(group, of_prompt, strict=True)
        ]
        self._refuse_low_entropy(found)
        return Made(self._completed(found, answered))

    def _completed(
        self, rollouts: list[Rollout], answered: Sequence[tuple[Prompt, Sequence[tuple[int, ...]]]]
    ) -> list[Rollout]:
        """Return the rollouts with what else is needed of them; here nothing."""
        return rollouts

    def _refuse_low_entropy(self, rollouts: Sequence[Rollout]) -> None:
        entropy = mean_entropy(rollouts)
        if rollouts and entropy < self.min_entropy:
            raise LowEntropy(
                f"The policy's entropy is {entropy:.3g} per token, below min_entropy={self.min_entropy}: it answers nearly "
                "always the same, so there is little left to learn. Lower learner.lr, or end with fewer iterations."
            )


class RolloutValues(RolloutLogps):
    """Compute log-probs, what the critic expects, and the log-probs of the model that the policy is held to.

    Args:
        policy: see `RolloutLogps`, as `decoding`, `chosen_from` and `min_entropy`.
        decoding: of the answers.
        critic: as the iteration begins.
        load_base: gives the model that the run began with.
        reference: start (the policy as the iteration begins; the penalty in the reward is then 0) or base (the model that the
            run began with).
        chosen_from: is refused.
        min_entropy: alarm.

    Raises:
        ValueError: as `RolloutLogps`, or an unknown reference.
    """

    writes = "valued"

    def __init__(
        self,
        policy: LocalEngine,
        decoding: Decoding,
        critic: RewardEngine,
        load_base: Callable[[], LocalEngine],
        reference: Reference = "base",
        chosen_from: object | None = None,
        min_entropy: float = 0.0,
    ) -> None:
        super().__init__(policy, decoding, chosen_from, min_entropy)
        if reference not in get_args(Reference):
            raise ValueError(f"The reference must be start or base, but it is {reference!r}.")
        self.critic = critic
        self.base = load_base() if reference == "base" else None
        self.models = [] if self.base is None or self.base.model is policy.model else [self.base.model]

    def producer(self) -> dict[str, str]:
        return {**super().producer(), "critic": self.critic.digest()}

    def _completed(
        self, rollouts: list[Rollout], answered: Sequence[tuple[Prompt, Sequence[tuple[int, ...]]]]
    ) -> list[Rollout]:
        expected = self.critic.values(answered)
        values = [tuple(some.tolist()) for of_prompt in expected for some in of_prompt]
        held = None if self.base is None else self.base.completion_logps(answered)
        if held is None:
            references = [rollout.logps for rollout in rollouts]
        else:
            references = [tuple(some) for of_prompt in held for some in of_prompt]
        return [
            replace(rollout, values=value, reference_logps=reference)
            for rollout, value, reference in zip(rollouts, values, references, strict=True)
        ]


def mean_entropy(rollouts: Sequence[Rollout]) -> float:
    """Return the policy's entropy per token, estimated by the mean of minus the log-probs of what it sampled."""
    values = [value for rollout in rollouts for value in rollout.logps]
    return -sum(values) / max(len(values), 1)
