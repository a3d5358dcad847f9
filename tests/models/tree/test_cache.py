"""The cache by hand: what lands in which slot, and what attention is given to read."""

import pytest
import torch
from torch import Tensor

from rlaifv.models.tree.cache import BranchCache


def states(rows: int, tokens: int, start: float) -> Tensor:
    """[rows, 2 heads, tokens, 3], every token a number of its own."""
    numbers = start + torch.arange(rows * tokens).view(rows, 1, tokens, 1)
    return (numbers + torch.tensor([0.0, 0.5])[None, :, None, None]).expand(-1, -1, -1, 3).clone()


@pytest.fixture
def cache() -> BranchCache:
    """Three rows of four slots; prefixes of two tokens are in rows 2 and 0."""
    cache = BranchCache(3, 4)
    cache.place(torch.tensor([2, 0]), torch.arange(2).expand(2, -1), view_slots=0)
    cache.update(states(2, 2, 10), -states(2, 2, 10), 0)
    return cache


def read(cache: BranchCache) -> list[list[float]]:
    """Keys of the first head, by row and slot."""
    return cache.layers[0].keys[:, :, 0, 0].tolist()


def test_prefixes_see_themselves_alone() -> None:
    cache = BranchCache(3, 4)
    assert (cache.get_seq_length(), cache.get_max_length(0)) == (0, -1)
    cache.place(torch.tensor([2, 0]), torch.arange(2).expand(2, -1), view_slots=0)
    given = states(2, 2, 10)
    keys, values = cache.update(given, -given, 0)
    assert keys is given
    assert torch.equal(values, -given)
    assert cache.get_mask_sizes(2, 0) == (2, 0)
    assert read(cache) == [[12, 13, 0, 0], [0, 0, 0, 0], [10, 11, 0, 0]]


def test_tokens_go_to_their_slots_and_read_the_view(cache: BranchCache) -> None:
    cache.place(torch.arange(3), torch.tensor([[2, 3], [0, 1], [2, 3]]), view_slots=3)
    keys, values = cache.update(states(3, 2, 20), -states(3, 2, 20), 0)
    assert keys.shape == (3, 2, 3, 3)
    assert keys[:, 0, :, 0].tolist() == [[12, 13, 20], [22, 23, 0], [10, 11, 24]]
    assert keys[:, 1, :, 2].tolist() == [[12.5, 13.5, 20.5], [22.5, 23.5, 0], [10.5, 11.5, 24.5]]
    assert torch.equal(values, -keys)
    assert cache.get_mask_sizes(2, 0) == (3, 0)
    assert cache.get_seq_length() == 1
    assert read(cache) == [[12, 13, 20, 21], [22, 23, 0, 0], [10, 11, 24, 25]]


def test_slots_are_added_with_zeros_and_keep_what_they_hold(cache: BranchCache) -> None:
    cache.reserve(3)
    assert cache.num_slots == 4
    cache.reserve(5)
    cache.place(torch.arange(3), torch.tensor([[4], [4], [4]]), view_slots=5)
    cache.update(states(3, 1, 30), states(3, 1, 30), 0)
    assert read(cache) == [[12, 13, 0, 0, 30], [0, 0, 0, 0, 31], [10, 11, 0, 0, 32]]
    cache.num_slots = 100
    cache.reserve(101)
    assert cache.num_slots == 125


@pytest.mark.parametrize(("rows", "expected"), [([0, 2], [12, 10]), ([2], [10]), ([0, 1, 2], [12, 0, 10])])
def test_rows_that_stay_keep_their_order(cache: BranchCache, rows: list[int], expected: list[int]) -> None:
    cache.keep_rows(torch.tensor(rows))
    assert [row[0] for row in read(cache)] == expected
    assert cache.num_rows == len(rows)
    cache.place(torch.arange(len(rows)), torch.full((len(rows), 1), 3), view_slots=4)
    cache.update(states(len(rows), 1, 30), states(len(rows), 1, 30), 0)
    assert [row[3] for row in read(cache)] == [30 + k for k in range(len(rows))]
