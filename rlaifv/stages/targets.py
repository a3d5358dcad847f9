"""Answers to learn by supervised fine-tuning: what people wrote, or what the policy says itself and the labeler accepts."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rlaifv.data.sources import PromptSource
from rlaifv.engines.local import LocalEngine
from rlaifv.records import Claim, Judgement, Prompt, Response, Route, Target
from rlaifv.stages.answer_scores import Score, check_score, score_groups, verdicts_of
from rlaifv.stages.given_pairs import PairSource
from rlaifv.stages.reference import encode_answer
from rlaifv.stages.stage import Made, Stage, Task

PERSON, POLICY = "person", "policy"


class _Targets(Stage):
    """What stages share that make targets."""

    name = "targets"
    writes = "targets"

    def __init__(self, policy: LocalEngine, source: PromptSource) -> None:
        self.policy, self.source = policy, source

    def written(self, prompt: Prompt, drops: Counter[str]) -> Iterator[Target]:
        """Yield what people answered: the prompt's demonstration, or the chosen answers of its pairs.

        Dropped and counted: `no_demonstration`, and answers that the model cannot take, `too_long` and `no_history`.
        """
        texts = [prompt.demonstration] if prompt.demonstration else []
        if not texts and isinstance(self.source, PairSource):
            texts = [row.chosen or "" for row in self.source.answers(prompt)]
        texts = [text for text in dict.fromkeys(map(str.strip, texts)) if text]
        drops["no_demonstration"] += not texts
        for k, text in enumerate(texts):
            ids, reason = encode_answer(self.policy, prompt, text)
            if reason:
                drops[reason] += 1
            else:
                yield self.target(f"{prompt.id}/person-{k}", prompt, ids, PERSON)

    def target(self, name: str, prompt: Prompt, ids: tuple[int, ...], source: str) -> Target:
        """Return a target."""
        return Target(name, prompt.id, ids, source, self.policy.num_tokens(prompt))


class GivenTargets(_Targets):
    """Take what people answered to the prompts, see `_Targets.written`."""

    reads = ("prompts",)

    def __call__(self, task: Task, prompts: Sequence[Prompt]) -> Made:
        drops: Counter[str] = Counter()
        targets = [target for prompt in prompts for target in self.written(prompt, drops)]
        task.advance(len(prompts))
        return Made(targets, +drops)


class ChooseTargets(_Targets):
    """Take the policy's own best answers: rejection-sampling fine-tuning by the labeler's verdicts.

    An answer is taken if it ended, has accepted claims and no unknown verdict, and at most a share of `max_rejected` of its
    claims is rejected. Dropped and counted otherwise: prompts without one, as `no_good_answer`.

    Args:
        policy: gave the answers, and encodes prompts.
        source: of the prompts.
        per_prompt: most targets of a prompt, the best by `score`; of equal ones the first.
        score: see `rlaifv.stages.answer_scores`.
        score_weight: what the score weighs with.
        max_rejected: largest share of rejected claims.

    Raises:
        ValueError: an unknown score, fewer than one target, or a share outside of 0 to 1.
    """

    reads: tuple[str, ...] = ("prompts", "responses", "claims", "judgements")

    def __init__(
        self,
        policy: LocalEngine,
        source: PromptSource,
        per_prompt: int = 1,
        score: Score = "net",
        score_weight: float = 1.0,
        max_rejected: float = 0.0,
    ) -> None:
        super().__init__(policy, source)
        check_score(score, score_weight)
        if per_prompt < 1:
            raise ValueError(f"per_prompt must be at least 1, but it is {per_prompt}.")
        if not 0 <= max_rejected <= 1:
            raise ValueError(f"max_rejected must be between 0 and 1, but it is {max_rejected}.")
        self.per_prompt, self.max_rejected = per_prompt, max_rejected
        self.score: Score = score
        self.score_weight = score_weight

    def producer(self) -> dict[str, str]:
        return {"targets": f"{self.per_prompt} {self.score} {self.score_weight} {self.max_rejected}"}

    def __call__(
        self,
        task: Task,
        prompts: Sequence[Prompt],
        responses: Sequence[Response],
        claims: Sequence[Claim],
        judgements: Sequence[Judgement],
        routes: Sequence[Route] = (),
    ) -> Made:
        """Return targets; prompts without a route get the policy's own."""
        kinds = {route.prompt_id: route.kind for route in routes}
        best = self.best(responses, claims, judgements)
        drops: Counter[str] = Counter()
        targets: list[Target] = []
        for prompt in prompts:
            kind = kinds.get(prompt.id, "fact")
            if kind == "fact":
                targets += self.own(prompt, best, drops)
            elif kind == "other":
                targets += self.written(prompt, drops)
        task.advance(len(prompts))
        return Made(targets, +drops)

    def own(self, prompt: Prompt, best: dict[str, list[Response]], drops: Counter[str]) -> Iterator[Target]:
        """Yield the policy's own targets of a prompt."""
        found = best.get(prompt.id, [])
        drops["no_good_answer"] += not found
        for response in found:
            yield self.target(f"{response.id}/policy", prompt, response.token_ids, POLICY)

    def best(
        self, responses: Sequence[Response], claims: Sequence[Claim], judgements: Sequence[Judgement]
    ) -> dict[str, list[Response]]:
        """Return the best answers to each prompt, those of equal text once."""
        groups = verdicts_of(responses, judgements, claims)
        scores = score_groups(groups, self.score, self.score_weight)
        unknown = {one.response_id for one in judgements if one.verdict == "unknown"}
        verdicts = {key: one for group in groups.values() for key, one in group.items()}
        good: dict[str, dict[str, Response]] = {}
        for response in responses:
            found = verdicts.get(response.id)
            if not response.finished or found is None or response.id in unknown or not found.accepted:
                continue
            if found.num_rejected <= self.max_rejected * found.num_known:
                good.setdefault(response.prompt_id, {}).setdefault(response.text.strip(), response)
        return {
            prompt_id: sorted(group.values(), key=lambda one: -scores[one.id])[: self.per_prompt]
            for prompt_id, group in good.items()
        }


class RoutedTargets(ChooseTargets):
    """FLAME's targets: the policy's own best answers to prompts that ask for facts, people's answers to the others.

    Arguments as of `ChooseTargets`. Prompts of unknown kind have no target; they are counted where they are routed.
    """

    reads = ("prompts", "responses", "claims", "judgements", "routes")

    def producer(self) -> dict[str, str]:
        return {"targets": f"routed {super().producer()['targets']}"}
