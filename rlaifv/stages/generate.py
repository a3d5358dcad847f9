"""Prompts in, responses out: several answers per prompt, from one policy, with one decoding and different seeds.

Chosen and rejected answers then share style and wording and differ mainly in their claims ("deconfounded", RLAIF-V section
3.1).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance, Sampler, ignore_progress
from rlaifv.models.digests import weights_digest
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt, Response
from rlaifv.runtime.seeds import derive_seed
from rlaifv.stages.stage import Made, Stage, Task

# Suffix of the ids of responses that another model than the policy gave.
OTHER_MARK = "-other"


class Generate(Stage):
    """Sample answers from the policy.

    Args:
        policy: engine of the policy.
        num_responses: answers per prompt.
        decoding: the same for all answers.
        chosen_from: engine of another model that gives half of the answers. Only these can then be chosen, see `BuildPairs`.
    """

    name = "generate"
    reads = ("prompts",)
    writes = "responses"

    def __init__(
        self, policy: LocalEngine, num_responses: int, decoding: Decoding, chosen_from: LocalEngine | None = None
    ) -> None:
        self.policy = policy
        self.num_responses = num_responses
        self.decoding = decoding
        self.chosen_from = chosen_from

    def producer(self) -> dict[str, str]:
        engines = {"policy": self.policy, "chosen_from": self.chosen_from}
        digests = {name: weights_digest(one.model, is_cached=True) for name, one in engines.items() if one is not None}
        return {**digests, "decoding": repr(self.decoding), "num_responses": str(self.num_responses)}

    def __call__(self, task: Task, prompts: Sequence[Prompt]) -> Made:
        if self.chosen_from is None:
            return Made(generate(prompts, self.policy, self.decoding, self.num_responses, task.seed, task.advance))
        num_others = self.num_responses // 2
        num_own = self.num_responses - num_others
        own = generate(prompts, self.policy, self.decoding, num_own, task.seed, task.advance)
        others = generate(prompts, self.chosen_from, self.decoding, num_others, derive_seed(task.seed, "other"))
        return Made(in_words_of(self.policy.prompter, prompts, own, others))


def generate(
    prompts: Sequence[Prompt],
    policy: Sampler,
    decoding: Decoding,
    num_responses: int,
    seed: int,
    advance: Advance = ignore_progress,
) -> list[Response]:
    """Sample `num_responses` answers per prompt; answer k of a prompt depends on the prompt, `seed` and k alone."""
    seeds = [[derive_seed(seed, prompt.id, k) for k in range(num_responses)] for prompt in prompts]
    sampled = policy.sample(prompts, seeds, decoding, advance)
    return [
        Response(
            id=f"{prompt.id}/{k}",
            prompt_id=prompt.id,
            text=decoding.cut(policy.decode(answer.token_ids)),
            token_ids=answer.token_ids,
            finished=answer.finished,
            seed=seeds_of_prompt[k],
        )
        for prompt, seeds_of_prompt, answers in zip(prompts, seeds, sampled, strict=True)
        for k, answer in enumerate(answers)
    ]


def in_words_of(
    prompter: Prompter, prompts: Sequence[Prompt], own: Sequence[Response], others: Sequence[Response]
) -> list[Response]:
    """Merge the policy's responses with another model's, prompt by prompt.

    The other model's texts are encoded with the policy's tokenizer, and their ids end with `OTHER_MARK`.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    marked = []
    for one in others:
        text = one.text.strip()
        token_ids = prompter.completion_ids(by_id[one.prompt_id], text)
        token_ids = token_ids if one.finished else token_ids[:-1]  # an answer that was cut has no end
        marked.append(replace(one, id=one.id + OTHER_MARK, token_ids=token_ids, text=text))
    groups = [
        {prompt_id: list(some) for prompt_id, some in groupby(all_, key=lambda one: one.prompt_id)}
        for all_ in (own, marked)
    ]
    return [response for prompt in prompts for group in groups for response in group[prompt.id]]
