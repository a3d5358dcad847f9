"""Preferences of several aims: a set of pairs for each reward, mixed (FLAME, arXiv 2405.01525, section 3.3)."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlaifv.records import AnswerScore, Claim, Judgement, Pair, Prompt, Response, Route
from rlaifv.runtime.seeds import derive_seed
from rlaifv.stages.pair import usable_responses
from rlaifv.stages.reward import distinct_verdicts
from rlaifv.stages.stage import ITERATION, Made, Stage, Task
from rlaifv.stages.terms import Answer, Term, by_response


@dataclass(frozen=True)
class PairSet:
    """Pairs of each prompt's answers with the highest and the lowest reward.

    Attributes:
        reward: terms by name, whose sum is an answer's reward; null leaves one out.
        kinds: of prompts that it is for; empty: all.
        min_gap: least difference of the two rewards; 0 drops ties alone.
        max_gaps: of other sets' rewards, by name: pairs whose answers differ by more are dropped (FLAME drops pairs of facts
            whose helpfulness differs by more than 0.5).
        not_worse: other sets: pairs whose chosen answer has a lower reward there are dropped.
        weight: of the set in the mixture: the pairs of the sets are in the proportion of their weights.
    """

    reward: Mapping[str, Term | None]
    kinds: Sequence[str] = ()
    min_gap: float = 0.0
    max_gaps: Mapping[str, float] = field(default_factory=dict)
    not_worse: Sequence[str] = ()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("A set of pairs needs a reward of one term or more.")
        if not (self.weight > 0 and self.min_gap >= 0):
            raise ValueError("The weight of a set of pairs must be above 0, and min_gap 0 or more.")

    @property
    def terms(self) -> list[Term]:
        """The terms of the reward."""
        return [term for term in self.reward.values() if term is not None]

    def rewards(self, answers: Sequence[Answer]) -> list[float]:
        """Return the reward of each answer."""
        values = [term(answers) for term in self.terms]
        return [sum(value for placed in of_answer for _, value in placed) for of_answer in zip(*values, strict=True)]


class BuildPairSets(Stage):
    """Build each set's pairs and mix them.

    Dropped and counted: answers that are empty, cut, without claims or with unknown verdicts; of each set, prompts whose
    answers tie (`NAME/tie`), pairs against `max_gaps` (`NAME/gap`) and `not_worse` (`NAME/worse`), and pairs that the
    proportions leave over (`NAME/mixed_out`).

    Args:
        sets: by name.

    Raises:
        ValueError: fewer than one set, or a set that refers to an unknown one.
    """

    name = "pair"
    writes = "preferences"
    unit = ITERATION
    is_stored = False

    def __init__(self, sets: Mapping[str, PairSet | None]) -> None:
        self.sets = {name: one for name, one in sets.items() if one is not None}  # null leaves one out
        if not self.sets:
            raise ValueError("There is no set of pairs to build.")
        for name, one in self.sets.items():
            if unknown := sorted({*one.max_gaps, *one.not_worse} - {*self.sets}):
                raise ValueError(
                    f"The set of pairs {name!r} refers to {unknown[0]!r}; there are {', '.join(self.sets)}."
                )
        needs_scores = any(term.needs_scores for one in self.sets.values() for term in one.terms)
        scores = ("scores",) if needs_scores else ()
        self.reads = ("prompts", "routes", "responses", "claims", "judgements", *scores)

    def producer(self) -> dict[str, str]:
        return {"pairing": repr(self.sets)}

    def __call__(
        self,
        task: Task,
        prompts: Sequence[Prompt],
        routes: Sequence[Route],
        responses: Sequence[Response],
        claims: Sequence[Claim],
        judgements: Sequence[Judgement],
        scores: Sequence[AnswerScore] = (),
    ) -> Made:
        drops: Counter[str] = Counter()
        verdicts, scored, by_id = (
            distinct_verdicts(claims, judgements),
            by_response(scores),
            {one.id: one for one in prompts},
        )
        usable = usable_responses(responses, judgements, verdicts, drops)
        answers = [
            Answer(by_id[prompt_id], one, verdicts[one.id], scored.get(one.id, {}))
            for prompt_id, group in usable.items()
            for one in group
        ]
        # Responses that were not divided have no claims either, and are counted already.
        drops["no_claims"] -= task.drops.get("not_divided", 0)
        rewards = {name: one.rewards(answers) for name, one in self.sets.items()}
        groups: dict[str, list[int]] = {}
        for k, answer in enumerate(answers):
            groups.setdefault(answer.prompt.id, []).append(k)
        kinds = {route.prompt_id: route.kind for route in routes}
        found = {
            name: [
                pair
                for prompt_id, group in groups.items()
                if not one.kinds or kinds[prompt_id] in one.kinds
                for pair in self._pairs(name, group, answers, rewards, drops)
            ]
            for name, one in self.sets.items()
        }
        return Made(self._mixed(found, task.seed, drops), +drops)

    def _pairs(
        self,
        name: str,
        group: Sequence[int],
        answers: Sequence[Answer],
        rewards: Mapping[str, Sequence[float]],
        drops: Counter[str],
    ) -> list[Pair]:
        """Return the pair of a prompt, if there is one."""
        own, rules = rewards[name], self.sets[name]
        best, worst = max(group, key=lambda k: own[k]), min(group, key=lambda k: own[k])
        ahead = {other: values[best] - values[worst] for other, values in rewards.items()}
        reason = ""
        if ahead[name] <= rules.min_gap or answers[best].response.text.strip() == answers[worst].response.text.strip():
            reason = "tie"
        elif any(abs(ahead[other]) > gap for other, gap in rules.max_gaps.items()):
            reason = "gap"
        elif any(ahead[other] < 0 for other in rules.not_worse):
            reason = "worse"
        if reason:
            drops[f"{name}/{reason}"] += 1
            return []
        chosen, rejected = answers[best].response, answers[worst].response
        return [
            Pair(
                f"{name}:{chosen.id}>{rejected.id}",
                chosen.prompt_id,
                chosen.id,
                rejected.id,
                chosen.text,
                rejected.text,
                chosen.token_ids,
                rejected.token_ids,
                own[best],
                own[worst],
            )
        ]

    def _mixed(self, found: Mapping[str, Sequence[Pair]], seed: int, drops: Counter[str]) -> list[Pair]:
        """Return pairs of all sets in the proportion of their weights, prompts in order; an empty set counts for nothing."""
        full = {name: pairs for name, pairs in found.items() if pairs}
        unit = min((len(pairs) / self.sets[name].weight for name, pairs in full.items()), default=0.0)
        kept = []
        for name, pairs in full.items():
            size = max(1, round(unit * self.sets[name].weight))
            drops[f"{name}/mixed_out"] += len(pairs) - size
            chosen = random.Random(derive_seed(seed, name)).sample(range(len(pairs)), size)
            kept += [pairs[k] for k in sorted(chosen)]
        return sorted(kept, key=lambda pair: pair.prompt_id)
