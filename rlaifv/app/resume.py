"""Check what changed when a run is resumed: settings overridden together with `resume`, and the run's input files.

`RULES` is the table in docs/reliability.md, section "Resume"; a test keeps the two in sync.
"""

import hashlib
import json
import logging
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from rlaifv.app.checks import ConfigError
from rlaifv.runtime.phases import timed
from rlaifv.store.atomic import write_json

Rule = Literal["refuse", "warn", "accept"]
# The longest matching key prefix applies.
RULES: dict[str, tuple[Rule, str]] = {
    "seed": ("refuse", "decides everything that is drawn"),
    "run_dir": ("refuse", "is where the resumed run lies"),
    "experiment": ("refuse", "selects many settings at once"),
    "method": ("refuse", "names the stages and the learner"),
    "before": ("refuse", "names the runs that came first"),
    "start_from": ("refuse", "is what the iterations so far were trained from"),
    "model": ("refuse", "made the answers and is half trained"),
    "labeler": ("refuse", "judged the claims so far"),
    "divider": ("refuse", "made the claims so far"),
    "data": ("refuse", "gave the prompts so far"),
    "evaluation": ("accept", "changes the examples of measurements to come"),
    "engine": ("accept", "changes time, memory and disk, not results"),
    "iteration": ("refuse", "made the pairs so far"),
    "iteration.num_iterations": ("accept", "may rise, or fall to what has begun"),
    "learner": ("refuse", "is in the optimizer's state and in the schedule"),
    "trainer": ("refuse", "decides what a step computes"),
    "trainer.accelerator": ("warn", "rounds differently; the same pairs, other last digits"),
    "trainer.devices": ("warn", "makes the same pairs; a step reads batch_size of them on every process"),
    "trainer.strategy": ("warn", "makes the same pairs; a step reads batch_size of them on every process"),
    "trainer.num_nodes": ("warn", "makes the same pairs; a step reads batch_size of them on every process"),
    "trainer.deterministic": ("warn", "rounds differently; the same pairs, other last digits"),
    "trainer.log_every_n_steps": ("accept", "changes what is shown"),
    "callbacks": ("accept", "changes what is kept and shown"),
    "callbacks.random_state": ("refuse", "is in every checkpoint"),
    "logger": ("accept", "changes what is shown"),
    "run": ("refuse", "decides what the run does"),
    "min_free_bytes": ("accept", "changes when a run stops"),
    "rank_timeout_seconds": ("accept", "changes when a run stops"),
    "verbose": ("accept", "changes what is shown"),
    "preflight_only": ("accept", "changes nothing of the run"),
    "resume": ("accept", "names the run"),
}
INPUTS_NAME = "inputs.json"
# Weights, tokenizer and processor files of a model.
MODEL_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")

logger = logging.getLogger(__name__)


def rule_of(key: str) -> tuple[Rule, str]:
    """Return the rule for a setting and the reason for it."""
    while key not in RULES:
        key, _, _ = key.rpartition(".")
        if not key:
            return "refuse", "is not known to leave the run as it was"
    return RULES[key]


def lacking_keys(stored: Any, composed: DictConfig, besides: Collection[str], section: str = "") -> list[str]:
    """Return the keys of `composed` that are missing from the stored settings of a run.

    For a section that is missing entirely, only the key of the section is returned.

    Args:
        stored: settings of the run; a node that is not a section has no missing keys.
        composed: settings of this version.
        besides: sections to skip, whose keys are keyword arguments of a class with its own defaults.
        section: dotted key of the section being compared.
    """
    if not isinstance(stored, DictConfig):
        return []
    found = []
    for name in composed:
        key, node = f"{section}.{name!s}".lstrip("."), composed._get_node(name)
        if key in besides:
            continue
        if name not in [*stored]:  # `in` on the config would skip keys that are MISSING
            found.append(key)
        elif isinstance(node, DictConfig) and not node._is_none():
            found += lacking_keys(stored._get_node(name), node, besides, key)
    return found


def apply_overrides(stored: DictConfig, composed: DictConfig, overrides: list[str], run_dir: Path) -> DictConfig:
    """Return the stored settings of a run with the overrides of the resuming command applied.

    Args:
        stored: settings of the run.
        composed: the defaults with the overrides applied; the source of the new values.
        overrides: the overrides on the command line.
        run_dir: directory of the run.

    Raises:
        ConfigError: an override is not allowed on resume; the message has one sentence per setting, with both values.
    """
    faults = []
    merged = stored.copy()
    for item in overrides:
        key = item.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")
        if key in ("resume", "verbose", "preflight_only"):
            continue
        old, new = OmegaConf.select(stored, key), OmegaConf.select(composed, key)
        if key == "experiment":  # an experiment does not appear in the composed config
            new = item.partition("=")[2]
        for inner, before, after in _differences(key, old, new):
            rule, reason = rule_of(inner)
            if rule == "refuse":
                faults.append(f"{inner} was {before!r} and is now {after!r}; it {reason}. Resume without it.")
            elif rule == "warn":
                logger.warning("%s was %r and is now %r; it %s.", inner, before, after, reason)
        OmegaConf.update(merged, key, new, merge=False, force_add=True)
    faults += _iteration_faults(stored, merged, run_dir)
    if faults:
        raise ConfigError("\n".join(faults))
    return merged


def _differences(key: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """Return (key, old, new) for every leaf that differs; None stands for a missing value."""
    if isinstance(old, DictConfig) and isinstance(new, DictConfig):
        names = dict.fromkeys([*old, *new])
        return [d for name in names for d in _differences(f"{key}.{name!s}", old.get(name), new.get(name))]
    before, after = (OmegaConf.to_container(one) if OmegaConf.is_config(one) else one for one in (old, new))
    return [] if before == after else [(key, before, after)]


def _iteration_faults(stored: DictConfig, merged: DictConfig, run_dir: Path) -> list[str]:
    before, after = stored.iteration.num_iterations, merged.iteration.num_iterations
    begun = len([path for path in (run_dir / "iterations").glob("*") if path.name.isdecimal()])
    if not isinstance(after, int) or before == after:
        return []
    if after < begun:
        return [f"iteration.num_iterations was {before} and is now {after}, but {begun} iterations have begun."]
    if OmegaConf.select(stored, "data.num_iterations") is not None and stored.iteration.num_prompts is None:
        return [
            f"iteration.num_iterations was {before} and is now {after}, but the prompts of {stored.data.path} were shared out "
            f"among {before}; start a new run, or one with iteration.num_prompts."
        ]
    return []


@timed("digest")
def check_inputs(cfg: DictConfig, run_dir: Path) -> None:
    """Compare the digests of a run's input files with those recorded when it began; a new run records them.

    Raises:
        ConfigError: a file has changed; the message names the key and both digests.
    """
    path = run_dir / INPUTS_NAME
    found = _digests(cfg)
    recorded = json.loads(path.read_text(encoding="utf-8")) if path.exists() else found
    faults = [
        f"{key}={OmegaConf.select(cfg, key)} has changed since the run began: its SHA-256 was {recorded.get(key)}, and is now "
        f"{found.get(key)}."
        for key in sorted({*recorded, *found})
        if recorded.get(key) != found.get(key)
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    if not path.exists():
        write_json(path, found)


def _digests(cfg: DictConfig) -> dict[str, str]:
    """Return the SHA-256 of every local input file or directory by key; hub ids are identified by revision instead."""
    found = {}
    for key in ("data.path", "model.path", "labeler.path", "iteration.chosen_from"):
        value = OmegaConf.select(cfg, key)
        path = None if value is None else Path(str(value)).expanduser()
        if path is not None and path.exists():
            files = [path] if path.is_file() else sorted({f for p in MODEL_PATTERNS for f in path.glob(p)})
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                of_files = pool.map(_digest_of_file, files)
            lines = (f"{file.name}\0{digest}\0" for file, digest in zip(files, of_files, strict=True))
            found[key] = hashlib.sha256("".join(lines).encode()).hexdigest()
    return found


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
