"""The policy-gradient bench on a tiny model: all sides compute the same, and their costs are those of the words."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.bench.harness import Meter, sizes
from tools.bench.rl_step import Bench, distance, main
from tools.bench.suite import rows

ARGUMENTS = ["--size", "tiny", "--repeats", "1", "--device", "cpu", "--answers", "4"]


def build(directory: Path, lora: bool = False, critic: bool = False) -> Bench:
    return Bench(sizes()["tiny"], 3, lora, Meter(torch.device("cpu")), directory, critic)


def moved_by(bench: Bench, step: Callable[[], object]) -> torch.Tensor:
    """Return how far the log-probs are after a step from what they were."""
    before = bench.tree()[0].detach()
    step()
    return bench.tree()[0].detach() - before


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("other", ["rows", "trl"])
def test_all_sides_make_the_same_step(tmp_path: Path, lora: bool, other: str) -> None:
    """From equal weights, one step of each leads to equal weights."""
    if other == "trl":
        pytest.importorskip("trl")
    ours, theirs = build(tmp_path, lora), build(tmp_path, lora)
    expected = moved_by(ours, lambda: ours.step(ours.tree))
    assert expected.abs().max() > 0
    found = moved_by(theirs, theirs.trl(tmp_path).step if other == "trl" else lambda: theirs.step(theirs.rows))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-2)


def test_trl_gets_our_inputs(tmp_path: Path) -> None:
    """What its loss is handed: the ids, the picture of each row, and the advantages that the answers have here."""
    pytest.importorskip("trl")
    bench = build(tmp_path)
    trl = bench.trl(tmp_path)
    found: Any = trl.trainer._generate_and_score_completions([trl.row] * 3)
    encoded = bench.engine.prompter.encode(bench.prompt)
    assert found["prompt_ids"].tolist() == [list(encoded.ids)] * 3
    assert found["completion_ids"].tolist() == [list(ids) for ids in bench.answers]
    assert found["completion_mask"].all()
    assert found["advantages"].tolist() == [-1, 0, 1]
    torch.testing.assert_close(found["pixel_values"], encoded.images["pixel_values"].repeat(3, 1, 1, 1))
    assert trl.trainer.beta == 0.04


def test_the_value_head_learns_alike_on_both_sides(tmp_path: Path) -> None:
    """And without moving the policy otherwise: it reads detached states."""
    plain, ours, theirs = build(tmp_path), build(tmp_path, critic=True), build(tmp_path, critic=True)
    assert ours.value_head is not None
    assert theirs.value_head is not None
    before = ours.value_head.weight.detach().clone()
    gradients = []
    for bench, run in ((ours, ours.tree), (theirs, theirs.rows)):
        bench.optimizer.zero_grad = lambda: None  # type: ignore[method-assign,assignment,misc]
        bench.step(run)
        assert bench.value_head is not None
        gradients.append(bench.value_head.weight.grad)
    assert gradients[0].abs().max() > 1e-4
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-3)
    assert not torch.equal(ours.value_head.weight, before)
    plain.step(plain.tree)
    torch.testing.assert_close(ours.tree()[0], plain.tree()[0], atol=1e-4, rtol=0)


def test_the_bench_reports_all_sides_and_how_far_they_differ() -> None:
    pytest.importorskip("trl")
    found = main(ARGUMENTS)
    assert found["differences"].keys() == {"conventional", "trl"}
    assert found["difference"] == max(found["differences"].values()) < 1e-4
    assert found["tokens"] == {"ours": (12 + 16) // 4 + 9, "peer": 12 + 16 + 9} == found["beside"]["trl"]["tokens"]
    assert 1 < found["flop_ratio"] < 4
    assert found["beside"]["trl"]["ratio"] == pytest.approx(found["ours"] / found["beside"]["trl"]["peer"])
    table = rows("work", found)
    assert [f"{name} " in line for name, line in zip(("conventional", "trl"), table, strict=True)] == [True, True]
    assert f"| {found['beside']['trl']['ratio']:.2f} |" in table[1]


def test_other_log_probs_are_refused_before_timing() -> None:
    ours = torch.tensor([-1.0, -2.0])
    assert distance(ours, ours + torch.tensor([0.0, 1e-4]), "TRL", "float32") == pytest.approx(1e-4, rel=1e-2)
    with pytest.raises(ValueError, match=r"log-probs of TRL differ from ours by 0\.0005 per token"):
        distance(ours, ours + torch.tensor([0.0, 1e-3]), "TRL", "float32")
    with pytest.raises(ValueError, match="differ from ours by nan"):
        distance(ours, ours * torch.nan, "TRL", "bfloat16")


def test_trl_is_left_out_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "trl" else find(name, *rest))
    found = main(ARGUMENTS)
    assert "TRL is not installed, and is left out." in capsys.readouterr().out
    assert found["differences"].keys() == {"conventional"}
    assert "beside" not in found


def test_a_critic_is_compared_with_the_conventional_side_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--critic"])["differences"].keys() == {"conventional"}
    with pytest.raises(SystemExit):
        main([*ARGUMENTS, "--critic", "--peer", "trl"])
    assert "TRL's GRPOTrainer has none" in capsys.readouterr().err
