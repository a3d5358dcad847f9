"""Settings of runs that come before a run: those that both share, and those that a resumed run may change."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from rlaifv.app.checks import ConfigError
from rlaifv.app.earlier import Earlier, earlier_runs
from rlaifv.app.launch import register_resolvers
from tests.settings import ROOT

BEGUN = ("experiment=rl/fact_rlhf", "iteration.num_prompts=8", "trainer.devices=2", "learner.lr=1e-6")


def earlier(run_dir: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Earlier:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", list(overrides), return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.masked_copy(cfg, "hydra"))
        (one,) = earlier_runs(cfg, run_dir)
    return one


def begin(one: Earlier) -> None:
    one.run_dir.mkdir()
    (one.run_dir / "config.yaml").write_text(OmegaConf.to_yaml(one.cfg))


def test_what_is_shared_reaches_the_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its learning is its own."""
    one = earlier(tmp_path, monkeypatch, *BEGUN)
    assert (one.name, one.run_dir, one.cfg.resume) == ("reward_model", tmp_path / "reward_model", None)
    assert (one.cfg.iteration.num_prompts, one.cfg.trainer.devices, one.cfg.learner.lr) == (8, 2, 3e-4)
    assert not one.is_finished()


def test_a_resumed_run_changes_the_earlier_one_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A begun run that is resumed with fewer processes, or on another machine, does so from its first part on."""
    begin(earlier(tmp_path, monkeypatch, *BEGUN))
    same, other = BEGUN[:2], (*BEGUN[:2], "trainer.devices=1", "min_free_bytes=7")
    assert earlier(tmp_path, monkeypatch, *same).cfg.trainer.devices == 2
    one = earlier(tmp_path, monkeypatch, *other)
    assert (one.cfg.trainer.devices, one.cfg.min_free_bytes, one.cfg.iteration.num_prompts) == (1, 7, 8)
    assert one.cfg.resume == str(one.run_dir)
    with pytest.raises(ConfigError, match="seed was 0 and is now 5; it decides everything that is drawn"):
        earlier(tmp_path, monkeypatch, *same, "seed=5")


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = earlier(tmp_path, monkeypatch, *BEGUN)
    begin(one)
    for name in ("export/config.json", "report/index.html"):
        (one.run_dir / name).parent.mkdir()
        (one.run_dir / name).touch()
    assert earlier(tmp_path, monkeypatch, *BEGUN[:2], "seed=5").is_finished()
