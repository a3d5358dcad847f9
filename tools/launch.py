"""How a run starts: where it lives, what `resume` means, and how errors of the user reach the user."""

import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from rlaifv.checks import ConfigError
from rlaifv.report.console import result_line, result_table
from rlaifv.report.run import read_statistics
from rlaifv.runtime import console
from rlaifv.store.atomic import write_text
from rlaifv.worlds.shapes_model import WEIGHTS_DIR

OUTPUTS_DIR = Path("outputs")
CONFIG_NAME = "config.yaml"


def register_resolvers() -> None:
    """The values that configuration files cannot know: the run's directory, the package's, whether a key is there."""
    OmegaConf.register_new_resolver("run_directory", _run_directory, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("embedded_model", lambda: str(WEIGHTS_DIR), replace=True)
    OmegaConf.register_new_resolver("offline_without_key", _tracks_offline, replace=True)


def _run_directory(resume: str | None) -> str:
    if resume is None:
        return str(OUTPUTS_DIR / datetime.now().strftime("%Y-%m-%d/%H-%M-%S"))
    if resume != "latest":
        return resume
    runs = sorted(OUTPUTS_DIR.glob(f"*/*/{CONFIG_NAME}"))
    if not runs:
        raise ConfigError(f"resume=latest found no run in {OUTPUTS_DIR.absolute()}.")
    return str(runs[-1].parent)


def _tracks_offline() -> bool:
    netrc = Path.home() / ".netrc"
    has_key = "WANDB_API_KEY" in os.environ or (netrc.is_file() and "wandb" in netrc.read_text(errors="ignore"))
    return not has_key or os.environ.get("WANDB_MODE") == "offline"


def run_config(cfg: DictConfig) -> tuple[DictConfig, Path]:
    """The settings of this run and its directory: as composed, or a resumed run's own.

    Raises:
        ConfigError: `resume` names no run, or other settings were given beside it, which could have no effect.
    """
    run_dir = Path(HydraConfig.get().runtime.output_dir).absolute()
    if cfg.resume is None:
        OmegaConf.set_readonly(cfg, False)
        cfg.run_dir = str(run_dir)
        return cfg, run_dir
    others = [item for item in HydraConfig.get().overrides.task if not item.startswith(("resume=", "verbose="))]
    if others:
        raise ConfigError(f"resume takes the run's own settings; beside it, {', '.join(others)} would have no effect.")
    stored = run_dir / CONFIG_NAME
    if not stored.is_file():
        raise ConfigError(f"resume={cfg.resume} is no run directory: {stored} is missing.")
    loaded = OmegaConf.load(stored)
    assert isinstance(loaded, DictConfig)
    return OmegaConf.merge(loaded, {"run_dir": str(run_dir), "resume": cfg.resume, "verbose": cfg.verbose}), run_dir  # type: ignore[return-value]


def save_config(cfg: DictConfig, run_dir: Path) -> None:
    """Write the composed settings, interpolations resolved, where a resume finds them."""
    run_dir.mkdir(parents=True, exist_ok=True)
    text = OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), resolve=True)
    write_text(run_dir / CONFIG_NAME, text)


@contextmanager
def user_errors(cfg: DictConfig) -> Iterator[None]:
    """Turn errors that a user can mend into one message and exit status 2; the traceback goes to error.txt.

    In a multirun the error travels on, so that the sweep goes through its other jobs and fails at the end.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        console.print("\n[bold red]error:[/]", escape(str(error)), soft_wrap=True)
        run_dir = Path(HydraConfig.get().runtime.output_dir).absolute()
        if run_dir.is_dir():
            write_text(run_dir / "error.txt", traceback.format_exc())
            console.print(f"[dim]traceback in {run_dir / 'error.txt'}[/]", soft_wrap=True)
        if cfg.verbose or HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        raise SystemExit(2) from error


def checkpoint_to_resume(cfg: DictConfig, run_dir: Path) -> str | None:
    """The newest checkpoint of a resumed run; None for a fresh run, or where the run ended before its first one."""
    last = run_dir / "checkpoints" / "last.ckpt"
    return str(last) if cfg.resume is not None and last.exists() else None


def is_finished(run_dir: Path, num_iterations: int) -> bool:
    """Whether a run has nothing left to do: its last measurement and its exported weights are there."""
    last = run_dir / "evaluations" / f"{num_iterations:03d}.json"
    return last.exists() and (run_dir / "export" / "config.json").exists()


def print_result(run_dir: Path, num_iterations: int) -> None:
    """The table of a run, and its last line."""
    evaluations = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(run_dir.glob("evaluations/*.json"))]
    shown = run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir
    if evaluations:
        console.print(result_table(evaluations, read_statistics(run_dir)))
    console.print(f"report: {shown / 'report' / 'index.html'}", soft_wrap=True)
    console.print(result_line(evaluations, shown, num_iterations), soft_wrap=True)
