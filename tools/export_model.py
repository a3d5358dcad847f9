"""Export the weights of a finished run with a model card.

    python tools/export_model.py run_dir=RUN out=DIR
    python tools/export_model.py run_dir=RUN out=DIR names=original     for vLLM, lmms-eval and older transformers

    run_dir=RUN         a finished run
    out=DIR             output directory; must not exist
    names=current       names of the weights: current, as written by the installed transformers, or original, as in the
                        Hub's LLaVA checkpoints (vision_tower.vision_model.…); other families have one set of names.
                        With original, configuration files are written for transformers 4 too
    license=other       licence identifier for the card

Writes weights, processor, chat template and README.md in the Hub's layout. Adapters are merged; those of a LoRA run are
also written separately to DIR/adapter.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

sys.path.insert(0, str(Path(__file__).parent.parent))

from rlaifv.app.arguments import parse_options, refuse
from rlaifv.app.launch import ADAPTER_NAME, CONFIG_NAME, REPORT_NAME, register_resolvers
from rlaifv.models.key_names import original_name
from rlaifv.models.loading import rename_tensors
from rlaifv.models.older_layout import write_older_layout
from rlaifv.report.card import model_card
from rlaifv.report.run import read_run
from rlaifv.runtime.console import console, set_up_logging
from rlaifv.store.atomic import make_directory, write_json, write_text

INDEX_NAME = "model.safetensors.index.json"


@dataclass
class Options:
    """Command-line options; see the module docstring."""

    run_dir: str = MISSING
    out: str = MISSING
    names: str = "current"
    license: str = "other"


def main(arguments: Sequence[str] | None = None) -> None:
    """Export the run that the command line names."""
    set_up_logging()
    register_resolvers()
    try:
        options = parse_options(Options, __doc__, sys.argv[1:] if arguments is None else arguments)
        export(Path(options.run_dir), Path(options.out), options.names, options.license)
    except (ValueError, OSError) as error:
        raise SystemExit(refuse(error)) from error
    console.print(f"written to {options.out}", soft_wrap=True)


def export(run_dir: Path, out: Path, names: str, license_name: str) -> None:
    """Export a run; see the module docstring.

    Raises:
        ValueError: the run is not finished, `out` already exists, or `names` is unknown.
        OSError: a file cannot be written.
    """
    if names not in ("current", "original"):
        raise ValueError(f"names={names} must be one of current, original.")
    if not (run_dir / REPORT_NAME).exists() or not (run_dir / "export" / "config.json").exists():
        raise ValueError(f"run_dir={run_dir} holds no finished run.")
    if out.exists():
        raise ValueError(f"out={out} is there already.")
    source = run_dir / "export"
    settings: Any = OmegaConf.to_container(OmegaConf.load(run_dir / CONFIG_NAME), resolve=True)
    make_directory(out.absolute())
    model_type = json.loads((source / "config.json").read_text(encoding="utf-8"))["model_type"]
    for path in sorted(source.iterdir()):
        if names == "original" and path.suffix == ".safetensors":
            rename_tensors(path, out / path.name, partial(original_name, model_type=model_type))
        elif names == "original" and path.name == INDEX_NAME:
            index = json.loads(path.read_text(encoding="utf-8"))
            index["weight_map"] = {original_name(name, model_type): file for name, file in index["weight_map"].items()}
            write_json(out / path.name, index)
        else:
            shutil.copyfile(path, out / path.name)
    if (run_dir / ADAPTER_NAME).is_dir():
        shutil.copytree(run_dir / ADAPTER_NAME, out / "adapter")
    if names == "original":
        write_older_layout(out)
    write_text(out / "README.md", model_card(read_run(run_dir), settings, license_name))


if __name__ == "__main__":
    main()
