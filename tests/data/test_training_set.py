"""What a data set refuses, and the order in which ranks and epochs read it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.data.training_set import PromptBatchSampler, TrainingSet
from rlaifv.learners.dpo.batch import PreferenceCollator
from rlaifv.records import Pair, Prompt

PROMPT = Prompt("p", "What is this?", ())
PAIR = Pair("a", "p", "p/0", "p/1", "Yes.", "No.", (5, 6), (7,), 0.0, -1.0, (-0.5, -1.0), (-2.0,))


def of_prompts(prompt_ids: Sequence[str]) -> list[Pair]:
    return [replace(PAIR, id=f"{k}", prompt_id=prompt_id) for k, prompt_id in enumerate(prompt_ids)]


def test_an_item_is_a_pair_with_its_prompt() -> None:
    other = Prompt("q", "And that?", ())
    dataset = TrainingSet([PROMPT, other], [replace(PAIR, prompt_id="q"), PAIR])
    assert len(dataset) == 2
    assert dataset[0] == (other, replace(PAIR, prompt_id="q"))
    assert dataset[1] == (PROMPT, PAIR)


def test_a_pair_without_its_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="Pair 'a' belongs to prompt 'p', which the iteration lacks"):
        TrainingSet([], [PAIR])


@pytest.mark.parametrize(
    "fields",
    [
        {"chosen_reference_logps": ()},
        {"rejected_reference_logps": (-2.0, -3.0)},
        {"chosen_reference_logps": (-2.0,), "rejected_reference_logps": (-0.5, -1.0)},
        {"chosen_token_ids": (), "chosen_reference_logps": ()},
    ],
    ids=["none", "one_too_many", "swapped", "empty_answer"],
)
def test_reference_logps_have_to_match_the_tokens(fields: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="Pair 'a' does not hold one reference log-prob for each of its tokens"):
        TrainingSet([PROMPT], [replace(PAIR, **fields)], PreferenceCollator.check_record)  # type: ignore[arg-type]


@given(
    st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30),
    st.integers(1, 7),
    st.integers(0, 2**63 - 1),
)
def test_one_rank_reads_every_pair_once(prompt_ids: list[str], batch_size: int, seed: int) -> None:
    sampler = PromptBatchSampler(of_prompts(prompt_ids), batch_size, seed)
    batches = list(sampler)
    assert len(batches) == len(sampler) == -(-len(prompt_ids) // batch_size)
    read = [index for batch in batches for index in batch]
    assert sorted(read) == list(range(len(prompt_ids)))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    # The pairs of a prompt lie side by side.
    order = [prompt_ids[index] for index in read]
    assert sum(a != b for a, b in pairwise(order)) == len(set(order)) - 1


@given(
    st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=40),
    st.integers(1, 5),
    st.integers(2, 4),
    st.integers(0, 1000),
)
def test_ranks_read_equal_numbers_of_disjoint_batches(
    prompt_ids: list[str], batch_size: int, world_size: int, seed: int
) -> None:
    pairs = of_prompts(prompt_ids)
    whole = PromptBatchSampler(pairs, batch_size, seed)
    if len(whole) < world_size:
        with pytest.raises(ValueError, match=f"cannot be shared out among {world_size} processes"):
            PromptBatchSampler(pairs, batch_size, seed, 0, world_size)
        return
    shares = [list(PromptBatchSampler(pairs, batch_size, seed, rank, world_size)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    read = [index for share in shares for batch in share for index in batch]
    assert len(read) == len(set(read))
    assert sum(map(len, shares)) == len(whole) // world_size * world_size
    # Together they read what one rank would have read, in its order.
    assert [batch for step in zip(*shares, strict=True) for batch in step] == list(whole)[: sum(map(len, shares))]


def test_weights_make_one_mean_of_the_batches_of_a_step() -> None:
    """Five records with 1, 2, 3, 4 and 0 units, in batches of two: 3, 7 and 0 units.

    Of one rank with two batches a step: 2 × 3 / 10, 2 × 7 / 10, and a last step of a batch that knows nothing. Of two ranks,
    the last batch is dropped, and the first two make a step.
    """
    records, units = of_prompts("aaaaa"), (1, 2, 3, 4, 0)
    assert PromptBatchSampler(records, 2, 0).weights(units) == [1.0, 1.0, 0.0]
    assert PromptBatchSampler(records, 2, 0).weights(units, accumulate=2) == [0.6, 1.4, 0.0]
    assert [PromptBatchSampler(records, 2, 0, rank, 2).weights(units) for rank in range(2)] == [[0.6], [1.4]]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), min_size=8), *[st.integers(1, 3)] * 3)
def test_weighted_means_of_batches_are_the_mean_of_a_step(
    made: list[tuple[str, int]], batch_size: int, accumulate: int, world_size: int
) -> None:
    """A batch's loss is the mean of its records' units, which cost as much as the record's number."""
    if len(made) < batch_size * world_size:
        return
    records, units = of_prompts([name for name, _ in made]), [count for _, count in made]
    samplers = [PromptBatchSampler(records, batch_size, 1, rank, world_size) for rank in range(world_size)]
    weights = [sampler.weights(units, accumulate) for sampler in samplers]
    for start in range(0, len(samplers[0]), accumulate):
        found, everything = 0.0, list[int]()
        for sampler, own in zip(samplers, weights, strict=True):
            for k in range(start, min(start + accumulate, len(sampler))):
                batch = sampler.batches[k]
                everything += batch
                mean = sum(index * units[index] for index in batch) / max(1, sum(units[index] for index in batch))
                found += own[k] * mean / (accumulate * world_size)
        total = sum(units[index] for index in everything)
        assert found == pytest.approx(sum(index * units[index] for index in everything) / max(1, total))


def test_the_order_depends_on_the_seed_alone() -> None:
    prompt_ids = [f"p{k // 2}" for k in range(20)]
    orders = [list(PromptBatchSampler(of_prompts(prompt_ids), 4, seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert list(PromptBatchSampler(of_prompts(prompt_ids), 4, 0)) == orders[0]


def test_no_pairs_at_all_are_refused() -> None:
    """A loader without batches would end the run successfully, with nothing trained."""
    with pytest.raises(ValueError, match="0 batches cannot be shared out among 1 processes"):
        PromptBatchSampler([], 4, 0)


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=40),
    st.integers(20, 200),
    st.integers(0, 2**63 - 1),
    st.integers(1, 3),
)
def test_batches_by_tokens(made: list[tuple[str, int, int]], batch_tokens: int, seed: int, world_size: int) -> None:
    """Within the bound as rows are laid out, unless it is one pair; all pairs once, but for those that ranks do not share."""
    prompt_tokens = {name: 10 + 7 * k for k, name in enumerate("abcdefgh")}
    pairs = [
        replace(
            PAIR,
            id=f"{k}",
            prompt_id=name,
            chosen_token_ids=tuple(range(chosen)),
            rejected_token_ids=tuple(range(rejected)),
            prompt_tokens=prompt_tokens[name],
        )
        for k, (name, chosen, rejected) in enumerate(made)
    ]
    try:
        shares = [
            list(PromptBatchSampler(pairs, 1, seed, rank, world_size, batch_tokens)) for rank in range(world_size)
        ]
    except ValueError as error:
        assert f"lower learner.batch_tokens={batch_tokens}" in str(error)  # noqa: PT017
        return
    assert len({len(share) for share in shares}) == 1
    read = [index for share in shares for batch in share for index in batch]
    assert len(read) == len(set(read))
    assert world_size > 1 or len(read) == len(pairs)
    for batch in (batch for share in shares for batch in share):
        trees: dict[str, int] = {}
        for index in batch:
            pair = pairs[index]
            answers = len(pair.chosen_token_ids) + len(pair.rejected_token_ids)
            trees[pair.prompt_id] = trees.get(pair.prompt_id, pair.prompt_tokens) + answers
        assert len(batch) == 1 or len(trees) * max(trees.values()) <= batch_tokens


def test_batches_by_tokens_hold_prompts_of_similar_length() -> None:
    """Short and long prompts alternate; hardly a batch pads, and their order is not one of length."""
    pairs = [
        replace(PAIR, id=f"{k}", prompt_id=f"{k}", prompt_tokens=1000 if k % 2 else 50, chosen_token_ids=(1,) * 5)
        for k in range(200)
    ]
    batches = list(PromptBatchSampler(pairs, 1, seed=3, batch_tokens=4000))
    kinds = [{pairs[index].prompt_tokens for index in batch} for batch in batches]
    assert sum(len(kind) > 1 for kind in kinds) <= 1
    assert [max(kind) for kind in kinds] != sorted((max(kind) for kind in kinds), reverse=True)
    assert max(map(len, batches)) > 10 * min(map(len, batches))
