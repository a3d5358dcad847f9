"""Rows count once: in any order, in any batches, on any rank, and however often they come."""

import itertools
import json
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed, multiprocessing

from rlaifv.metrics.amber_discriminative import KINDS, AMBERDiscriminative
from rlaifv.metrics.amber_generative import AMBERGenerative, Lexicon
from rlaifv.metrics.by_row import RowMetric
from rlaifv.metrics.chair import CHAIR
from rlaifv.metrics.faithscore import FaithScore
from rlaifv.metrics.hallusionbench import HallusionBench, Key
from rlaifv.metrics.llava_bench import LLaVABench
from rlaifv.metrics.mme import MME
from rlaifv.metrics.mmhal import MMHalBench
from rlaifv.metrics.mmstar import MMStar
from rlaifv.metrics.object_halbench import ObjectHalBench
from rlaifv.metrics.pope import POPE
from rlaifv.metrics.refomb import RefoMB

RATINGS = [f"Rating: {k % 7}" for k in range(10)] + ["none"]
KEYS = [Key(*key, str(int(key[3]))) for key in itertools.product(("VD", "VS"), ("a",), "0", "012", "01")][:11]
# For each metric how it is made, and the arguments of `update` for eleven rows.
CASES: dict[str, tuple[Callable[[], RowMetric], tuple[list[Any], ...]]] = {
    "mmhal": (lambda: MMHalBench(11), (RATINGS,)),
    "refomb": (
        lambda: RefoMB(11),
        ([f"[[{'ABC?'[k % 4]}]]" for k in range(11)], [f"[[{'BBA'[k % 3]}]]" for k in range(11)]),
    ),
    "llava_bench": (
        lambda: LLaVABench([("conv", "detail", "complex")[k % 3] for k in range(11)]),
        ([f"{5 + k / 7} {k / 3}" for k in range(10)] + ["?"],),
    ),
    "amber_generative": (
        lambda: AMBERGenerative(11, Lexicon({"boat": ["ship"], "gull": ["bird"]})),
        ([["ship", "bird", "gull"][: k % 4] for k in range(11)], [["boat"]] * 11, [["gull"]] * 11),
    ),
    "amber_discriminative": (
        lambda: AMBERDiscriminative(11),
        (
            [("Yes", "No", "?")[k % 3] for k in range(11)],
            [("no", "yes")[k % 2] for k in range(11)],
            [KINDS[k % 5] for k in range(11)],
        ),
    ),
    "pope": (
        lambda: POPE(11),
        ([("Yes", "No")[k % 2] for k in range(11)], [("yes", "no", "no")[k % 3] for k in range(11)]),
    ),
    # The two questions about an image go to different ranks, which no sum of scores by rank could put together.
    "mme": (
        lambda: MME(10),
        (
            [("Yes", "No", "Yes")[k % 3] for k in range(10)],
            ["yes"] * 10,
            ["count"] * 4 + ["color"] * 6,
            [k // 2 for k in range(10)],
        ),
    ),
    "chair": (
        lambda: CHAIR(11),
        ([("A dog", "Two cats", "A boat")[k % 3] for k in range(11)], [{"dog", "cat"}, {"bed"}] * 5 + [{"cat"}]),
    ),
    "faithscore": (lambda: FaithScore(11), ([[True] * (k % 4) + [False] for k in range(11)],)),
    "hallusionbench": (lambda: HallusionBench(KEYS), ([k % 3 for k in range(11)],)),
    "object_halbench": (
        lambda: ObjectHalBench(11, "extracted"),
        (
            ["There is something on the table."] * 11,
            [{"dog", "cat"}, {"bed"}] * 5 + [{"cat"}],
            [[("dog", "two cats", "a boat")[k % 3], "beds"] for k in range(11)],
        ),
    ),
    "mmstar": (
        lambda: MMStar(["A"] * 11, [("math", "ab"[k % 2]) for k in range(11)]),
        (["A", "B", "A cat", "?"] * 2 + ["A"] * 3,),
    ),
}


def scores_of(metric: RowMetric) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def put(metric: RowMetric, columns: tuple[list[Any], ...], rows: list[int]) -> None:
    metric.update(*([column[row] for row in rows] for column in columns), rows=rows)


@pytest.mark.parametrize("name", CASES)
def test_order_batches_and_repeated_rows_do_not_matter(name: str) -> None:
    make, columns = CASES[name]
    once, parts = make(), make()
    once.update(*columns)
    rows = [*range(len(columns[0])), 0, 3, 3, 9]
    random.Random(1).shuffle(rows)
    for start in range(0, len(rows), 4):
        put(parts, columns, rows[start : start + 4])
    put(parts, columns, [])
    assert scores_of(parts) == pytest.approx(scores_of(once), nan_ok=True)
    assert any(value not in (0, 1, 100) for value in scores_of(once).values())


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, 10), min_size=1, max_size=30), cut=st.integers(0, 30))
def test_only_which_rows_came_counts(rows: list[int], cut: int) -> None:
    make, columns = CASES["mmhal"]
    found, expected = make(), make()
    put(found, columns, rows[:cut])
    put(found, columns, rows[cut:])
    put(expected, columns, sorted(set(rows)))
    assert scores_of(found) == scores_of(expected)


@pytest.mark.parametrize(
    ("texts", "rows", "message"),
    [
        (["Rating: 1"], [0, 1], "The arguments describe different numbers of rows: {'reviews': 1, 'rows': 2}."),
        (["Rating: 1"], [11], "Row 11 is none of the 11 rows"),
        (["Rating: 1"], [-1], "Row -1 is none of the 11 rows"),
        (["Rating: 1", "Rating: 2"], [4, 4], "Row 4 came more than once, with different answers."),
        (["Rating: 1"], [2], "Row 2 came more than once"),
    ],
)
def test_impossible_rows_are_refused_and_change_nothing(texts: list[str], rows: list[int], message: str) -> None:
    metric = MMHalBench(11)
    metric.update(RATINGS[:4])
    before = scores_of(metric)
    with pytest.raises(ValueError, match=re.escape(message)):
        metric.update(texts, rows)
    assert scores_of(metric) == before


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_claimed_without_a_row(name: str) -> None:
    make, columns = CASES[name]
    metric = make()
    put(metric, columns, [])
    with pytest.raises(ValueError, match=r"^\w+ is undefined: (there is )?no \w+"):
        metric.compute()


def test_metrics_go_to_other_processes() -> None:
    for make, columns in CASES.values():
        metric = make()
        metric.update(*columns)
        assert scores_of(pickle.loads(pickle.dumps(metric))) == pytest.approx(scores_of(metric), nan_ok=True)


def test_forward_and_reset() -> None:
    metric = MMHalBench(11)
    batch = metric(["Rating: 6"], [0])
    assert batch["score"].item() == 6
    metric(["Rating: 2"], [1])
    assert metric.compute()["score"].item() == 4
    metric.reset()
    metric.update(["Rating: 1"], [0])
    assert metric.compute()["score"].item() == 1


def _measure_on_one_of_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {}
    for name, (make, columns) in CASES.items():
        metric = make()
        # As a sampler deals an odd number of rows to two ranks: the first is dealt twice.
        put(metric, columns, [*range(rank, len(columns[0]), 2), *([0] if rank else [])])
        found[name] = scores_of(metric)
    Path(folder, f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    distributed.destroy_process_group()


def test_two_processes_with_a_padded_row_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A spawned process imports this module by its name, which pytest's importlib mode makes from the folders above it.
    monkeypatch.syspath_prepend(Path(__file__).parents[__name__.count(".")])
    multiprocessing.spawn(_measure_on_one_of_two_ranks, args=(str(tmp_path),), nprocs=2)
    for name, (make, columns) in CASES.items():
        metric = make()
        metric.update(*columns)
        for rank in range(2):
            found = json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))[name]
            assert found == pytest.approx(scores_of(metric), nan_ok=True), name
