"""Settings as `train.py` composes them, changed as a user may change them, and what is said about them."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from rlaifv.app.checks import ConfigError, check_config
from rlaifv.app.launch import register_resolvers

ROOT = Path(__file__).parent.parent


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", list(overrides))


def changed(base: DictConfig, **values: object) -> DictConfig:
    """A copy with other values; keys are written with two underscores for each dot."""
    cfg = base.copy()
    OmegaConf.set_struct(cfg, False)
    for key, value in values.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    if "run" in values:  # a group, which selects a method for it
        cfg.method.runs = [values["run"]]
    return cfg


def faults(cfg: DictConfig) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check_config(cfg)
    return str(raised.value).splitlines()


def fault_of(base: DictConfig, key: str, value: object) -> str:
    (fault,) = faults(changed(base, **{key: value}))
    return fault
