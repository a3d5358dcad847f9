"""Few own data, and groups that are left out: the commands that a user types, on the embedded model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from rlaifv.worlds.shapes_model import WEIGHTS_DIR

Launch = Callable[..., tuple[int, str]]
EMBEDDED = (f"model.path={WEIGHTS_DIR}", "trainer=cpu", "model.dtype=float32")
TINY = ("iteration.num_iterations=1", "iteration.num_prompts=6", "iteration.min_pairs=1", "data.num_held_out=2")
SHORT = ("iteration.decoding.max_new_tokens=40",)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    rows = [
        {"prompt": f"What is at place {k}?", "images": ["red.png"], "chosen": "A red square.", "rejected": "A cat."}
        for k in range(16)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "pairs.jsonl"


def test_an_experiment_trains_on_sixteen_pairs(launch: Launch, pairs: Path, tmp_path: Path) -> None:
    words = ("experiment=llava7b_self", "run=train", "data=trl", f"data.path={pairs}", *EMBEDDED, *SHORT)
    status, output = launch(*words, "run_dir=trained", "iteration.epochs=1")
    assert status == 0, output
    assert f"data.path={pairs} has 16 prompts: 1 iteration of 12 prompts, 4 held out" in output
    assert "iterations 1, run trained" in output
    stored = OmegaConf.load(tmp_path / "trained" / "config.yaml")
    assert (stored.iteration.num_iterations, stored.iteration.num_prompts, stored.data.num_held_out) == (1, None, 4)
    status, output = launch("resume=trained")
    assert (status, "nothing left to do" in output) == (0, True), output


def test_all_faults_are_told_at_once(launch: Launch, tmp_path: Path) -> None:
    wrong = ("learner.beta=much", "learner.batch_size=0", "model.path=./nowhere", "data=files", "labeler.dtype=float32")
    status, output = launch(*wrong)
    assert status == 2
    for sentence in (
        "data.path has no default and must be given",
        "learner.beta='much' must be a number.",
        "learner.batch_size=0 must be at least 1.",
        "model.path=./nowhere is not a directory",
        "labeler.dtype and labeler.trust_remote_code have no effect without labeler.path",
    ):
        assert sentence in output, output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("left_out", "absent"),
    [
        (("callbacks.checkpoint=null",), "checkpoints"),
        (("callbacks=null",), "journal"),
        (("callbacks.journal=null", "callbacks.samples=null"), "journal"),
        (("logger=null",), "metrics.csv"),
        (("evaluation=null",), "evaluations"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_what_is_null_is_left_out(launch: Launch, tmp_path: Path, left_out: tuple[str, ...], absent: str) -> None:
    status, output = launch("run_dir=run", *TINY, *SHORT, *left_out)
    assert status == 0, output
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert absent not in made
    assert {"export", "report", "config.yaml"} <= made
    assert "lightning_logs" not in made
    status, output = launch("resume=run")
    assert (status, "nothing left to do" in output) == (0, True), output


def test_checkpoints_need_the_random_state(launch: Launch) -> None:
    status, output = launch("callbacks.random_state=null")
    assert (status, "callbacks.random_state=null leaves checkpoints" in output) == (2, True), output


def test_a_part_that_every_run_needs_is_not_left_out(launch: Launch) -> None:
    status, output = launch("learner=null")
    assert (status, "learner=null leaves out a part that no run can do without." in output) == (2, True), output
