"""What a data set refuses, and the order in which ranks and epochs read it."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.data.dataset import PairBatchSampler, PreferenceDataset
from rlaifv.records import Pair, Prompt

PROMPT = Prompt("p", "What is this?", ())
PAIR = Pair("a", "p", "p/0", "p/1", "Yes.", "No.", (5, 6), (7,), 0.0, -1.0, (-0.5, -1.0), (-2.0,))


def test_an_item_is_a_pair_with_its_prompt() -> None:
    other = Prompt("q", "And that?", ())
    dataset = PreferenceDataset([PROMPT, other], [replace(PAIR, prompt_id="q"), PAIR])
    assert len(dataset) == 2
    assert dataset[0] == (other, replace(PAIR, prompt_id="q"))
    assert dataset[1] == (PROMPT, PAIR)


def test_a_pair_without_its_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="Pair 'a' belongs to prompt 'p', which the iteration lacks"):
        PreferenceDataset([], [PAIR])


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
        PreferenceDataset([PROMPT], [replace(PAIR, **fields)])  # type: ignore[arg-type]


@given(
    st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30),
    st.integers(1, 7),
    st.integers(0, 2**63 - 1),
)
def test_one_rank_reads_every_pair_once(prompt_ids: list[str], batch_size: int, seed: int) -> None:
    sampler = PairBatchSampler(prompt_ids, batch_size, seed)
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
    whole = PairBatchSampler(prompt_ids, batch_size, seed)
    if len(whole) < world_size:
        with pytest.raises(ValueError, match=f"cannot be shared out among {world_size} processes"):
            PairBatchSampler(prompt_ids, batch_size, seed, 0, world_size)
        return
    shares = [list(PairBatchSampler(prompt_ids, batch_size, seed, rank, world_size)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    read = [index for share in shares for batch in share for index in batch]
    assert len(read) == len(set(read))
    assert sum(map(len, shares)) == len(whole) // world_size * world_size
    # Together they read what one rank would have read, in its order.
    assert [batch for step in zip(*shares, strict=True) for batch in step] == list(whole)[: sum(map(len, shares))]


def test_the_order_depends_on_the_seed_alone() -> None:
    prompt_ids = [f"p{k // 2}" for k in range(20)]
    orders = [list(PairBatchSampler(prompt_ids, 4, seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert list(PairBatchSampler(prompt_ids, 4, 0)) == orders[0]


def test_no_pairs_at_all_are_refused() -> None:
    """A loader without batches would end the run successfully, with nothing trained."""
    with pytest.raises(ValueError, match="0 batches cannot be shared out among 1 processes"):
        PairBatchSampler([], 4, 0)
