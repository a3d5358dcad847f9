"""`python train.py method=grpo_claims` as users type it: killed, resumed, and refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlaifv.store.manifest import Manifest, main
from tests.launching import TRAIN, Launch

SMALL = (
    "iteration.num_prompts=8",
    "iteration.num_responses=4",
    "iteration.shard_prompts=4",
    "iteration.num_iterations=2",
    "iteration.min_pairs=1",
    "iteration.decoding.max_new_tokens=40",
    "data.num_held_out=4",
    "learner.batch_size=8",
)


def run(*arguments: str, fail: str = "") -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"RLAIFV_FAIL": fail} if fail else {})}
    return subprocess.run([sys.executable, str(TRAIN), *arguments], env=environment, check=False).returncode


def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    method = "method=rloo_claims"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(method, f"run_dir={whole}", *SMALL) == 0
    assert run(method, f"run_dir={killed}", *SMALL, fail="crash loop.rollouts 3") == -9
    assert run(f"resume={killed}") == 0
    for path in ("export/model.safetensors", *(f"iterations/00{k}/rollouts-00000.parquet" for k in (0, 1))):
        assert (whole / path).read_bytes() == (killed / path).read_bytes(), path
    rollouts = Manifest(whole / "iterations/000").records("rollouts")
    assert len(rollouts) > 2
    assert all(len(one.logps) == len(one.token_ids) for one in rollouts)
    assert main([str(whole)]) == 0
    page = (whole / "report/index.html").read_text(encoding="utf-8")
    assert "rewarded answers in 2 iterations" in page
    assert "Claims rejected" in page
    assert 'id="pairs"' not in page


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("iteration.decoding.temperature=0.7", "set iteration.decoding.temperature=1.0."),
        ("method.stages.reward.estimator=ppo", "must be one of grpo, rloo, reinforce++, gae"),
        ("method.learner.module.clip=2", "The clip range must be between 0 and 1"),
        ("+method.learner.module.klip=0.1", "klip is no setting of rlaifv.learners.policy_gradient.module"),
    ],
)
def test_wrong_settings_end_in_one_sentence(launch: Launch, wrong: str, message: str) -> None:
    status, output = launch("method=grpo_claims", wrong, "run_dir=run", *SMALL)
    assert status == 2, output
    assert message in " ".join(output.split())
    assert "Traceback" not in output
