"""Answers in, scores of reward models out."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlaifv.engines.local import LocalEngine
from rlaifv.engines.reward import RewardEngine
from rlaifv.records import AnswerScore, Prompt, Response
from rlaifv.stages.segments import segments_of
from rlaifv.stages.stage import Made, Stage, Task

# What a class of a segment is worth: nothing claimed, supported, hallucinated (FGAIF).
CLASS_VALUES = torch.tensor([0.0, 1.0, -1.0])


class ScoreAnswers(Stage):
    """Let every reward model score every answer that is not empty; all answers to a prompt are one tree.

    Args:
        policy: its tokens are what reward models read.
        reward_models: by name.
        is_soft: whether a segment's value is P(supported) - P(hallucinated); if not, its likeliest class decides.

    Raises:
        ValueError: there are no reward models, or one reads other tokens than the policy writes.
    """

    name = "reward models"
    reads = ("prompts", "responses")
    writes = "scores"

    def __init__(self, policy: LocalEngine, reward_models: Mapping[str, RewardEngine], is_soft: bool = False) -> None:
        if not reward_models:
            raise ValueError("This method needs a reward model: set method.reward_models.score=DIR, the export of one.")
        own = policy.prompter.tokenizer
        for name, model in reward_models.items():
            theirs = model.engine.prompter.tokenizer
            if theirs.get_vocab() != own.get_vocab():
                raise ValueError(
                    f"The reward model {name!r} has another tokenizer than the policy, so it cannot read its answers; train "
                    "one from a model of the policy's family."
                )
        self.policy, self.reward_models, self.is_soft = policy, reward_models, is_soft
        self.models = [module for model in reward_models.values() for module in model.modules]

    def producer(self) -> dict[str, str]:
        digests = {name: model.digest() for name, model in self.reward_models.items()}
        return {"reward_models": f"{digests!r} is_soft={self.is_soft}"}

    def __call__(self, task: Task, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Made:
        groups: dict[str, list[Response]] = {prompt.id: [] for prompt in prompts}
        for response in responses:
            if response.text.strip():
                groups[response.prompt_id].append(response)
        prompts = [prompt for prompt in prompts if groups[prompt.id]]
        task.advance(len(groups) - len(prompts))
        records = []
        for k, (name, model) in enumerate(self.reward_models.items()):
            places = {one.id: self._places(one, model) for some in groups.values() for one in some}
            answered = [(prompt, [(one.token_ids, places[one.id]) for one in groups[prompt.id]]) for prompt in prompts]
            found = model.scores(answered, task.advance if k == 0 else lambda _: None)
            for prompt, of_prompt in zip(prompts, found, strict=True):
                for response, scores in zip(groups[prompt.id], of_prompt, strict=True):
                    values = tuple(self._values(scores).flatten().tolist())
                    ends = tuple(places[response.id])
                    records.append(AnswerScore(response.id, prompt.id, name, model.spec.heads, values, ends))
        return Made(records)

    def _places(self, response: Response, model: RewardEngine) -> list[int]:
        if model.spec.num_classes == 1:
            return [len(response.token_ids) - 1]
        return [end for _, end in segments_of(response.token_ids, self.policy.decode)]

    def _values(self, scores: Tensor) -> Tensor:
        """Return float[places, H] of scores float[places, H], or of classes' logits float[places, H, C]."""
        if scores.dim() == 2:
            return scores
        return scores.softmax(2) @ CLASS_VALUES if self.is_soft else CLASS_VALUES[scores.argmax(2)]


def score_means(scores: Sequence[AnswerScore]) -> dict[str, float]:
    """Return the mean of every score over all answers, or over all segments, under the names of statistics.json."""
    values: dict[str, list[float]] = {}
    for score in scores:
        for k, name in enumerate(score.names):
            values.setdefault(f"score/{score.model}/{name}", []).extend(score.values[k :: len(score.names)])
    return {name: sum(some) / max(len(some), 1) for name, some in values.items()}
