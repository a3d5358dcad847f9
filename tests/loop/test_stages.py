"""The stages of the loop, one after the other, with a policy and a labeler that are functions of their inputs."""

from collections.abc import Sequence

import pytest

from rlaifv.models.prompting import Sizes
from rlaifv.records import Prompt
from rlaifv.store.manifest import Manifest, TooFewPairs
from tests.loop.world import SETTINGS, FakeSource, World


def test_stages_come_one_after_the_other(world: World) -> None:
    """The policy is measured, then samples all shards; the labeler is not asked before all answers are there."""
    manifest = world.loop().prepare(0)
    assert manifest.committed
    assert manifest.stages == {"prompts": 1, "responses": 3, "claims": 3, "judgements": 3, "pairs": 2}
    shards = ["0-0 0-1", "0-2 0-3", "0-4 0-5"]
    assert world.events[:3] == ["answer h-0 h-1", "label h-0 h-1", "label h-0 h-1"]
    assert world.events[3:9] == [*(f"sample {shard}" for shard in shards), *(f"label {shard}" for shard in shards)]
    assert [event.split()[0] for event in world.events[9:]] == ["reference"] * 2


def test_records_of_all_stages_belong_together(world: World) -> None:
    manifest = world.loop().prepare(0)
    prompts, responses, claims, judgements, pairs = (
        manifest.records(stage) for stage in ("prompts", "responses", "claims", "judgements", "pairs")
    )
    assert [prompt.id for prompt in prompts] == [f"0-{k}" for k in range(6)]
    assert [response.id for response in responses] == [f"0-{k}/{n}" for k in range(6) for n in range(4)]
    assert [judgement.claim_id for judgement in judgements] == [claim.id for claim in claims]
    said = {response.id: response for response in responses}
    for pair in pairs:
        chosen, rejected = said[pair.chosen_response_id], said[pair.rejected_response_id]
        assert (pair.chosen, pair.rejected) == (chosen.text, rejected.text)
        assert chosen.prompt_id == rejected.prompt_id == pair.prompt_id
        assert pair.chosen_score > pair.rejected_score
        assert pair.chosen_reference_logps == tuple(-0.5 * token for token in chosen.token_ids)
        assert pair.rejected_reference_logps == tuple(-0.5 * token for token in rejected.token_ids)
    assert len(pairs) >= SETTINGS.min_pairs


def test_preparing_again_asks_no_model(world: World) -> None:
    loop = world.loop()
    loop.prepare(0)
    content, num_events = world.content(), len(world.events)
    loop.prepare(0)
    world.loop().prepare(0)
    assert world.content() == content
    assert len(world.events) == num_events


def test_lengths_are_checked_before_anything_is_generated(world: World) -> None:
    loop = world.loop()

    def refuse(prompts: Sequence[Prompt], num_new_tokens: int, sizes: Sizes) -> None:
        assert num_new_tokens == SETTINGS.decoding.max_new_tokens
        raise ValueError(f"Prompt {prompts[1].id!r} needs too many tokens.")

    world.policy.check_lengths = refuse
    with pytest.raises(ValueError, match="Prompt '0-1' needs too many tokens"):
        loop.prepare(0)
    assert world.policy.events == []


def test_iterations_are_apart(world: World) -> None:
    """The next iteration has prompts, seeds and a directory of its own, and leaves the one before as it was."""
    world.loop().prepare(0)
    first = world.content()
    world.loop().prepare(1)
    both = world.content()
    assert {name: both[name] for name in first} == first
    assert {name.split("/")[1].removesuffix(".json") for name in both} == {"000", "001"}
    seeds = [{r.seed for r in Manifest(world.run_dir / "iterations" / k).records("responses")} for k in ("000", "001")]
    assert not seeds[0] & seeds[1]


class SamePrompts(FakeSource):
    """Gives every iteration the prompts of the first, as `data.reuse_prompts` may."""

    def prompts(self, iteration: int, num_prompts: int | None) -> list[Prompt]:
        return super().prompts(0, num_prompts)


def test_iterations_draw_different_answers_to_one_prompt(world: World) -> None:
    world.source = SamePrompts()
    for iteration in range(2):
        world.loop().prepare(iteration)
    first, second = (
        {r.id: (r.seed, r.text) for r in Manifest(world.run_dir / "iterations" / k).records("responses")}
        for k in ("000", "001")
    )
    assert first.keys() == second.keys()
    assert not {seed for seed, _ in first.values()} & {seed for seed, _ in second.values()}
    assert [first[name][1] for name in first] != [second[name][1] for name in first]


def test_too_few_pairs_are_refused_with_the_reasons(world: World) -> None:
    """A labeler that accepts everything leaves ties only, and the run stops rather than train on nothing."""
    world.always_yes = True
    with pytest.raises(TooFewPairs, match=r"000 has 0 pairs, fewer than min_pairs=3; dropped: \d+ tie") as raised:
        world.loop().prepare(0)
    assert "truncated" in str(raised.value)
    assert not Manifest(world.run_dir / "iterations/000").committed
    with pytest.raises(TooFewPairs):  # and again when it is asked again
        world.loop().prepare(0)
