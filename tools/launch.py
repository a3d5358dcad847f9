"""How a run starts: where it lives, what `resume` means, and how errors of the user reach the user."""

import json
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from zipfile import is_zipfile

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from rlaifv.checks import ConfigError
from rlaifv.report.console import result_line, result_table
from rlaifv.report.run import read_statistics
from rlaifv.runtime import console
from rlaifv.store.atomic import make_directory, write_text
from rlaifv.worlds.shapes_model import WEIGHTS_DIR

OUTPUTS_DIR = Path("outputs")
CONFIG_NAME = "config.yaml"
ERROR_NAME = "error.txt"
# What only a run that has begun to work leaves behind; a refused one may have left its configuration.
WORK_NAMES = ("iterations", "evaluations", "checkpoints", "export")
_DIVIDER_PATH_KEYS = tuple(
    f"divider.{name}" for name in ("path", "split_path", "question_path", "split_prompt", "question_prompt")
)
PATH_KEYS = ("data.path", "model.path", "labeler.path", *_DIVIDER_PATH_KEYS)
# Sections whose keys become keywords of a class; all other keys are read by name, so a new one there would be ignored.
OPEN_SECTIONS = ("callbacks", "data", "divider", "learner.lora", "logger", "trainer")
# Ranks that the first one starts inherit it, so that all of them mean the same directory.
START_VARIABLE = "RLAIFV_STARTED"


def register_resolvers() -> None:
    """The values that configuration files cannot know: a fresh directory, the package's, whether a key is there."""
    OmegaConf.register_new_resolver("fresh_directory", _fresh_directory, replace=True)
    OmegaConf.register_new_resolver("embedded_model", lambda: str(WEIGHTS_DIR), replace=True)
    OmegaConf.register_new_resolver("offline_without_key", _tracks_offline, replace=True)


def _fresh_directory() -> str:
    return str(OUTPUTS_DIR / os.environ.setdefault(START_VARIABLE, datetime.now().strftime("%Y-%m-%d/%H-%M-%S")))


def _tracks_offline() -> bool:
    netrc = Path.home() / ".netrc"
    has_key = "WANDB_API_KEY" in os.environ or (netrc.is_file() and "wandb" in netrc.read_text(errors="ignore"))
    return not has_key or os.environ.get("WANDB_MODE") == "offline"


def run_config(cfg: DictConfig) -> tuple[DictConfig, Path]:
    """The settings of this run and its directory: as composed, or a resumed run's own. Writes nothing.

    Raises:
        ConfigError: `resume` names no run, or stands beside other settings, which could have no effect; a new key that
            nothing reads; or a fresh run in the directory of another one.
    """
    run_dir = _run_dir(cfg)
    if cfg.resume is not None:
        return _stored_config(cfg, run_dir), run_dir
    if unread := _unread_keys():
        raise ConfigError("\n".join(f"{item} adds a key that nothing reads." for item in unread))
    if not cfg.preflight_only and any((run_dir / name).exists() for name in WORK_NAMES):
        raise ConfigError(
            f"{run_dir} holds a run already; resume={run_dir} goes on with it, another run_dir starts anew."
        )
    OmegaConf.set_readonly(cfg, False)
    cfg.run_dir = str(run_dir)
    for key in PATH_KEYS:
        value = OmegaConf.select(cfg, key)
        if isinstance(value, str) and Path(value).expanduser().exists():  # else a hub id, or refused later
            OmegaConf.update(cfg, key, str(Path(value).expanduser().absolute()))
    return cfg, run_dir


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
    others = [item for item in HydraConfig.get().overrides.task if not item.startswith(("resume=", "verbose="))]
    if others:
        raise ConfigError(f"resume takes the run's own settings; beside it, {', '.join(others)} would have no effect.")
    stored = run_dir / CONFIG_NAME
    if not stored.is_file():
        raise ConfigError(f"resume={cfg.resume} is no run directory: {stored} is missing.")
    loaded = OmegaConf.load(stored)
    given = {"run_dir": str(run_dir), "resume": cfg.resume, "verbose": cfg.verbose}
    return OmegaConf.merge(loaded, given)  # type: ignore[return-value]


def _unread_keys() -> list[str]:
    """Overrides that add a key (+key=value) where keys are read by name."""
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


def begin_run(cfg: DictConfig, run_dir: Path) -> None:
    """Make the directory and write the settings where a resume finds them.

    References such as ${run_dir} stay as they are, so that a run which was moved is resumed where it is now.

    Raises:
        OSError: the directory cannot be made or written to.
    """
    make_directory(run_dir)
    (run_dir / ERROR_NAME).unlink(missing_ok=True)
    write_text(run_dir / CONFIG_NAME, OmegaConf.to_yaml(cfg))


@contextmanager
def user_errors(cfg: DictConfig) -> Iterator[None]:
    """Turn errors that a user can mend into one message and exit status 2, and Ctrl-C into exit status 130.

    The traceback goes to error.txt, unless the run was refused before it began. In a multirun any error goes there, and
    the sweep goes on with its other jobs; `tools.sweep` reports the failed ones and sets the exit status.
    """
    try:
        yield
    except KeyboardInterrupt:
        if (_run_dir(cfg) / CONFIG_NAME).is_file():
            console.print(f"\nInterrupted; resume={_run_dir(cfg)} goes on from here.", soft_wrap=True)
        raise SystemExit(130) from None
    except Exception as error:
        # What a class refuses arrives wrapped, where the class was named in a configuration.
        reason = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        mendable = isinstance(reason, ValueError | OSError)
        if not mendable and not _is_multirun():
            raise
        message = re.sub(r"^\[Errno \d+\] ", "", str(reason)) if mendable else repr(reason)
        console.print("\n[bold red]error:[/]", escape(message), soft_wrap=True)
        if _is_multirun() or not isinstance(reason, ConfigError):
            _write_traceback(_run_dir(cfg))
        if not _is_multirun():
            if cfg.verbose:
                raise
            raise SystemExit(2) from error


def _write_traceback(run_dir: Path) -> None:
    if _is_multirun() or (run_dir / CONFIG_NAME).is_file():
        write_text(run_dir / ERROR_NAME, traceback.format_exc())
        console.print(f"[dim]traceback in {run_dir / ERROR_NAME}[/]", soft_wrap=True)


def checkpoint_to_resume(cfg: DictConfig, run_dir: Path) -> str | None:
    """The newest whole checkpoint of a resumed run; None for a fresh run, or where the run ended before its first one."""
    if cfg.resume is None:
        return None
    found = sorted((run_dir / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    # A run that is killed while it writes one leaves a file without an end; sharded checkpoints are directories.
    return next((str(path) for path in found if path.is_dir() or is_zipfile(path)), None)


def is_finished(run_dir: Path) -> bool:
    """Whether a run has nothing left to do: the report, which comes last, is written, and the exported weights are there."""
    return (run_dir / "report" / "index.html").exists() and (run_dir / "export" / "config.json").exists()


def print_result(run_dir: Path, num_iterations: int) -> None:
    """The table of a run, and its last line."""
    evaluations = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(run_dir.glob("evaluations/*.json"))]
    shown = run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir
    if evaluations:
        console.print(result_table(evaluations, read_statistics(run_dir)))
    console.print(f"report: {shown / 'report' / 'index.html'}", soft_wrap=True)
    console.print(result_line(evaluations, shown, num_iterations), soft_wrap=True)
