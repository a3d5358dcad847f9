"""The policy-gradient bench on a tiny model: both sides compute the same, and their costs are those of the words."""

from pathlib import Path

import pytest
import torch

from tools.bench.harness import Meter, sizes
from tools.bench.rl_step import Bench, main


@pytest.mark.parametrize("lora", [False, True])
def test_both_sides_make_the_same_step(tmp_path: Path, lora: bool) -> None:
    """From equal weights, one step of each leads to equal weights."""
    moved = []
    for side in ("tree", "rows"):
        bench = Bench(sizes()["tiny"], 3, lora, Meter(torch.device("cpu")), tmp_path)
        before = bench.tree().detach()
        bench.step(getattr(bench, side))
        moved.append(bench.tree().detach() - before)
    assert moved[0].abs().max() > 0
    torch.testing.assert_close(moved[0], moved[1], atol=1e-5, rtol=1e-2)


def test_the_bench_reports_both_sides_and_how_far_they_differ() -> None:
    found = main(["--size", "tiny", "--repeats", "1", "--device", "cpu", "--answers", "4"])
    assert found["difference"] < 1e-4
    assert found["tokens"]["peer"] > found["tokens"]["ours"]
    assert 1 < found["flop_ratio"] < 4
