"""Start a run: its directory, `resume`, and errors that a user can fix."""

import json
import os
import re
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from lightning import LightningDataModule, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from rlaifv.app.checks import ConfigError
from rlaifv.app.resume import apply_overrides, check_inputs, lacking_keys
from rlaifv.report.console import benchmark_table, result_line, result_table, reward_model_table, time_line
from rlaifv.report.hacking import reward_warning
from rlaifv.report.run import read_run, read_statistics
from rlaifv.runtime.console import console
from rlaifv.runtime.phases import SECONDS_NAME, read_seconds, timed
from rlaifv.runtime.ranks import rank
from rlaifv.runtime.stopping import Stopped
from rlaifv.store.atomic import make_directory, remove_leftovers, write_text
from rlaifv.store.checkpoints import newest_checkpoint
from rlaifv.store.run_dir import DirectoryInUse, locked
from rlaifv.worlds.shapes_model import WEIGHTS_DIR

OUTPUTS_DIR = Path("outputs")
CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG_NAME = "config.yaml"
ERROR_NAME = "error.txt"
ADAPTER_NAME = "adapter"
REPORT_NAME = Path("report", "index.html")
# What only a run that has begun to work leaves behind; a refused one may have left its configuration.
WORK_NAMES = ("iterations", "evaluations", "checkpoints", "export")
_DIVIDER_PATH_KEYS = tuple(
    f"divider.{name}" for name in ("path", "split_path", "question_path", "split_prompt", "question_prompt")
)
PATH_KEYS = (
    "data.path",
    "model.path",
    "start_from",
    "labeler.path",
    "iteration.chosen_from",
    "evaluation.benchmarks.data_root",
    "method.critic.path",
    *_DIVIDER_PATH_KEYS,
)
# Groups that null leaves out of a run.
OPTIONAL_GROUPS = ("callbacks", "evaluation", "logger")
# Sections whose keys become keywords of a class; all other keys are read by name, so a new one there would be ignored.
OPEN_SECTIONS = (
    *("callbacks", "data", "divider", "evaluation.benchmarks", "learner.lora", "logger", "trainer"),
    *("before", "method.learner", "method.observers", "method.reward_model", "method.reward_models", "method.stages"),
)
# How long another rank waits for the first one to say what went wrong.
RANK_GRACE_SECONDS = 10
# Ranks that the first one starts inherit it, so that all of them mean the same directory.
START_VARIABLE = "RLAIFV_STARTED"


def register_resolvers() -> None:
    """Register OmegaConf resolvers: a fresh directory, the embedded model's path, whether a W&B key exists."""
    OmegaConf.register_new_resolver("fresh_directory", _fresh_directory, replace=True)
    OmegaConf.register_new_resolver("embedded_model", lambda: str(WEIGHTS_DIR), replace=True)
    OmegaConf.register_new_resolver("offline_without_key", _tracks_offline, replace=True)


def without_groups(words: Sequence[str]) -> list[str]:
    """Return a command line with group=null in the form that Hydra has for it.

    >>> without_groups(["logger=null", "callbacks.journal=null", "experiment=null", "seed=1"])
    ['~logger', 'callbacks.journal=null', 'seed=1']
    """
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()} - {"experiment"}
    left = {f"{name}=null" for name in groups}
    return [f"~{word.removesuffix('=null')}" if word in left else word for word in words if word != "experiment=null"]


def _fresh_directory() -> str:
    return str(OUTPUTS_DIR / os.environ.setdefault(START_VARIABLE, datetime.now().strftime("%Y-%m-%d/%H-%M-%S")))


def _tracks_offline() -> bool:
    netrc = Path.home() / ".netrc"
    has_key = "WANDB_API_KEY" in os.environ or (netrc.is_file() and "wandb" in netrc.read_text(errors="ignore"))
    return not has_key or os.environ.get("WANDB_MODE") == "offline"


def run_config(cfg: DictConfig) -> tuple[DictConfig, Path]:
    """The settings of this run and its directory: as composed, or a resumed run's own with what may change. Writes nothing.

    Raises:
        ConfigError: `resume` names no run, or stands beside settings that would change what the run is; a new key that
            nothing reads; or a fresh run in the directory of another one.
    """
    run_dir = _run_dir(cfg)
    if cfg.get("run") is None:
        raise ConfigError("run must be full, label or train.")
    if unread := _unread_keys():
        raise ConfigError("\n".join(f"{item} adds a key that nothing reads." for item in unread))
    OmegaConf.set_readonly(cfg, False)
    with_null_groups(cfg)
    if cfg.resume is not None:
        return _stored_config(cfg, run_dir), run_dir
    if not cfg.preflight_only and any((run_dir / name).exists() for name in WORK_NAMES):
        raise ConfigError(
            f"{run_dir} holds a run already; resume={run_dir} goes on with it, another run_dir starts anew."
        )
    cfg.run_dir = str(run_dir)
    return cfg, run_dir


def with_null_groups(cfg: DictConfig) -> None:
    """Complete composed settings: groups that were left out are null, and paths that exist are absolute."""
    for name in OPTIONAL_GROUPS:
        if name not in cfg:  # group=null takes a group out, where key=null would leave a null
            OmegaConf.update(cfg, name, None, force_add=True)
    models = [f"method.reward_models.{name}" for name in cfg.method.reward_models or ()]
    for key in (*PATH_KEYS, *models):
        value = None if OmegaConf.is_missing(cfg, key) else OmegaConf.select(cfg, key)
        if isinstance(value, str) and Path(value).expanduser().exists():  # else a hub id, or refused later
            OmegaConf.update(cfg, key, str(Path(value).expanduser().absolute()))


def _run_dir(cfg: DictConfig) -> Path:
    if _is_multirun():
        return Path(HydraConfig.get().runtime.output_dir)
    if cfg.resume != "latest":
        return Path(str(cfg.resume or cfg.run_dir)).expanduser().absolute()
    runs = sorted(OUTPUTS_DIR.absolute().glob(f"*/*/{CONFIG_NAME}"))
    if not runs:
        raise ConfigError(f"resume=latest found no run in {OUTPUTS_DIR.absolute()}.")
    return runs[-1].parent


def _is_multirun() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _stored_config(cfg: DictConfig, run_dir: Path) -> DictConfig:
    if _is_multirun():
        raise ConfigError(f"resume={cfg.resume} goes on with one run; leave out --multirun.")
    stored = run_dir / CONFIG_NAME
    if not stored.is_file():
        raise ConfigError(f"resume={cfg.resume} is no run directory: {stored} is missing.")
    known = OmegaConf.load(stored)
    if lacking := lacking_keys(known, cfg, OPEN_SECTIONS):
        raise ConfigError(
            f"{stored} lacks {', '.join(lacking)}, so an older version of this project made the run; go on with it in that "
            "version, or add the keys there, with values that mean what that version did."
        )
    given = {
        "run_dir": str(run_dir),
        "resume": cfg.resume,
        "verbose": cfg.verbose,
        "preflight_only": cfg.preflight_only,
    }
    own = OmegaConf.merge(known, given)
    return apply_overrides(own, cfg, list(HydraConfig.get().overrides.task), run_dir)  # type: ignore[arg-type]


def _unread_keys() -> list[str]:
    """Return overrides that add a key (+key=value) where keys are read by name."""
    overrides = HydraConfig.get().overrides.task
    known = compose("train", [item for item in overrides if not item.startswith("+")])
    unread = []
    for item in overrides:
        key = item.lstrip("+").partition("=")[0]
        parent, _, name = key.rpartition(".")
        section = OmegaConf.select(known, parent) if parent else known
        is_open = any(f"{key}.".startswith(f"{open_section}.") for open_section in OPEN_SECTIONS)
        is_known = isinstance(section, DictConfig) and name in list(section)
        if item.startswith("+") and not is_open and not is_known:
            unread.append(item)
    return unread


@contextmanager
def working_in(run_dir: Path) -> Iterator[None]:
    """Make the run's directory and lock it. The first rank does so for all.

    Raises:
        OSError: the directory cannot be made or written to, or another process works in it.
    """
    if rank() > 0:
        yield
        return
    make_directory(run_dir)
    with locked(run_dir):
        remove_leftovers(run_dir)  # of processes that were killed while they wrote
        yield


def begin_run(cfg: DictConfig, run_dir: Path) -> None:
    """Write the settings for a later resume.

    A resumed run that gets more iterations counts as unfinished again.

    References such as ${run_dir} are kept, so that a moved run is resumed in its new place.

    Raises:
        OSError: the directory cannot be written to.
        ConfigError: what a resumed run reads is not what it was.
    """
    if rank() > 0:
        return
    make_directory(run_dir)
    (run_dir / ERROR_NAME).unlink(missing_ok=True)
    check_inputs(cfg, run_dir)
    (run_dir / REPORT_NAME).unlink(missing_ok=True)
    write_text(run_dir / CONFIG_NAME, OmegaConf.to_yaml(cfg))


@contextmanager
def user_errors(cfg: DictConfig) -> Iterator[None]:
    """Turn errors that a user can fix into one message and exit status 2, Ctrl-C into status 130, SIGTERM into 143.

    The traceback goes to error.txt, unless the run was refused before it began. In a multirun any error goes there, and
    the sweep goes on with its other jobs; `rlaifv.app.sweep` reports the failed ones and sets the exit status.
    """
    try:
        yield
    except (KeyboardInterrupt, Stopped) as ended:
        _let_the_first_rank_end(cfg.rank_timeout_seconds)
        if (_run_dir(cfg) / CONFIG_NAME).is_file() and rank() == 0:
            console.print(f"\nInterrupted; python train.py resume={_run_dir(cfg)} goes on from here.", soft_wrap=True)
        raise SystemExit(ended.code if isinstance(ended, Stopped) else 130) from None
    except Exception as error:
        _let_the_first_rank_end(RANK_GRACE_SECONDS)
        # What a class refuses arrives wrapped, where the class was named in a configuration.
        reason = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        mendable = isinstance(reason, ValueError | OSError)
        if not mendable and not _is_multirun():
            raise
        message = re.sub(r"^\[Errno \d+\] ", "", str(reason)) if mendable else repr(reason)
        console.print("\n[bold red]error:[/]", escape(message), soft_wrap=True)
        if _is_multirun() or not isinstance(reason, ConfigError | DirectoryInUse):
            _write_traceback(_run_dir(cfg))
        if not _is_multirun():
            if cfg.verbose:
                raise
            raise SystemExit(2) from error


def _let_the_first_rank_end(seconds: float) -> None:
    """Wait to be ended by the launcher after the first rank, which reports for all ranks."""
    if rank() > 0:
        time.sleep(seconds)


def _write_traceback(run_dir: Path) -> None:
    if _is_multirun() or (run_dir / CONFIG_NAME).is_file():
        write_text(run_dir / ERROR_NAME, traceback.format_exc())
        console.print(f"[dim]traceback in {run_dir / ERROR_NAME}[/]", soft_wrap=True)


@timed("checkpoint")
def checkpoint_to_resume(cfg: DictConfig, run_dir: Path) -> str | None:
    """Return the newest checkpoint of a resumed run that is what was written; None for a fresh run, or before its first one.

    Raises:
        ValueError: there are checkpoints, but none that can be believed, or there must have been some.
    """
    if cfg.resume is None:
        return None
    found = newest_checkpoint(run_dir / "checkpoints")
    later = run_dir / "iterations" / "001"
    keeps = OmegaConf.select(cfg, "callbacks.checkpoint") is not None
    if found is not None and not keeps:
        raise ConfigError(
            f"resume={run_dir} goes on from {found}, which callbacks.checkpoint=null could not read; resume without it."
        )
    if found is None and later.exists() and not keeps:
        raise ConfigError(
            f"resume={run_dir} cannot go on: with callbacks.checkpoint=null only the first iteration can be begun again, and "
            f"{later} is begun; start a new run."
        )
    if found is None and later.exists():
        raise ConfigError(
            f"resume={run_dir} finds no checkpoint in {run_dir / 'checkpoints'}, though {later} was begun after one."
        )
    return None if found is None else str(found)


def fit(trainer: Trainer, module: LightningModule, data: LightningDataModule, checkpoint: str | None) -> None:
    """Train. Raises KeyboardInterrupt and Stopped, which the trainer would turn into an exit with status 1."""
    with _as_asked(trainer):
        trainer.fit(module, data, ckpt_path=checkpoint)


def label(trainer: Trainer, module: LightningModule) -> None:
    """Make pairs and train nothing. Raises as `fit`."""
    with _as_asked(trainer):
        trainer.predict(module, return_predictions=False)


@contextmanager
def _as_asked(trainer: Trainer) -> Iterator[None]:
    try:
        yield
    except Stopped:
        raise
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise


def is_finished(cfg: DictConfig, run_dir: Path) -> bool:
    """Whether a run has nothing left to do: the report, which comes last, is written, weights, if any, are exported, and
    no more iterations are wanted than the run had.
    """
    stored = OmegaConf.load(run_dir / CONFIG_NAME)
    has_weights = cfg.run == "label" or (run_dir / "export" / "config.json").exists()
    is_done = has_weights and (run_dir / REPORT_NAME).exists()
    return is_done and cfg.iteration.num_iterations <= stored.iteration.num_iterations


def print_result(run_dir: Path, num_iterations: int, run: str) -> None:
    """Print a run's table and its last line."""
    paths = sorted(path for path in run_dir.glob("evaluations/*.json") if path.stem.isdecimal())
    evaluations = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    shown = run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir
    scored = reward_model_table(evaluations)
    if scored is not None:
        console.print(scored)
    elif evaluations:
        console.print(result_table(evaluations, read_statistics(run_dir)))
        if (benchmarks := benchmark_table(evaluations)) is not None:
            console.print(benchmarks)
    if seconds := read_seconds(run_dir / SECONDS_NAME):
        console.print(time_line(seconds))
    if warning := reward_warning(read_run(run_dir)):
        console.print(f"[bold red]warning:[/] {escape(warning)}", soft_wrap=True)
    console.print(f"report: {shown / 'report' / 'index.html'}", soft_wrap=True)
    line = result_line([] if run == "label" else evaluations, shown, num_iterations)
    console.print(line.replace("trained", "labelled") if run == "label" else line, soft_wrap=True)
