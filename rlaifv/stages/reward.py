"""Answers in, rollouts out: rewards as a sum of named terms, and advantages over the other answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, Literal, get_args

from rlaifv.records import AnswerScore, Claim, Judgement, Prompt, Response, Rollout
from rlaifv.stages.advantages import EPSILON, Estimator, group_advantages, whiten
from rlaifv.stages.score import verdict_statistics
from rlaifv.stages.stage import ITERATION, Made, Stage, Task
from rlaifv.stages.terms import Answer, Term, by_response

RESPONSE_REASONS = ("empty_response", "no_claims", "unknown", "alone", "no_spread")
Estimators = Estimator | Literal["gae"]


class Reward(Stage):
    """Reward every answer, and compare it with the other answers to its prompt.

    Dropped and counted: answers that are empty or, where a term counts claims, have none or an unknown verdict; answers left
    `alone`; and prompts whose answers all have the same reward (`no_spread`). With gae nothing is compared, so that neither of
    the last two is a reason.

    Args:
        terms: of the reward, by name.
        estimator: from rewards to advantages: grpo, rloo, reinforce++ (see `group_advantages`); or gae, which leaves it to a
            critic and a later stage (`rlaifv.stages.gae`).

    Raises:
        ValueError: no term, all weights are 0, or an unknown estimator.
    """

    name = "reward"
    writes = "rewarded"
    unit = ITERATION
    is_stored = False

    def __init__(self, terms: Mapping[str, Term | None], estimator: Estimators = "grpo") -> None:
        self.terms = {name: term for name, term in terms.items() if term is not None}  # null leaves one out
        if not any(term.weight for term in self.terms.values()):
            raise ValueError(
                "The reward has no term with a weight other than 0, so no answer would be better than another."
            )
        known = [*get_args(Estimator), "gae"]
        if estimator not in known:
            raise ValueError(f"The estimator must be one of {', '.join(known)}, but it is {estimator!r}.")
        self.estimator: Estimators = estimator
        self.counts_claims = any(term.needs_claims for term in self.terms.values())
        self.reads = ("prompts", "responses")
        if self.counts_claims:
            self.reads += ("claims", "judgements")
        if any(term.needs_scores for term in self.terms.values()):
            self.reads += ("scores",)

    def producer(self) -> dict[str, str]:
        return {"reward": f"{self.estimator} {self.terms!r}"}

    def __call__(self, task: Task, *tables: Sequence[Any]) -> Made:
        of: Mapping[str, Sequence[Any]] = dict(zip(self.reads, tables, strict=True))
        verdicts = distinct_verdicts(of["claims"], of["judgements"]) if self.counts_claims else {}
        drops: Counter[str] = Counter()
        answers = self._answers(of["prompts"], of["responses"], verdicts, of.get("scores", ()), drops)
        rollouts = self._rewarded(answers)
        if self.estimator != "gae":
            rollouts = compared(rollouts, self.estimator, drops)
        elif len({rollout.reward for rollout in rollouts}) < 2:
            raise ValueError(
                f"The reward is the same for all {len(rollouts)} answers, so there is nothing to learn from it."
            )
        # Responses that were not divided have no claims either, and are counted already.
        drops["no_claims"] -= task.drops.get("not_divided", 0)
        return Made(rollouts, +drops)

    def _answers(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[Response],
        verdicts: Mapping[str, Counter[str]],
        scores: Sequence[AnswerScore],
        drops: Counter[str],
    ) -> list[Answer]:
        """Return the answers that can be rewarded, in order, and count the others."""
        by_id = {prompt.id: prompt for prompt in prompts}
        scored = by_response(scores)
        answers = []
        for response in responses:
            found = verdicts.get(response.id, Counter())
            if not response.text.strip():
                drops["empty_response"] += 1
            elif self.counts_claims and not found:
                drops["no_claims"] += 1
            elif found["unknown"]:
                drops["unknown"] += 1
            else:
                answers.append(Answer(by_id[response.prompt_id], response, found, scored.get(response.id, {})))
        return answers

    def _rewarded(self, answers: Sequence[Answer]) -> list[Rollout]:
        """Return rollouts without advantages, those of a prompt together.

        Raises:
            ValueError: a term is not finite.
        """
        if not answers:
            return []
        found = {name: term(answers) for name, term in self.terms.items()}
        groups: dict[str, list[Rollout]] = {}
        for k, answer in enumerate(answers):
            response, size = answer.response, len(answer.response.token_ids)
            rewards, terms = [0.0] * size, []
            for name, of_answers in found.items():
                for place, value in of_answers[k]:
                    rewards[place] += value
                terms.append(sum(value for _, value in of_answers[k]))
                if not isfinite(terms[-1]):
                    raise ValueError(f"The term {name!r} of the reward is {terms[-1]} for answer {response.id!r}.")
            rollout = Rollout(
                id=response.id,
                prompt_id=response.prompt_id,
                token_ids=response.token_ids,
                finished=response.finished,
                num_accepted=answer.verdicts["accepted"],
                num_rejected=answer.verdicts["rejected"],
                reward=sum(terms),
                advantage=0.0,
                term_names=tuple(found),
                terms=tuple(terms),
                rewards=tuple(rewards) if self.estimator == "gae" else (),
            )
            groups.setdefault(response.prompt_id, []).append(rollout)
        return [rollout for group in groups.values() for rollout in group]


def compared(rollouts: Sequence[Rollout], estimator: Estimator, drops: Counter[str]) -> list[Rollout]:
    """Return rollouts with advantages over the other answers to their prompt; those without any are counted in `drops`."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.prompt_id, []).append(rollout)
    found = []
    for group in groups.values():
        rewards = [rollout.reward for rollout in group]
        if len(group) < 2:
            drops["alone"] += 1
        elif max(rewards) - min(rewards) < EPSILON:
            drops["no_spread"] += len(group)
        else:
            advantages = group_advantages(rewards, estimator)
            found += [replace(one, advantage=value) for one, value in zip(group, advantages, strict=True)]
    if estimator == "reinforce++":
        whitened = whiten([rollout.advantage for rollout in found])
        found = [replace(one, advantage=value) for one, value in zip(found, whitened, strict=True)]
    return found


def distinct_verdicts(claims: Iterable[Claim], judgements: Iterable[Judgement]) -> dict[str, Counter[str]]:
    """Count the distinct claims of each response by verdict; one that an answer repeats counts once."""
    verdicts: dict[str, dict[str, str]] = {}
    questions = {claim.id: claim.question for claim in claims}
    for judgement in judgements:
        verdicts.setdefault(judgement.response_id, {})[questions[judgement.claim_id]] = judgement.verdict
    return {name: Counter(found.values()) for name, found in verdicts.items()}


def rollout_statistics(
    responses: Sequence[Response], judgements: Sequence[Judgement], rollouts: Sequence[Rollout], drops: Counter[str]
) -> dict[str, float]:
    """Return the figures of an iteration's rewards, by name; every weighted term of the reward is there alone."""
    num = max(len(rollouts), 1)
    mean = sum(one.reward for one in rollouts) / num
    names = rollouts[0].term_names if rollouts else ()
    return {
        **(verdict_statistics(len(responses), judgements) if judgements else {"responses": float(len(responses))}),
        "rollouts_kept": float(len(rollouts)),
        "reward/mean": mean,
        "reward/std": (sum((one.reward - mean) ** 2 for one in rollouts) / num) ** 0.5,
        **{f"reward/{name}": sum(one.terms[k] for one in rollouts) / num for k, name in enumerate(names)},
        "length/answer_tokens": sum(one.answer_tokens for one in rollouts) / num,
        **{f"dropped/{reason}": float(drops[reason]) for reason in dict.fromkeys((*RESPONSE_REASONS, *drops))},
    }
