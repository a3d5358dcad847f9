"""Reward models and PPO as users type them: one command for both, killed and resumed, and refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlaifv.engines.local import LocalEngine
from rlaifv.models.prompting import Prompter
from rlaifv.models.reward_head import RewardSpec
from rlaifv.records import Prompt
from rlaifv.store.manifest import Manifest, main
from rlaifv.worlds.shapes import Thing
from tests.launching import TRAIN, Launch

SMALL = (
    "iteration.num_prompts=8",
    "iteration.num_responses=4",
    "iteration.shard_prompts=4",
    "iteration.decoding.max_new_tokens=40",
    "data.num_held_out=4",
)
OWN = ("iteration.num_iterations=2", "iteration.min_pairs=1", "learner.batch_size=8")


def run(*arguments: str, fail: str = "") -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"RLAIFV_FAIL": fail} if fail else {})}
    return subprocess.run([sys.executable, str(TRAIN), *arguments], env=environment, check=False).returncode


def check_equal(whole: Path, killed: Path, paths: list[str]) -> None:
    for path in paths:
        assert (whole / path).read_bytes() == (killed / path).read_bytes(), path


@pytest.mark.timeout(600)
def test_both_runs_of_a_command_end_as_uninterrupted_ones(tmp_path: Path) -> None:
    """Killed within the reward model's run, and again within PPO's; the resumed run equals the whole one bit for bit."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shared = ("experiment=rl/fact_rlhf", *SMALL, *OWN)
    assert run(*shared, f"run_dir={whole}") == 0
    assert run(*shared, f"run_dir={killed}", fail="crash loop.comparisons 2") == -9
    assert (killed / "reward_model/config.yaml").exists()
    assert run(f"resume={killed}", fail="crash loop.valued 2") == -9
    assert (killed / "reward_model/export/reward_head.json").exists()
    assert run(f"resume={killed}") == 0
    models = ["export/model.safetensors", "reward_model/export/model.safetensors"]
    models += ["reward_model/export/reward_head.safetensors", "reward_model/evaluations/001.json"]
    check_equal(
        whole, killed, [*models, "iterations/001/rollouts-00000.parquet", "iterations/001/scores-00000.parquet"]
    )
    assert main([str(whole)]) == 0
    assert main([str(whole / "reward_model")]) == 0
    rollouts = Manifest(whole / "iterations/001").records("rollouts")
    assert all(len(one.advantages) == len(one.returns) == len(one.token_ids) for one in rollouts)
    assert {one.term_names for one in rollouts} == {("score", "cut", "length")}
    # Captions are in the reward model's prompts alone: no shard of the policy holds their words but the prompts themselves.
    prompts = Manifest(whole / "iterations/000").records("prompts")
    assert all(prompt.facts for prompt in prompts)
    assert not any(fact in prompt.question for prompt in prompts for fact in prompt.facts)
    page = (whole / "report/index.html").read_text(encoding="utf-8")
    assert "Terms of the reward" in page
    assert "comparisons in 1 iteration" in (whole / "reward_model/report/index.html").read_text(encoding="utf-8")
    assert json.loads((whole / "reward_model/export/reward_head.json").read_text())["facts"] == "{facts} {question}"


def test_facts_reach_no_prompt_but_a_reward_models(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text that a tokenizer gets in both runs is looked at, and every call that samples, asks or finds log-probs."""
    monkeypatch.setattr(Thing, "caption_sentence", property(lambda thing: "A zebra."))
    asked, rendered, calls = set(), set(), []
    ask, render = RewardSpec.asked, Prompter._rendered

    def spy_asked(spec: RewardSpec, prompt: Prompt) -> Prompt:
        asked.add(ask(spec, prompt).question)
        return ask(spec, prompt)

    def spy_rendered(prompter: Prompter, prompt: Prompt, answer: str | None = None) -> str:
        rendered.add((prompt.question, render(prompter, prompt, answer)))
        return render(prompter, prompt, answer)

    def spied(name: str) -> Callable[..., Any]:
        method = getattr(LocalEngine, name)

        def call(engine: LocalEngine, prompts: Sequence[Any], *rest: Any) -> Any:
            asked_of = [one if isinstance(one, Prompt) else one[0] for one in prompts]
            calls.extend((name, one.system, one.history, one.question) for one in asked_of)
            calls.extend((name, str(one[1])) for one in prompts if not isinstance(one, Prompt))
            return method(engine, prompts, *rest)

        return call

    monkeypatch.setattr(RewardSpec, "asked", spy_asked)
    monkeypatch.setattr(Prompter, "_rendered", spy_rendered)
    for name in ("sample", "answer_probabilities", "completion_logps"):
        monkeypatch.setattr(LocalEngine, name, spied(name))
    status, output = launch("experiment=rl/fact_rlhf", *SMALL, *OWN, "iteration.num_iterations=1", "run_dir=run")
    assert status == 0, output
    told = {question for question, text in rendered if "zebra" in text}
    assert told
    assert told <= asked
    assert {name for name, *_ in calls} == {"sample", "answer_probabilities", "completion_logps"}
    assert "zebra" not in repr(calls)


@pytest.mark.slow
def test_two_ranks_make_both_runs(tmp_path: Path) -> None:
    """The second one waits for the export of the first before it reads the reward model."""
    ranks = ("trainer.devices=2", "trainer.strategy=ddp", "iteration.num_prompts=16")
    assert run("experiment=rl/fact_rlhf", *SMALL, *OWN, *ranks, f"run_dir={tmp_path}") == 0
    assert main([str(tmp_path)]) == main([str(tmp_path / "reward_model")]) == 0
    assert len([*tmp_path.glob("journal/rank-*.jsonl")]) == len([*tmp_path.glob("*/journal/rank-*.jsonl")]) == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("experiment", ["fgaif", "morlaif"])
def test_an_experiment_runs_by_one_command(tmp_path: Path, experiment: str) -> None:
    own = ("iteration.num_iterations=1", "iteration.min_pairs=1", "learner.batch_size=8")
    assert run(f"experiment=rl/{experiment}", *SMALL, *own, f"run_dir={tmp_path}") == 0
    rollouts = Manifest(tmp_path / "iterations/000").records("rollouts")
    placed = [sum(reward != 0 for reward in one.rewards) for one in rollouts]
    if experiment == "fgaif":
        assert max(placed) > 1  # a reward for each sentence
    else:
        assert max(placed) == 1
        assert {one.term_names for one in rollouts} == {("cut", "principles")}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("method=ppo",), "method.reward_models.score has no default and must be given"),
        (
            ("method=ppo", "method.reward_models.score=nowhere"),
            "method.reward_models.score: nowhere is no reward model",
        ),
        (
            ("experiment=rl/fact_rlhf", "data.gives_facts=false"),
            "The reward model reads facts about the images, but prompt",
        ),
        (
            ("experiment=reward_model/principles", "method.reward_model.heads=[factual]"),
            "The reward model's heads are factual, but answers are compared by factual, complete, concise",
        ),
        (("method=reward_model", "iteration.selection.per_epoch=2"), "iteration.selection.per_epoch=2 has no meaning"),
        (("+before.first=nowhere",), "before.first=nowhere does not compose"),
    ],
)
def test_wrong_settings_end_in_one_sentence(launch: Launch, wrong: tuple[str, ...], message: str) -> None:
    status, output = launch(*wrong, "run_dir=run", *SMALL, *OWN)
    assert status == 2, output
    assert message in " ".join(output.split())
    assert "Traceback" not in output
