"""A group of settings, or a member of one, that is null is left out."""

from collections.abc import Callable
from pathlib import Path

import pytest

Launch = Callable[..., tuple[int, str]]
SMALL = (
    "iteration.num_prompts=4",
    "iteration.shard_prompts=4",
    "iteration.min_pairs=1",
    "iteration.num_iterations=2",
    "iteration.decoding.max_new_tokens=60",
    "data.num_held_out=2",
)
ALWAYS = {"config.yaml", "inputs.json", "scenes", "iterations", "export", "report"}
USUAL = ALWAYS | {"evaluations", "checkpoints", "journal", "metrics.csv"}


@pytest.mark.parametrize(
    ("overrides", "missing"),
    [
        (["callbacks=null"], {"checkpoints", "journal"}),
        (["callbacks.checkpoint=null"], {"checkpoints"}),
        (["callbacks.checkpoint=null", "callbacks.random_state=null"], {"checkpoints"}),
        (["callbacks.journal=null", "callbacks.samples=null"], {"journal"}),
        (["logger=null"], {"metrics.csv"}),
        (["logger.csv=null"], {"metrics.csv"}),
        (["evaluation=null"], {"evaluations"}),
        (["callbacks=null", "logger=null", "evaluation=null"], {"checkpoints", "journal", "metrics.csv", "evaluations"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_null_does_without(launch: Launch, tmp_path: Path, overrides: list[str], missing: set[str]) -> None:
    status, output = launch("run_dir=run", *SMALL, *overrides)
    assert status == 0, output
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert found >= USUAL - missing
    assert not found & missing
    assert (tmp_path / "run" / "export" / "model.safetensors").exists()
    status, output = launch("resume=run")
    assert (status, output.strip()) == (0, f"{tmp_path / 'run'} is finished; there is nothing left to do.")


def test_run_without_checkpoints_begins_again_or_says_why_not(launch: Launch, tmp_path: Path) -> None:
    status, output = launch("run_dir=run", *SMALL, "callbacks.checkpoint=null", "iteration.num_iterations=1")
    assert status == 0, output
    (tmp_path / "run" / "report" / "index.html").unlink()
    status, output = launch("resume=run")
    assert status == 0, output
    (tmp_path / "run" / "report" / "index.html").unlink()
    (tmp_path / "run" / "iterations" / "001").mkdir()
    status, output = launch("resume=run", "iteration.num_iterations=2")
    words = " ".join(output.split())
    assert (status, "with callbacks.checkpoint=null only the first iteration can be begun again" in words) == (
        2,
        True,
    ), output


def test_checkpoints_without_random_state_are_refused(launch: Launch) -> None:
    status, output = launch(*SMALL, "callbacks.random_state=null")
    assert (status, "callbacks.random_state=null leaves checkpoints" in output) == (2, True), output
