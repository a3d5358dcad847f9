"""Count the prompts of a run's data, and fit the run's sizes to them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlaifv.app.sizing import Data, Sizes, fit_to_data
from rlaifv.data.rows import Row, RowError
from rlaifv.data.sources import read_prompts
from rlaifv.data.tables import Table, count_rows

# Pairs of published data sets. Of others on the hub a share is not known before they are fetched.
KNOWN_ROWS = {"openbmb/RLAIF-V-Dataset": 83_132, "openbmb/RLHF-V-Dataset": 5_733}
# The data are counted until they have so many times the prompts to be held out.
HELD_OUT_TIMES = 4
KEYS = {
    "num_iterations": "iteration.num_iterations",
    "num_prompts": "iteration.num_prompts",
    "num_held_out": "data.num_held_out",
    "per_epoch": "iteration.selection.per_epoch",
    "min_pairs": "iteration.min_pairs",
}


def size_to_data(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Fit the sizes of a fresh run to its data. Returns sentences about what changed.

    Does nothing if the number of prompts is unknown, or a size has an impossible value.

    Args:
        cfg: of a run, composed.
        overrides: as on the command line; what they name is never changed.

    Raises:
        ValueError: the data, a list of prompts, cannot be read; or a size that was typed is impossible.
    """
    typed = {item.lstrip("+~").partition("=")[0] for item in overrides}
    names = {name for name, key in KEYS.items() if key in typed}
    if "data.num_iterations" in typed:
        names.add("num_iterations")
    values = {name: OmegaConf.select(cfg, key, throw_on_missing=False) for name, key in KEYS.items()}
    if not all(_is_size(name, value) for name, value in values.items()):
        return []  # a drawn world, which has no end, or a fault that the checks name
    wanted, said = Sizes(**values), []
    if cfg.run == "train" and "num_iterations" not in names and wanted.num_iterations > 1:
        is_all = "num_prompts" not in names
        wanted = Sizes(**asdict(wanted) | {"num_iterations": 1} | ({"num_prompts": None} if is_all else {}))
        said.append("run=train takes all pairs in one iteration; iteration.num_iterations=N makes it several.")
    data = _data(cfg, wanted)
    sizes, sentence = (wanted, "") if data is None else fit_to_data(wanted, data, names)
    for name, value in asdict(sizes).items():
        if value != values[name]:
            OmegaConf.update(cfg, KEYS[name], value)
    return [*said, sentence] if sentence else said


def _is_size(name: str, value: object) -> bool:
    least = 0 if name in ("num_held_out", "per_epoch") else 1
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= least
    return is_number or (name == "num_prompts" and value is None)


def num_rows(cfg: DictConfig) -> int | None:
    """Return rows of the data, of which no more prompts can be made; None where it shows only when they are read.

    Raises:
        ValueError: a list of prompts cannot be read.
    """
    path = OmegaConf.select(cfg, "data.path")
    if path is None:
        return None
    if OmegaConf.select(cfg, "data.form") is None:
        return len(read_prompts(Path(path).expanduser(), cfg.data.image_root, cfg.data.turns))
    found = count_rows(Path(path).expanduser()) or KNOWN_ROWS.get(path)
    return min((rows for rows in (cfg.data.num_rows, found) if rows), default=None)


def max_pairs_per_prompt(cfg: DictConfig) -> int:
    """Return how many pairs of a prompt are kept at most: as its stage of pairs has it, or else the rules of pairing."""
    own = [node.max_pairs_per_prompt for node in cfg.method.stages.values() if node and "max_pairs_per_prompt" in node]
    return int(own[0] if own else cfg.iteration.pairing.max_pairs_per_prompt)


def _data(cfg: DictConfig, wanted: Sizes) -> Data | None:
    path = OmegaConf.select(cfg, "data.path")
    if path is None or (_is_list(cfg) and not Path(path).expanduser().is_file()):
        return None  # which the checks refuse
    name, given, reuse = f"data.path={path}", cfg.run == "train", bool(cfg.data.reuse_prompts)
    rows = num_rows(cfg)
    if _is_list(cfg) or not Path(path).expanduser().exists():
        prompts = rows
    else:
        enough = wanted.num_iterations * (wanted.num_prompts or 1) + wanted.num_held_out
        prompts, rows = _distinct(cfg, rows, max(enough, HELD_OUT_TIMES * wanted.num_held_out))
    if not prompts:
        return None
    each = (rows or prompts) / prompts if given else float(max_pairs_per_prompt(cfg))
    return Data(name, prompts, each, given, reuse)


def _distinct(cfg: DictConfig, rows: int | None, enough: int) -> tuple[int | None, int | None]:
    """Return distinct prompts and rows of data on this disk, read until there are `enough` prompts."""
    options = ("revision", "split", "streaming", "num_rows", "image_root")
    try:
        table = Table(cfg.data.form, cfg.data.path, **{name: cfg.data[name] for name in options})
        found, seen = _count(table.rows_and_errors(), enough)
    except ValueError:  # named with its row when the run reads it
        return rows, rows
    return (found, seen) if found < enough else (rows or len(table), len(table))


def _count(rows: Iterable[Row | RowError], enough: int) -> tuple[int, int]:
    """Return distinct prompts, and rows that can be used, until there are `enough` prompts."""
    prompts: set[tuple[object, ...]] = set()
    seen = 0
    for row in rows:
        if isinstance(row, RowError):
            continue
        seen += 1
        images = (image.encode() if isinstance(image, str) else image for image in row.images)
        asked = (row.question, row.system, row.history)
        prompts.add((*asked, *(hashlib.sha256(image).digest() for image in images)))
        if len(prompts) >= enough:
            break
    return len(prompts), seen


def _is_list(cfg: DictConfig) -> bool:
    return OmegaConf.select(cfg, "data.form") is None
