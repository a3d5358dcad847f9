"""Prompts in, responses out: several answers per prompt from one policy under one decoding, with different seeds.

Chosen and rejected then share style and wording and differ mainly in what they claim ("deconfounded", RLAIF-V section 3.1).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from rlaifv.engines.protocol import Advance, Sampler, ignore_progress
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt, Response
from rlaifv.runtime.seeds import derive_seed

# Ends the id of a response that another model than the policy gave.
OTHER_MARK = "-other"


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
    """The policy's responses and another model's, prompt by prompt; the latter as the tokens that the policy has for them.

    Their ids end with `OTHER_MARK`.
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
