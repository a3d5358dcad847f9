"""What may stand beside `resume`, row by row, and which files must be what they were."""

import logging
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from rlaifv.app.checks import ConfigError
from rlaifv.app.launch import OPEN_SECTIONS, register_resolvers
from rlaifv.app.resume import RULES, apply_overrides, check_inputs, lacking_keys, rule_of

ROOT = Path(__file__).parents[2]
# A setting for every row of the table, other than the default.
OTHER = {
    "run": "run=label",
    "seed": "seed=5",
    "run_dir": "run_dir=elsewhere",
    "experiment": "experiment=llava7b_self",
    "method": "+method.runs=[train]",
    "model": "model.dtype=bfloat16",
    "labeler": "labeler.question_suffix=Well?",
    "divider": "divider.max_claims=3",
    "data": "data.num_held_out=7",
    "evaluation": "evaluation.num_examples=3",
    "engine": "engine.batch_tokens=99",
    "iteration": "iteration.decoding.temperature=0.5",
    "iteration.num_iterations": "iteration.num_iterations=9",
    "before": "+before.reward_model=reward_model/facts",
    "start_from": "start_from=elsewhere",
    "learner": "learner.beta=0.7",
    "trainer": "trainer.gradient_clip_val=3",
    "trainer.accelerator": "trainer.accelerator=gpu",
    "trainer.devices": "trainer.devices=2",
    "trainer.strategy": "trainer.strategy=ddp",
    "trainer.num_nodes": "+trainer.num_nodes=2",
    "trainer.deterministic": "trainer.deterministic=false",
    "trainer.log_every_n_steps": "trainer.log_every_n_steps=7",
    "callbacks": "callbacks.checkpoint.num_kept=5",
    "callbacks.random_state": "~callbacks.random_state",
    "logger": "logger.csv.flush_logs_every_n_steps=3",
    "min_free_bytes": "min_free_bytes=7",
    "rank_timeout_seconds": "rank_timeout_seconds=7",
    "verbose": "verbose=true",
    "preflight_only": "preflight_only=true",
    "resume": "resume=latest",
}


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", list(overrides))


def resumed(run_dir: Path, *overrides: str, begun_with: tuple[str, ...] = ()) -> DictConfig:
    stored = composed(f"run_dir={run_dir}", *begun_with)
    return apply_overrides(stored, composed(*overrides), list(overrides), run_dir)


@pytest.mark.parametrize("key", RULES)
def test_every_row_of_the_table_is_kept(key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    override = OTHER[key]
    rule, reason = RULES[key]
    name = override.lstrip("+~").partition("=")[0]
    with caplog.at_level(logging.WARNING):
        if rule == "refuse":
            with pytest.raises(ConfigError, match=r"was .+ and is now .+; it .*Resume without it\.") as refused:
                resumed(tmp_path, override)
            assert name in str(refused.value)
            assert reason in str(refused.value)
        else:
            resumed(tmp_path, override)
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == (rule == "warn")
    assert all(name in message and "and is now" in message and reason in message for message in warned)


def test_a_row_for_every_setting() -> None:
    """A new section gets a rule of its own before it can be resumed with another value."""
    cfg: dict[Any, Any] = dict(composed("run_dir=run"))
    assert {str(key) for key in cfg} <= RULES.keys()
    assert rule_of("something.new")[0] == "refuse"
    assert rule_of("iteration.num_iterations")[0] == "accept"
    assert rule_of("iteration.num_prompts")[0] == "refuse"


def test_complete_settings_lack_nothing_whatever_was_chosen() -> None:
    """Also where other options were chosen than the defaults that they are compared with."""
    for begun_with in (
        (),
        ("data=files", "labeler=model", "divider=chat", "learner=paper_lora", "trainer=gpu"),
        ("data=trl",),
    ):
        assert lacking_keys(composed(*begun_with), composed(), OPEN_SECTIONS) == []


def test_what_was_given_is_in_the_settings_and_nothing_else_is(tmp_path: Path) -> None:
    begun_with = ("seed=3", "learner.beta=0.3", "trainer.log_every_n_steps=4")
    cfg = resumed(tmp_path, "engine.batch_tokens=77", "logger=none", "learner.beta=0.3", begun_with=begun_with)
    assert (cfg.engine.batch_tokens, cfg.seed, cfg.learner.beta, cfg.trainer.log_every_n_steps) == (77, 3, 0.3, 4)
    assert cfg.logger == {}
    assert cfg.callbacks.checkpoint.directory == f"{tmp_path}/checkpoints"


def test_all_that_is_refused_is_named_at_once_with_both_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        resumed(tmp_path, "seed=8", "learner.lr=1.0", begun_with=("seed=3",))
    lines = str(refused.value).splitlines()
    assert lines[0].startswith("seed was 3 and is now 8; it decides everything that is drawn.")
    assert lines[1].startswith("learner.lr was 2e-05 and is now 1.0;")


def test_the_number_of_iterations_may_not_fall_below_what_has_begun(tmp_path: Path) -> None:
    for name in ("000", "001"):
        (tmp_path / "iterations" / name).mkdir(parents=True)
    assert resumed(tmp_path, "iteration.num_iterations=2").iteration.num_iterations == 2
    with pytest.raises(ConfigError, match=r"iteration.num_iterations was 4 and is now 1, but 2 iterations have begun"):
        resumed(tmp_path, "iteration.num_iterations=1")


def test_prompts_that_were_shared_out_are_not_shared_out_anew(tmp_path: Path) -> None:
    own = ("data=files", "data.path=prompts.jsonl")
    with pytest.raises(ConfigError, match=r"the prompts of prompts\.jsonl were shared out among 4"):
        resumed(tmp_path, "iteration.num_iterations=6", begun_with=own)
    assert resumed(tmp_path, "iteration.num_iterations=6", begun_with=(*own, "iteration.num_prompts=3"))


def test_files_that_changed_are_named_with_both_digests(tmp_path: Path) -> None:
    prompts, model = tmp_path / "prompts.jsonl", tmp_path / "model"
    model.mkdir()
    prompts.write_text("one")
    (model / "model.safetensors").write_text("weights")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    cfg = composed("data=files", f"data.path={prompts}", f"model.path={model}", f"run_dir={run_dir}")
    check_inputs(cfg, run_dir)
    check_inputs(cfg, run_dir)
    (model / "README.md").write_text("no input")
    check_inputs(cfg, run_dir)
    prompts.write_text("two")
    with pytest.raises(
        ConfigError, match=rf"data.path={prompts} has changed since the run began: its SHA-256 was \w{{64}}"
    ):
        check_inputs(cfg, run_dir)
    (model / "model.safetensors").write_text("others")
    with pytest.raises(ConfigError) as refused:
        check_inputs(cfg, run_dir)
    assert [line.partition("=")[0] for line in str(refused.value).splitlines()] == ["data.path", "model.path"]


def test_the_page_shows_the_table() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [f"| `{key}` | {rule} | {reason} |" for key, (rule, reason) in RULES.items()]
    assert [row for row in rows if row not in page] == []
    assert sum(line.endswith(("|",)) and "| refuse |" in line for line in page.splitlines()) == sum(
        rule == "refuse" for rule, _ in RULES.values()
    )
