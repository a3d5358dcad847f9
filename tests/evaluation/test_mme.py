"""MME's scores by hand, over orders and batches."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, multiprocessing

from rlaifv.evaluation.mme import MME, TASKS, mme_scores

# Task, image, response, truth: both questions right, one, none, and both in tasks of one or two images.
ROWS = [
    ("existence", 0, "Yes", "yes"),
    ("existence", 0, "No", "no"),
    ("existence", 1, "Yes, it is", "yes"),
    ("existence", 1, "Yes", "no"),
    ("count", 0, "two", "yes"),
    ("count", 0, "no.", "no"),
    ("position", 0, "left", "yes"),
    ("position", 0, "right", "no"),
    ("color", 0, "YES", "yes"),
    ("color", 0, "nope", "no"),
]
EXPECTED = {
    "existence/accuracy": 75.0,
    "existence/accuracy_plus": 50.0,
    "existence": 125.0,
    "count/accuracy": 50.0,
    "count/accuracy_plus": 0.0,
    "count": 50.0,
    "position/accuracy": 0.0,
    "position/accuracy_plus": 0.0,
    "position": 0.0,
    "color/accuracy": 100.0,
    "color/accuracy_plus": 100.0,
    "color": 200.0,
    "total": 375.0,
}


def measured(metric: MME, rows: list[int]) -> dict[str, float]:
    metric.update(rows, *([ROWS[row][part] for row in rows] for part in range(4)))
    return {name: value.item() for name, value in metric.compute().items()}


def test_by_hand() -> None:
    assert measured(MME(10), list(range(10))) == EXPECTED


def test_everything_right_is_800() -> None:
    tasks = [task for task in TASKS for _ in range(60)]
    assert mme_scores(tasks, [row // 2 for row in range(240)], [True] * 240)["total"] == 800.0


def test_a_total_wants_all_tasks() -> None:
    scores = mme_scores(["count", "count"], [0, 0], [True, False])
    assert scores == {"count/accuracy": 50.0, "count/accuracy_plus": 0.0, "count": 50.0}


def test_the_same_image_in_two_tasks_is_two_images() -> None:
    scores = mme_scores(["count", "count", "color", "color"], [7] * 4, [True, True, True, False])
    assert (scores["count"], scores["color"]) == (200.0, 50.0)


@given(st.permutations(range(10)), st.integers(0, 10), st.lists(st.integers(0, 9), max_size=4))
def test_order_batches_and_repetitions_change_nothing(order: list[int], cut: int, again: list[int]) -> None:
    metric = MME(10)
    metric.update(order[:cut], *([ROWS[row][part] for row in order[:cut]] for part in range(4)))
    assert measured(metric, order[cut:] + again) == EXPECTED


def test_what_is_undefined_is_named() -> None:
    with pytest.raises(ValueError, match="undefined without an answer"):
        mme_scores([], [], [])
    with pytest.raises(ValueError, match=r"Image 3 of count has 1 answers; accuracy\+ is defined for two"):
        mme_scores(["count"], [3], [True])


def test_broken_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="The tasks are existence, count, position, color, but got 'posters'"):
        MME(2).update([0], ["posters"], [0], ["Yes"], ["yes"])
    with pytest.raises(ValueError, match="different numbers of questions"):
        MME(2).update([0], ["count"], [0], [], ["yes"])


def _measure_on_one_of_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    # The two questions about an image are on different ranks, which no sum of per-rank scores could put together.
    scores = measured(MME(10), [0, 2, 4, 6, 8] if rank == 0 else [9, 7, 5, 3, 1, 0])
    Path(folder, f"{rank}.json").write_text(json.dumps(scores), encoding="utf-8")
    distributed.destroy_process_group()


def test_two_processes_that_share_images_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A spawned process imports this module by its name, which pytest's importlib mode makes from the folders above it.
    monkeypatch.syspath_prepend(Path(__file__).parents[__name__.count(".")])
    multiprocessing.spawn(_measure_on_one_of_two_ranks, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) == EXPECTED
