"""Prompts in, responses out: several answers per prompt from one policy under one decoding, with different seeds.

Chosen and rejected then share style and wording and differ mainly in what they claim ("deconfounded", RLAIF-V section 3.1).
"""

from collections.abc import Sequence

from rlaifv.engines.protocol import Advance, Sampler, ignore_progress
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt, Response
from rlaifv.runtime import derive_seed


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
