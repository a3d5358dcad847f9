"""Runs that come before a run: `before` names experiments that make what it needs, such as a reward model.

run_dir/reward_model/…       a whole run of its own, with settings, report and export; it can be resumed like any other
run_dir/…                    the run itself, whose settings refer to ${run_dir}/reward_model/export
"""

from dataclasses import dataclass, replace
from pathlib import Path

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from rlaifv.app.checks import ConfigError
from rlaifv.app.launch import CONFIG_NAME, is_finished, with_null_groups
from rlaifv.app.resume import apply_overrides

# Overrides that hold for earlier runs too, by their first words; others are about the run itself.
SHARED = (
    *("seed", "data", "model", "labeler", "divider", "engine", "trainer", "logger", "callbacks"),
    *("min_free_bytes", "rank_timeout_seconds", "verbose"),
    *(
        f"iteration.{name}"
        for name in ("num_prompts", "num_responses", "shard_prompts", "min_pairs", "max_drop_rate", "decoding")
    ),
)


@dataclass(frozen=True, slots=True)
class Earlier:
    """A run that comes before another one.

    Attributes:
        name: of its directory.
        cfg: its settings.
        run_dir: where it is made.
        overrides: that made its settings.
    """

    name: str
    cfg: DictConfig
    run_dir: Path
    overrides: list[str]

    def is_finished(self) -> bool:
        """Whether it has nothing left to do."""
        return (self.run_dir / CONFIG_NAME).is_file() and is_finished(self.cfg, self.run_dir)


def earlier_runs(cfg: DictConfig, run_dir: Path) -> list[Earlier]:
    """Return the runs that come before a run, in their order. Those that were begun have the settings that they began with,
    and what a resumed run may change.

    Raises:
        ConfigError: an experiment does not compose with the overrides of this run, or one of them may not change in an
            earlier run that was begun.
    """
    return [_earlier(name, str(experiment), cfg, run_dir) for name, experiment in (cfg.before or {}).items()]


def _earlier(name: str, experiment: str, whole: DictConfig, run_dir: Path) -> Earlier:
    directory = run_dir / name
    shared = [*filter(_is_shared, HydraConfig.get().overrides.task)]
    if (directory / CONFIG_NAME).is_file():
        stored = OmegaConf.load(directory / CONFIG_NAME)
        known = OmegaConf.merge(stored, {"run_dir": str(directory), "resume": str(directory)})
        assert isinstance(known, DictConfig)
        begun = Earlier(name, known, directory, [])
        return begun if begun.is_finished() else replace(begun, cfg=apply_overrides(known, whole, shared, directory))
    overrides = [f"experiment={experiment}", *shared]
    try:
        cfg = compose("train", overrides)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"before.{name}={experiment} does not compose with {' '.join(overrides[1:])}: {reason}"
        ) from error
    OmegaConf.set_readonly(cfg, False)
    OmegaConf.set_struct(cfg, False)
    with_null_groups(cfg)
    cfg.run_dir = str(directory)
    return Earlier(name, cfg, directory, overrides)


def _is_shared(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0].partition("@")[0]
    return any(f"{key}.".startswith(f"{shared}.") for shared in SHARED)
