"""Answers in, comparisons out: what reward models learn from.

A criterion is a name and a way to tell which of two answers is better: by counts of judged claims (`CompareByClaims`), by a
question to the labeler (`CompareByLabeler`), or by a preference that is there already (`CompareGiven`).
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from math import log

from rlaifv.engines.local import LocalEngine
from rlaifv.models.reward_head import RewardSpec
from rlaifv.records import Claim, Comparison, Judgement, Pair, Prompt, Response
from rlaifv.runtime.seeds import derive_seed
from rlaifv.stages.reference import encode_pair
from rlaifv.stages.reward import distinct_verdicts
from rlaifv.stages.score import ClaimLabeler, ask
from rlaifv.stages.stage import Made, Stage, Task

# Nothing is known: the criterion finds both answers equally good, or the labeler's answer says nothing.
UNKNOWN = -1.0
TIE = 1e-6


def is_held_out(prompt_id: str, share: float) -> bool:
    """Whether a prompt's records measure a reward model instead of training it: the same prompts in every run."""
    return random.Random(f"held out {prompt_id}").random() < share


@dataclass(frozen=True, slots=True)
class Weights:
    """A criterion on counts: an answer's value is the weighted sum of its distinct claims by verdict, and of its words.

    Attributes:
        accepted: of each accepted claim.
        rejected: of each rejected claim.
        words: of each word.

    Raises:
        ValueError: all weights are 0.
    """

    accepted: float = 0.0
    rejected: float = 0.0
    words: float = 0.0

    def __post_init__(self) -> None:
        if not any(getattr(self, field.name) for field in fields(self)):
            raise ValueError("All weights of a criterion are 0, so no answer would be better than another.")

    def value(self, verdicts: Mapping[str, int], num_words: int) -> float:
        """Return the value of an answer.

        >>> Weights(rejected=-1.0, words=0.5).value({"accepted": 3, "rejected": 1}, 4)
        1.0
        """
        return (
            self.accepted * verdicts.get("accepted", 0)
            + self.rejected * verdicts.get("rejected", 0)
            + self.words * num_words
        )


class _Compare(Stage):
    """What stages share that compare sampled answers: which answers, and how comparisons are stored."""

    name = "compare"
    writes = "comparisons"

    def __init__(
        self, policy: LocalEngine, spec: RewardSpec, criteria: Sequence[str], per_prompt: int, held_out: float
    ) -> None:
        if list(criteria) != list(spec.heads):
            raise ValueError(
                f"The reward model's heads are {', '.join(spec.heads)}, but answers are compared by {', '.join(criteria)}; "
                "name the same ones in the same order."
            )
        self.policy, self.spec, self.per_prompt, self.held_out = policy, spec, per_prompt, held_out

    def pairs(self, prompt: Prompt, responses: Sequence[Response], seed: int) -> list[tuple[Response, Response]]:
        """Return pairs of different answers in a random order, at most `per_prompt`, or all if it is 0."""
        different = list({response.text.strip(): response for response in responses}.values())
        pairs = list(combinations(different, 2))
        rng = random.Random(derive_seed(seed, prompt.id))
        rng.shuffle(pairs)
        pairs = [pair if rng.random() < 0.5 else pair[::-1] for pair in pairs]
        return pairs[: self.per_prompt or None]

    def comparison(
        self, prompt: Prompt, pair: tuple[Response, Response], preferences: Sequence[float], margins: Sequence[float]
    ) -> Comparison:
        first, second = pair
        return Comparison(
            f"{first.id}>{second.id}",
            prompt.id,
            first.token_ids,
            second.token_ids,
            tuple(preferences),
            tuple(margins),
            is_held_out(prompt.id, self.held_out),
            self.policy.num_tokens(self.spec.asked(prompt)),
        )


class CompareByClaims(_Compare):
    """Compare answers by the verdicts on their claims, and by their lengths.

    Dropped and counted: answers that are empty, cut, without claims or with unknown verdicts; pairs that tie by all criteria.

    Args:
        policy: encodes prompts.
        spec: of the reward model; its heads are the criteria.
        criteria: weights of each criterion, by name.
        per_prompt: comparisons of a prompt; 0 takes all pairs of its answers.
        held_out: share of prompts whose comparisons measure the reward model.
        long_share: share of comparisons in which the longer answer counts as the better one whatever it claims: a judge that
            errs toward long answers. Held-out comparisons are free of it, and so measure what was wanted.
    """

    reads = ("prompts", "responses", "claims", "judgements")

    def __init__(
        self,
        policy: LocalEngine,
        spec: RewardSpec,
        criteria: Mapping[str, Weights | None],
        per_prompt: int = 8,
        held_out: float = 0.1,
        long_share: float = 0.0,
    ) -> None:
        self.criteria = {
            name: weights for name, weights in criteria.items() if weights is not None
        }  # null leaves one out
        super().__init__(policy, spec, list(self.criteria), per_prompt, held_out)
        if not 0 <= long_share <= 1:
            raise ValueError(f"long_share must be between 0 and 1, but it is {long_share}.")
        self.long_share = long_share

    def producer(self) -> dict[str, str]:
        return {"compare": f"{self.criteria!r} {self.spec!r} {self.per_prompt} {self.held_out} {self.long_share}"}

    def __call__(
        self,
        task: Task,
        prompts: Sequence[Prompt],
        responses: Sequence[Response],
        claims: Sequence[Claim],
        judgements: Sequence[Judgement],
    ) -> Made:
        found = distinct_verdicts(claims, judgements)
        groups, drops = _usable(responses, found)
        comparisons = []
        for prompt in prompts:
            for pair in self.pairs(prompt, groups.get(prompt.id, []), task.seed):
                words = [len(one.text.split()) for one in pair]
                values = [
                    [of.value(found[one.id], num) for one, num in zip(pair, words, strict=True)]
                    for of in self.criteria.values()
                ]
                ahead = [first - second for first, second in values]
                if self._errs(prompt, pair, task.seed):
                    ahead = [float(words[0] - words[1])] * len(ahead)
                if all(abs(value) < TIE for value in ahead):
                    drops["tie"] += 1
                    continue
                preferences = [UNKNOWN if abs(value) < TIE else float(value > 0) for value in ahead]
                comparisons.append(self.comparison(prompt, pair, preferences, [abs(value) for value in ahead]))
        task.advance(len(prompts))
        return Made(comparisons, drops)

    def _errs(self, prompt: Prompt, pair: tuple[Response, Response], seed: int) -> bool:
        rng = random.Random(derive_seed(seed, "long", pair[0].id, pair[1].id))
        return not is_held_out(prompt.id, self.held_out) and rng.random() < self.long_share


class CompareByLabeler(_Compare):
    """Ask the labeler which of two answers is better, once for each criterion and once in each order (MORLAIF).

    The question is a yes/no question, so that every labeler can answer it. The preference is the mean over both orders, which
    cancels a liking for the first answer; the margin is the log of its odds.

    Args:
        policy: encodes prompts.
        spec: of the reward model; its heads are the criteria.
        labeler: is asked.
        criteria: what the better answer is, by name, as in "says only what the image shows".
        question: its form, with {first}, {second}, {question} and {criterion} in it.
        per_prompt: comparisons of a prompt; 0 takes all pairs of its answers.
        held_out: share of prompts whose comparisons measure the reward model.
        is_soft: whether preferences are probabilities; if not, the likelier side counts as 1.
    """

    reads = ("prompts", "responses")

    def __init__(
        self,
        policy: LocalEngine,
        spec: RewardSpec,
        labeler: ClaimLabeler,
        criteria: Mapping[str, str],
        question: str,
        per_prompt: int = 1,
        held_out: float = 0.1,
        is_soft: bool = False,
    ) -> None:
        super().__init__(policy, spec, list(criteria), per_prompt, held_out)
        if lacking := [name for name in ("first", "second", "criterion") if f"{{{name}}}" not in question]:
            raise ValueError(f"The form of the comparing question lacks {{{lacking[0]}}}: {question!r}.")
        self.labeler, self.criteria, self.question, self.is_soft = labeler, criteria, question, is_soft

    def producer(self) -> dict[str, str]:
        rest = f"{self.spec!r} {self.per_prompt} {self.held_out} {self.is_soft}"
        return {"compare": f"{self.criteria!r} {self.question!r} {rest}"}

    def __call__(self, task: Task, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Made:
        groups, drops = _usable(responses, None)
        pairs = [self.pairs(prompt, groups.get(prompt.id, []), task.seed) for prompt in prompts]
        asked = [
            (
                prompt,
                [
                    self._asked(prompt, text, order)
                    for pair in some
                    for text in self.criteria.values()
                    for order in _both(pair)
                ],
            )
            for prompt, some in zip(prompts, pairs, strict=True)
        ]
        wanted = [one for one in asked if one[1]]
        answers = iter(ask(self.labeler.engine, wanted, self.labeler.wording, task.advance))
        task.advance(len(asked) - len(wanted))
        comparisons = []
        for prompt, some in zip(prompts, pairs, strict=True):
            answered = iter(next(answers) if some else [])
            for pair in some:
                ps = [_preference(next(answered), next(answered)) for _ in self.criteria]
                if all(p == UNKNOWN for p in ps):
                    drops["unknown"] += 1
                    continue
                margins = [0.0 if p == UNKNOWN else abs(_log_odds(p)) for p in ps]
                preferences = [p if p == UNKNOWN or self.is_soft else float(p > 0.5) for p in ps]
                comparisons.append(self.comparison(prompt, pair, preferences, margins))
        return Made(comparisons, drops)

    def _asked(self, prompt: Prompt, criterion: str, pair: tuple[Response, Response]) -> str:
        texts = {"criterion": criterion, "question": prompt.question}
        texts |= {"first": pair[0].text.strip(), "second": pair[1].text.strip()}
        # All at once: what is put in may hold braces.
        return re.sub(r"\{(first|second|question|criterion)\}", lambda found: texts[found[1]], self.question)


class CompareGiven(Stage):
    """Take preferences that are there already, of data or of `BuildPairs`; the chosen answer comes first.

    Dropped and counted as in `rlaifv.stages.reference.encode_pair`.

    Args:
        policy: encodes prompts and answers.
        spec: of the reward model, which has one head.
        held_out: share of prompts whose comparisons measure the reward model.
    """

    name = "compare"
    reads = ("prompts", "preferences")
    writes = "comparisons"
    unit = "preferences"

    def __init__(self, policy: LocalEngine, spec: RewardSpec, held_out: float = 0.1) -> None:
        if len(spec.heads) != 1:
            raise ValueError(
                f"Given preferences are of one criterion, but the reward model has {len(spec.heads)} heads."
            )
        self.policy, self.spec, self.held_out = policy, spec, held_out

    def producer(self) -> dict[str, str]:
        return {"compare": f"{self.spec!r} {self.held_out}"}

    def __call__(self, task: Task, prompts: Sequence[Prompt], preferences: Sequence[Pair]) -> Made:
        by_id = {prompt.id: self.spec.asked(prompt) for prompt in prompts}
        drops: Counter[str] = Counter()
        comparisons = []
        for preference in preferences:
            prompt = by_id[preference.prompt_id]
            pair, reason = encode_pair(self.policy, prompt, preference)
            if reason:
                drops[reason] += 1
                continue
            comparisons.append(
                Comparison(
                    pair.id,
                    pair.prompt_id,
                    pair.chosen_token_ids,
                    pair.rejected_token_ids,
                    (1.0,),
                    (pair.chosen_score - pair.rejected_score,),
                    is_held_out(pair.prompt_id, self.held_out),
                    self.policy.num_tokens(prompt),
                )
            )
        task.advance(len(preferences))
        return Made(comparisons, drops)


def _usable(
    responses: Sequence[Response], verdicts: Mapping[str, Counter[str]] | None
) -> tuple[dict[str, list[Response]], Counter[str]]:
    """Return the answers of each prompt that can be compared, and the others by reason."""
    drops: Counter[str] = Counter()
    groups: dict[str, list[Response]] = {}
    for response in responses:
        reason = ""
        if not response.text.strip():
            reason = "empty_response"
        elif not response.finished:
            reason = "truncated"
        elif verdicts is not None:
            found = verdicts.get(response.id)
            reason = "no_claims" if not found else "unknown" if found["unknown"] else ""
        if reason:
            drops[reason] += 1
        else:
            groups.setdefault(response.prompt_id, []).append(response)
    return groups, drops


def _both(pair: tuple[Response, Response]) -> tuple[tuple[Response, Response], tuple[Response, Response]]:
    return pair, (pair[1], pair[0])


def _preference(asked: tuple[float, float], turned: tuple[float, float]) -> float:
    """Return the probability that the first answer is better, from (p_yes, p_no) in both orders; `UNKNOWN` if nothing is said.

    >>> round(_preference((0.8, 0.2), (0.4, 0.6)), 6), _preference((0.0, 0.0), (0.4, 0.6))
    (0.7, -1.0)
    """
    shares = [yes / (yes + no) if 0 < yes + no < float("inf") else None for yes, no in (asked, turned)]
    if shares[0] is None or shares[1] is None:
        return UNKNOWN
    found = (shares[0] + 1 - shares[1]) / 2
    return UNKNOWN if abs(found - 0.5) < TIE else found


def _log_odds(p: float) -> float:
    inside = min(max(p, 1e-6), 1 - 1e-6)
    return log(inside / (1 - inside))
