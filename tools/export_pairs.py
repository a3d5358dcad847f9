"""Export the preference pairs of a run, with their provenance, in the format of another project.

python tools/export_pairs.py run_dir=RUN format=trl out=DIR                  for TRL's DPOTrainer
python tools/export_pairs.py run_dir=RUN format=rlaifv out=DIR               in the schema of openbmb/RLAIF-V-Dataset
python tools/export_pairs.py run_dir=RUN format=llamafactory out=DIR         JSON, images and dataset_info.json
python tools/export_pairs.py run_dir=RUN format=trl out=DIR iteration=2      one iteration, counted from 0
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

sys.path.insert(0, str(Path(__file__).parent.parent))

from rlaifv.app.arguments import parse_options, refuse
from rlaifv.app.launch import CONFIG_NAME
from rlaifv.data.exports import iterations_of, read_examples, write_pairs
from rlaifv.runtime.console import console


@dataclass
class Options:
    """Command-line options; see the module docstring."""

    run_dir: str = MISSING
    format: str = MISSING
    out: str = MISSING
    iteration: str = "all"


def main(arguments: Sequence[str]) -> int:
    """Export the pairs, print their number, and return the exit status."""
    try:
        given = parse_options(Options, __doc__, arguments)
        run_dir, out = Path(given.run_dir).expanduser(), Path(given.out).expanduser()
        iterations = list(iterations_of(run_dir)) if given.iteration == "all" else [_number(given.iteration)]
        if not iterations:
            raise ValueError(f"{run_dir} has no finished iteration.")
        about = _about(run_dir)
        examples = [example for k in iterations for example in read_examples(run_dir, k, about)]
        write_pairs(given.format, examples, out)
    except (ValueError, OSError) as error:
        return refuse(error)
    what = f"iteration {iterations[0]}" if len(iterations) == 1 else f"{len(iterations)} iterations"
    console.print(f"{len(examples)} pairs of {what} written to {out}", soft_wrap=True)
    return 0


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"iteration={text} must be a number counted from 0, or all.")
    return int(text)


def _about(run_dir: Path) -> dict[str, Any]:
    """Return what the run's settings say about its models, without values that are None."""
    path = run_dir / CONFIG_NAME
    if not path.is_file():
        raise ValueError(f"{run_dir} is no run directory: {path} is missing.")
    cfg = OmegaConf.load(path)
    about = {
        "run": run_dir.absolute().name,
        "model": cfg.model.path,
        "model_revision": OmegaConf.select(cfg, "model.revision"),
        "labeler": cfg.labeler.path or "self",
        "labeler_revision": OmegaConf.select(cfg, "labeler.revision"),
        "labeler_error_rate": OmegaConf.select(cfg, "labeler.error_rate") or None,
        "chosen_from": OmegaConf.select(cfg, "iteration.chosen_from"),
        "divider": cfg.divider.get("_target_", "").rpartition(".")[2],
    }
    return {name: value for name, value in about.items() if value is not None}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
