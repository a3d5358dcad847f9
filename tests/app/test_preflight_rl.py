"""Preflight screens of policy gradients and reward models, on the embedded world and at the size of the paper."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from rlaifv.app.preflight import STAGES
from tests.launching import Launch
from tests.settings import ROOT, composed

CLAIMS = ["generate", "score", "log-probs", "train"]
PPO = ["generate", "reward model", "log-probs", "critic's values", "base model's log-probs", "train"]
COMPARED = ["generate", "score", "train"]
OF_1024 = (COMPARED, "8,192 comparisons × 4 epochs")
FLAME_SFT = (COMPARED, "1,024 answers × 2 epochs")
FLAME_DPO = (["generate", "score", "reference log-probs", "train"], "1,024 pairs × 1 epoch ")
# Stages of each run of a command, and what it trains on.
EXPERIMENTS: dict[str, list[tuple[list[str], str]]] = {
    "rl/grpo_claims": [(CLAIMS, "5,120 answers × 1 epoch ")],
    "rl/rloo_claims": [(CLAIMS, "5,120 answers × 1 epoch ")],
    "rl/fact_rlhf": [OF_1024, (PPO, "2,560 answers × 1 epoch ")],
    "rl/fgaif": [(COMPARED, "5,120 answers × 2 epochs"), (PPO, "2,560 answers × 1 epoch ")],
    "rl/morlaif": [OF_1024, (PPO, "2,560 answers × 1 epoch ")],
    "flame/plain_sft": [(["train"], "1,024 answers × 2 epochs")],
    "flame/sft": [FLAME_SFT],
    "flame/dpo": [FLAME_DPO],
    "flame/flame": [FLAME_SFT, FLAME_DPO],
    "reward_model/facts": [OF_1024],
    "reward_model/no_facts": [OF_1024],
    "reward_model/principles": [OF_1024],
    "reward_model/segments": [(COMPARED, "5,120 answers × 2 epochs")],
}
PAPER = (
    "experiment=llava7b_self_lora",
    "data.path=prompts.jsonl",
    "preflight_only=true",
    "method=ppo",
    "method.reward_models.score=rm/export",
    "iteration.decoding.temperature=1.0",
    "iteration.decoding.top_k=0",
)


def rows(screen: str) -> dict[str, str]:
    """The rows of the table of stages, by name."""
    table = screen.partition("one iteration")[2].partition("memory\n")[0]
    found = re.findall(r"^ ([a-z][a-z' -]*?)  +(\d.*)$", table, re.MULTILINE)
    return {name: rest for name, rest in found if name != "all"}


def weights(screen: str) -> dict[str, float]:
    """Bytes of the weights of each model."""
    units = {"M": 1e6, "G": 1e9}
    (line,) = re.findall(r"^ weights: +(.*)$", screen, re.MULTILINE)
    return {
        name: float(size) * units[unit] for name, size, unit in re.findall(r"([a-z][a-z ]*?) ([\d.]+) ([MG])B", line)
    }


def test_every_experiment_is_tried() -> None:
    folder = ROOT / "configs/experiment"
    assert {f"{path.parent.name}/{path.stem}" for path in folder.glob("*/*.yaml")} - {*EXPERIMENTS} == {
        *(f"ablation/{path.stem}" for path in (folder / "ablation").iterdir()),
        *(f"reward_model/{path.stem}" for path in folder.glob("reward_model/llava7b_*.yaml")),  # in test_preflight.py
    }


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_all_runs_of_a_command_are_budgeted_before_the_first(launch: Launch, tmp_path: Path, experiment: str) -> None:
    status, output = launch(f"experiment={experiment}", "preflight_only=true")
    assert status == 0, output
    screens = re.split(r"^(?=(?:first \w+: )?policy [^ ]+, labeler)", output, flags=re.MULTILINE)[1:]
    assert len(screens) == len(EXPERIMENTS[experiment])
    for screen, (stages, trained) in zip(screens, EXPERIMENTS[experiment], strict=True):
        assert list(rows(screen)) == stages
        assert trained in rows(screen)["train"] + " "
        assert ("pairs" in screen) == ("pairs" in trained)
        assert ("question" in screen) == ("score" in stages)
    assert screens[0].startswith(("first reward_model: ", "first sft: ")) == (len(screens) == 2)
    assert max(map(len, output.splitlines())) <= 100
    assert list(tmp_path.iterdir()) == []


def test_kto_trains_on_answers_and_makes_no_pairs(launch: Launch) -> None:
    status, output = launch("method=kto_claims", "preflight_only=true")
    assert status == 0, output
    assert list(rows(output)) == ["generate", "score", "reference log-probs", "train"]
    assert "5,120 answers × 1 epoch " in rows(output)["train"] + " "
    assert "pairs" not in output


@pytest.fixture
def prompt_list(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    row = json.dumps({"image": "a.png", "question": "What is it?"}) + "\n"
    (tmp_path / "prompts.jsonl").write_text(row * (4 * 4000 + 256))


@pytest.mark.usefixtures("prompt_list")
def test_ppo_of_7b_holds_a_reward_model_and_shares_its_own_weights_with_the_base_model(launch: Launch) -> None:
    """7.06 billion parameters in two bytes each; the reward model is of the policy's kind, as it does not exist yet."""
    status, output = launch(*PAPER)
    assert status == 0, output
    assert list(rows(output)) == PPO
    assert rows(output)["reward model"].startswith("40,000 answers ")
    assert weights(output) == {"policy": 14.8e9, "reward models": 14.1e9}
    status, output = launch(*PAPER, "method.stages.logps.reference=start", "+method.reward_models.other=rm/other")
    assert status == 0, output
    assert [name for name in PPO if name not in rows(output)] == ["reward model", "base model's log-probs"]
    assert rows(output)["reward models"].startswith("40,000 answers × 2 models")
    assert weights(output) == {"policy": 14.8e9, "reward models": 28.3e9}


@pytest.mark.usefixtures("prompt_list")
def test_a_reward_model_that_is_there_is_counted_as_it_is(launch: Launch, tmp_path: Path) -> None:
    """13.35 billion parameters in two bytes."""
    described = ROOT / "rlaifv/models/budget/architectures/llava-1.5-13b-hf.json"
    (tmp_path / "rm/export").mkdir(parents=True)
    (tmp_path / "rm/export/config.json").write_text(described.read_text())
    status, output = launch(*PAPER)
    assert status == 0, output
    assert re.search(r"^ reward model +13\.4 B +frozen", output, re.MULTILINE)
    assert weights(output)["reward models"] == 26.7e9


@pytest.mark.usefixtures("prompt_list")
def test_a_critic_of_its_own_trains_beside_the_policy(launch: Launch) -> None:
    status, output = launch(*PAPER, "method.critic.path=llava-hf/llava-1.5-7b-hf")
    assert status == 0, output
    assert list(rows(output)) == [*PPO, "train critic"]
    assert re.search(r"^ critic +7\.22 B +160 M", output, re.MULTILINE)
    assert weights(output)["critic"] == 14.8e9
    assert "AdamW 2.56 GB, gradients 1.28 GB" in output


def test_stages_that_run_a_model_are_those_of_the_methods() -> None:
    """A stage that is renamed would be missing from the screen."""
    used = {
        node._target_.removeprefix("rlaifv.stages.")
        for path in (ROOT / "configs/method").glob("*.yaml")
        for node in composed(f"method={path.stem}").method.stages.values()
    }
    assert used >= {*STAGES} - {"routes.RouteByLabeler"}  # which stands in for RouteByRules
