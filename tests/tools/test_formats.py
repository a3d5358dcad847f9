"""`python train.py trainer.precision=…`: every number format trains, labels, resumes and exports."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlaifv.worlds.shapes_model import WEIGHTS_DIR

Launch = Callable[..., tuple[int, str]]
SMALL = (
    "run_dir=run",
    "iteration.num_prompts=8",
    "iteration.shard_prompts=8",
    "iteration.min_pairs=1",
    "iteration.num_iterations=2",
    "iteration.decoding.max_new_tokens=60",
    "data.num_held_out=2",
    "learner.batch_size=8",
    "learner.lr=1e-4",
)
LORA = ("learner.lora={r:4,lora_alpha:8}",)


def losses(run_dir: Path) -> list[float]:
    with (run_dir / "metrics.csv").open(newline="") as lines:
        return [float(row["loss"]) for row in csv.DictReader(lines) if row["loss"]]


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("adapters", [(), LORA], ids=["full", "lora"])
def test_format_trains(launch: Launch, tmp_path: Path, precision: str, adapters: tuple[str, ...]) -> None:
    status, output = launch(*SMALL, *adapters, f"trainer.precision={precision}")
    assert status == 0, output
    found = losses(tmp_path / "run")
    assert found[0] == pytest.approx(math.log(2), abs=0.02)  # the policy is its own reference in the same arithmetic
    assert all(map(math.isfinite, found))
    exported = load_file(tmp_path / "run" / "export" / "model.safetensors")
    expected = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {t.dtype for name, t in exported.items() if "language_model" in name} == {expected}
    base = load_file(WEIGHTS_DIR / "model.safetensors")
    moved = [not torch.equal(exported[name].float(), base[name].to(expected).float()) for name in base]
    assert sum(moved) >= (0.3 if not adapters else 0.2) * len(base)
    if adapters:
        (adapter,) = (tmp_path / "run" / "adapter").glob("*.safetensors")
        assert {t.dtype for t in load_file(adapter).values()} == {torch.float32}
    else:
        masters = torch.load(next((tmp_path / "run" / "checkpoints").glob("*.ckpt")), weights_only=True)
        states = masters["optimizer_states"][0]["state"].values()
        # Between two iterations no moments are kept.
        assert bool(states) == (precision == "bf16-true")
        assert all(set(state) == {"master"} and state["master"].dtype == torch.float32 for state in states)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_format_labels(launch: Launch, tmp_path: Path, precision: str) -> None:
    status, output = launch(*SMALL, "run=label", f"trainer.precision={precision}")
    assert status == 0, output
    assert "result: pairs labelled" in output


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["trainer.precision=bf17"], "trainer.precision=bf17 must be one of 32-true, bf16-mixed, bf16-true, 16-mixed."),
        (["trainer.precision=16-true"], "trainer.precision=16-true must be one of"),
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed needs a GPU; on a CPU, set trainer.precision=bf16-mixed"),
        (["model.dtype=float16"], "model.dtype=float16 with trainer.precision=32-true trains without loss scaling"),
    ],
)  # fmt: skip
def test_format_that_cannot_train_is_refused(launch: Launch, overrides: list[str], sentence: str) -> None:
    status, output = launch(*SMALL, *overrides)
    assert (status, sentence in output) == (2, True), output
    assert "Traceback" not in output
