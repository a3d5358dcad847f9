"""Hallucination rates against counts made by hand, over batches and over two processes."""

import itertools
import json
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed, multiprocessing

from rlaifv.metrics.hallucination import HallucinationRate, hallucination_rates

Responses = tuple[list[list[bool]], list[int], list[int], list[int]]

# Truth of the claims, objects covered, objects present, words. Totals: 5 responses, 3 with a false claim; 10 claims, 5
# false; 6 objects covered of 15; 60 words.
RESPONSES: Responses = (
    [[True, True, True], [True, False], [False, False, False], [], [True, False]],
    [3, 1, 0, 0, 2],
    [4, 2, 3, 4, 2],
    [20, 14, 12, 1, 13],
)
EXPECTED = {
    "hallucination/response": 3 / 5,
    "hallucination/mention": 5 / 10,
    "coverage": 6 / 15,
    "claims_per_response": 10 / 5,
    "length/words": 60 / 5,
}


def rates_of(metric: HallucinationRate) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def part(responses: Responses, start: int, stop: int) -> Responses:
    truths, covered, present, words = responses
    return truths[start:stop], covered[start:stop], present[start:stop], words[start:stop]


def test_rates_by_hand() -> None:
    metric = HallucinationRate()
    metric.update(*RESPONSES)
    assert rates_of(metric) == pytest.approx(EXPECTED)
    rates = hallucination_rates(*RESPONSES[:3])
    assert rates == pytest.approx({name: value for name, value in EXPECTED.items() if name != "length/words"})


def test_a_response_without_claims_does_not_hallucinate() -> None:
    metric = HallucinationRate()
    metric.update([[], []], covered=[0, 0], present=[3, 0], words=[0, 2])
    assert rates_of(metric) == {
        "hallucination/response": 0.0,
        "hallucination/mention": 0.0,
        "coverage": 0.0,
        "claims_per_response": 0.0,
        "length/words": 1.0,
    }


def test_without_responses_nothing_is_claimed_to_be_measured() -> None:
    metric = HallucinationRate()
    metric.update([], [], [], [])
    assert math.isnan(rates_of(metric)["hallucination/response"])


def test_reset_forgets() -> None:
    metric = HallucinationRate()
    metric.update([[False]], [0], [1], [4])
    metric.reset()
    metric.update(*RESPONSES)
    assert rates_of(metric) == pytest.approx(EXPECTED)


@st.composite
def some_responses(draw: st.DrawFn) -> Responses:
    truths = draw(st.lists(st.lists(st.booleans(), max_size=4), min_size=1, max_size=8))
    counts = st.lists(st.integers(0, 5), min_size=len(truths), max_size=len(truths))
    covered, absent, words = draw(counts), draw(counts), draw(counts)
    return truths, covered, [some + more for some, more in zip(covered, absent, strict=True)], words


@settings(max_examples=25, deadline=None)
@given(responses=some_responses(), cuts=st.lists(st.integers(0, 8), max_size=3))
def test_accumulating_equals_once(responses: Responses, cuts: list[int]) -> None:
    once, accumulated = HallucinationRate(), HallucinationRate()
    once.update(*responses)
    bounds = [0, *sorted(cuts), len(responses[0])]
    for start, stop in itertools.pairwise(bounds):
        accumulated.update(*part(responses, start, stop))
    assert rates_of(accumulated) == rates_of(once)
    assert hallucination_rates(*responses[:3]) == {
        name: rate for name, rate in rates_of(once).items() if name != "length/words"
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[True]], [1, 1], [1, 1], [3]), "different numbers of responses: {'claim_truths': 1, 'covered': 2"),
        (([[True]], [1], [1], [3, 3]), "There are 1 responses, but 2 lengths in words"),
        (([[True], [True]], [1, 3], [1, 2], [3, 3]), "Response 1 covers 3 of 2 objects"),
        (([[True]], [-1], [2], [3]), "Response 0 covers -1 of 2 objects"),
    ],
)
def test_impossible_counts_are_refused_and_change_nothing(arguments: Responses, message: str) -> None:
    metric = HallucinationRate()
    metric.update(*RESPONSES)
    with pytest.raises(ValueError, match=re.escape(message)):
        metric.update(*arguments)
    assert rates_of(metric) == pytest.approx(EXPECTED)


def _measure_on_one_of_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    metric = HallucinationRate()
    metric.update(*part(RESPONSES, 0, 4) if rank == 0 else part(RESPONSES, 4, 5))
    Path(folder, f"{rank}.json").write_text(json.dumps(rates_of(metric)), encoding="utf-8")
    distributed.destroy_process_group()


def test_two_processes_of_unequal_load_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A spawned process imports this module by its name, which pytest's importlib mode makes from the folders above it.
    monkeypatch.syspath_prepend(Path(__file__).parents[__name__.count(".")])
    multiprocessing.spawn(_measure_on_one_of_two_ranks, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) == pytest.approx(EXPECTED)
