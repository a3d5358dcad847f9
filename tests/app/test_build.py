"""Stages, observers and learners are built from their settings and from parts of the run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlaifv.app.build import _made_of
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt
from rlaifv.stages.generate import Generate


def test_a_class_gets_its_settings_and_the_parts_that_it_names() -> None:
    node = OmegaConf.create(
        {
            "_target_": "rlaifv.stages.generate.Generate",
            "num_responses": 3,
            "decoding": {"_target_": "rlaifv.models.sampling.Decoding", "stop": ["a"]},
        }
    )
    policy = object()
    made = _made_of(node, {"policy": policy, "labeler": object(), "chosen_from": None})
    assert isinstance(made, Generate)
    assert made.policy is policy
    assert (made.num_responses, made.decoding, made.chosen_from) == (3, Decoding(stop=("a",)), None)


def test_a_setting_that_a_class_does_not_have_is_named_with_its_key() -> None:
    cfg = OmegaConf.create(
        {"stages": {"score": {"_target_": "rlaifv.stages.score.Score", "labeller": 1}}},
    )
    with pytest.raises(ValueError, match=r"^stages\.score\.labeller is no setting of rlaifv\.stages\.score\.Score\.$"):
        _made_of(cfg.stages.score, {"labeler": None})


def test_missing_facts_are_named_before_weights_are_loaded(
    launch: Callable[..., tuple[int, str]], prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlaifv.app.build.load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    rows = [
        {"id": f"p{k}", "image": prompts[0].image_paths[0], "question": "What?", "facts": ["A star."]} for k in range(8)
    ]
    del rows[5]["facts"]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, output = launch(
        "method=reward_model",
        "method.reward_model.facts='{facts} {question}'",
        "data=files",
        "data.path=prompts.jsonl",
        f"data.image_root={Path(prompts[0].image_paths[0]).parent}",
        "iteration.num_iterations=1",
    )
    assert status == 2
    assert "The reward model reads facts about the images, but prompt 'p5' has none; give them as `facts`." in output
