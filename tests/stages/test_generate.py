"""Responses from a fake policy whose answers say what they were drawn from."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.models.sampling import Decoding, Sampled
from rlaifv.records import Prompt, Response
from rlaifv.stages.generate import generate

DECODING = Decoding(temperature=0.7, top_k=50, max_new_tokens=9)


class EchoPolicy:
    """Answers (prompt's number, seed modulo 1000); every third answer is cut off."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], Decoding]] = []
        self.seeds: list[int] = []

    def sample(self, prompts: Any, seeds: Any, decoding: Decoding, advance: Advance = ignore_progress) -> Any:
        self.calls.append(([prompt.id for prompt in prompts], decoding))
        self.seeds += [seed for some in seeds for seed in some]
        advance(len(prompts))
        return [
            [Sampled((int(prompt.id[1:]), seed % 1000), k % 3 < 2) for k, seed in enumerate(some)]
            for prompt, some in zip(prompts, seeds, strict=True)
        ]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "-".join(map(str, token_ids))


def make_prompts(*numbers: int) -> list[Prompt]:
    return [Prompt(f"p{k}", "What?", ()) for k in numbers]


def test_each_prompt_gets_its_answers_in_order() -> None:
    policy = EchoPolicy()
    responses = generate(make_prompts(7, 8), policy, DECODING, 4, seed=1)
    assert [response.id for response in responses] == [f"p{k}/{n}" for k in (7, 8) for n in range(4)]
    assert [response.prompt_id for response in responses] == ["p7"] * 4 + ["p8"] * 4
    assert [response.finished for response in responses] == [True, True, False, True] * 2
    for response, seed in zip(responses, policy.seeds, strict=True):
        number = int(response.prompt_id[1:])
        expected = Response(
            response.id, f"p{number}", f"{number}-{seed % 1000}", (number, seed % 1000), response.finished, seed
        )
        assert response == expected
    assert len(set(policy.seeds)) == 8
    assert all(0 <= seed < 2**63 for seed in policy.seeds)  # an int64 column holds them


def test_one_policy_and_one_decoding_for_all_answers() -> None:
    """What makes chosen and rejected differ in what they claim alone: nothing else differs but the seed."""
    policy = EchoPolicy()
    generate(make_prompts(1, 2, 3), policy, DECODING, 5, seed=0)
    assert policy.calls == [(["p1", "p2", "p3"], DECODING)]


@given(st.permutations(range(6)), st.integers(1, 5), st.integers(0, 5))
def test_an_answer_depends_on_prompt_seed_and_number_alone(order: list[int], cut: int, seed: int) -> None:
    """Order, sharding, and how many answers are asked for do not matter: a shard made again is the same."""
    at_once = {r.id: r for r in generate(make_prompts(*range(6)), EchoPolicy(), DECODING, 3, seed)}
    shards = [order[:cut], order[cut:]]
    apart = {r.id: r for some in shards for r in generate(make_prompts(*some), EchoPolicy(), DECODING, 2, seed)}
    assert apart == {name: response for name, response in at_once.items() if not name.endswith("/2")}


def test_another_seed_gives_other_answers() -> None:
    one, other = (generate(make_prompts(1), EchoPolicy(), DECODING, 8, seed) for seed in (0, 1))
    assert not {response.seed for response in one} & {response.seed for response in other}


def test_progress_counts_prompts() -> None:
    finished: list[int] = []
    generate(make_prompts(1, 2, 3), EchoPolicy(), DECODING, 2, 0, finished.append)
    assert sum(finished) == 3
