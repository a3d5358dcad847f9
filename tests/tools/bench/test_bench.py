"""The benchmarks at a size on which nothing is worth measuring: they run, compare like with like, and end in JSON."""

import argparse
import csv
import json
import math
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest
import torch

from rlaifv.learners.dpo.batch import PreferenceCollator
from rlaifv.learners.dpo.module import DPOModule
from tests.learners.stand_ins import engine_of
from tools.bench import dpo_step as bench_dpo_step
from tools.bench import harness as bench
from tools.bench import scoring as bench_scoring
from tools.bench.dpo_sides import BETA, Conventional, Ours, Task, Trl, conventional_logps
from tools.dev import plot_performance

TINY = ["--size", "tiny", "--repeats", "1", "--device", "cpu"]
KEYS = {"ours", "peer", "ratio", "tokens", "flop_floor_ratio", "device", "peak_bytes"}


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def task(tmp_path: Path, **changes: Any) -> Task:
    values = {"device": "cpu", "clock": "wall", "batch_size": 2, "pairs_per_prompt": 1, "steps": 1}
    args = argparse.Namespace(**{**values, "lora": False, "recompute": False, **changes})
    return bench_dpo_step.build_task(bench.sizes()["tiny"], args, tmp_path)


@pytest.mark.parametrize("peer", ["conventional", "trl"])
@pytest.mark.parametrize("options", [["--pairs-per-prompt", "2"], ["--lora", "--recompute"]], ids=["two", "lora"])
def test_dpo_step(peer: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    bench_dpo_step.main([*TINY, "--peer", peer, "--steps", "1", "--batch-size", "2", *options])
    result = last_line(capsys)
    assert result.keys() >= KEYS
    assert result["ratio"] == pytest.approx(result["ours"] / result["peer"])
    prefix, answer = 12 + 16, 9
    shared = prefix // 2 + 2 * answer if "--lora" not in options else prefix + 2 * answer
    assert result["tokens"] == {"ours": shared, "peer": 2 * (prefix + answer)}


@pytest.mark.parametrize("peer", ["single", "batched"])
def test_scoring_answers_alike(peer: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench_scoring.main([*TINY, "--peer", peer, "--questions", "12"])
    result = last_line(capsys)
    assert result.keys() >= KEYS
    assert result["difference"] < 1e-6
    assert result["tokens"]["ours"] < result["tokens"]["peer"]


def test_all_sides_have_the_same_logps(tmp_path: Path) -> None:
    """Of the first prompt's pair: the reference of ours, the conventional step, and what TRL's collator feeds its model."""
    made = task(tmp_path)
    ours, conventional, trl = Ours(made), Conventional(made), Trl(made)
    expected = [sum(ours.pairs[0].chosen_reference_logps), sum(ours.pairs[0].rejected_reference_logps)]
    batch = next(conventional._batches())
    with torch.no_grad():
        logps = conventional_logps(made.model, batch)
    assert logps[[0, 2]].tolist() == pytest.approx(expected, abs=1e-4)
    inputs = trl.trainer.data_collator([trl.trainer.train_dataset[0]])
    assert inputs["input_ids"][0].tolist() == batch["input_ids"][0].tolist()
    assert inputs["completion_mask"][1].tolist() == batch["completion_mask"][2].tolist()
    torch.testing.assert_close(inputs["pixel_values"][0], batch["pixel_values"][0])


@pytest.mark.filterwarnings("ignore:.*`self.trainer` reference is not registered")
@pytest.mark.parametrize(
    ("loss", "reduction", "label_smoothing", "theirs"),
    [
        ("sigmoid", "sum", 0.0, "sigmoid"),
        ("sigmoid", "mean", 0.0, "sigmoid_norm"),
        ("robust", "sum", 0.2, "robust"),
        ("hinge", "sum", 0.0, "hinge"),
        ("ipo", "mean", 0.0, "ipo"),
    ],
)
def test_the_loss_equals_trls(loss: Any, reduction: Any, label_smoothing: float, theirs: str, tmp_path: Path) -> None:
    """Of two pairs, after the weights of both policies have left the reference alike."""
    made = task(tmp_path)
    ours, trl = Ours(made), Trl(made)
    trl.trainer.loss_types, trl.trainer.label_smoothing = [theirs], label_smoothing
    for policy in (ours.policy, trl.trainer.model):
        noise = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for _, parameter in sorted(policy.named_parameters()):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))
    by_id = {prompt.id: prompt for prompt in made.prompts}
    batch = PreferenceCollator(engine_of(made.prompter))([(by_id[pair.prompt_id], pair) for pair in ours.pairs[:2]])
    options = {"reduction": reduction, "loss": loss, "label_smoothing": label_smoothing}
    value = DPOModule(ours.policy, torch.optim.AdamW, BETA, **options).training_step(batch, 0)
    rows = [trl.trainer.train_dataset[k] for k in range(2)]
    expected = trl.trainer.compute_loss(trl.trainer.model, trl.trainer.data_collator(rows))
    unmoved = {"sigmoid": math.log(2), "robust": math.log(2), "hinge": 1.0, "ipo": 0.25 / BETA**2}[loss]
    assert abs(expected.item() - unmoved) > 1e-3
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("tool", "grows", "values"), [("dpo", "pairs", (1, 2)), ("scoring", "image_tokens", (1, 9))])
def test_growth_is_written_and_drawn(tool: str, grows: str, values: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / f"{grows}.csv"
    arguments = [*TINY, "--grow", grows, "--values", *map(str, values), "--csv", str(path)]
    if tool == "dpo":
        bench_dpo_step.main([*arguments, "--peer", "conventional", "--steps", "1"])
    else:
        bench_scoring.main([*arguments, "--questions", "3"])
    with path.open() as file:
        header, *rows = csv.reader(file)
    assert header[0] == grows
    assert [int(row[0]) for row in rows] == list(values)
    assert all(float(number) > 0 for row in rows for number in row[1:])
    plot_performance.main([str(path)])
    svg = fromstring(path.with_suffix(".svg").read_text())
    assert len(svg.findall(".//{*}polyline")) == 2
    path.write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="no growth curve"):
        plot_performance.draw(path)


def test_sizes_are_what_they_say() -> None:
    small, large = bench.sizes()["small"], bench.sizes()["7b"]
    with torch.device("meta"):
        assert 54e6 < sum(p.numel() for p in bench.build_model(small, torch.device("meta")).parameters()) < 57e6
    assert bench.image_tokens(small) == bench.image_tokens(large) == 576
    assert bench.cost_of(large).token_flops == pytest.approx(12.95e9, rel=1e-3)
    assert bench.image_tokens(small.with_image_tokens(1000)) == 31**2
    assert bench.image_tokens(small) == 576  # and stays so
