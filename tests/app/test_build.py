"""Stages, observers and learners are built from their settings and from parts of the run."""

import pytest
from omegaconf import OmegaConf

from rlaifv.app.build import _made_of
from rlaifv.models.sampling import Decoding
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
