"""Validate a composed configuration before any model loads; every fault is a full sentence with key and value."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from rlaifv.app.bounds import (
    ABOVE_ZERO,
    AT_LEAST,
    BETWEEN,
    CHOICES,
    LARGEST_SEED,
    NULLABLE,
    OTHER_NUMBERS,
    RESERVED,
    SWITCHES,
)
from rlaifv.app.learning_checks import LEARNING_CHECKS
from rlaifv.data.rows import FORMATS

# Only classes under these prefixes may be instantiated: a configuration file is data, not code.
ALLOWED_TARGETS = ("rlaifv.", "lightning.Trainer", "lightning.pytorch.callbacks.", "lightning.pytorch.loggers.")
# Sections that cannot be disabled with `key=null`.
SECTIONS = ("method", "model", "labeler", "divider", "engine", "iteration", "learner", "data", "trainer")


class ConfigError(ValueError):
    """Raised for a configuration that cannot run; the message lists every fault."""


def check_config(cfg: DictConfig) -> None:
    """Reject settings that would fail later or be silently ignored.

    Raises:
        ConfigError: one sentence per fault, each naming its key.
    """
    if faults := config_faults(cfg):
        raise ConfigError("\n".join(faults))


def config_faults(cfg: DictConfig) -> list[str]:
    """Return one sentence per fault. A key with a missing or mistyped value does not hide the faults of other keys."""
    if absent := [name for name in SECTIONS if not isinstance(cfg.get(name), DictConfig)]:
        return [f"{name}=null leaves out a part that no run can do without." for name in absent]
    missing = sorted(OmegaConf.missing_keys(cfg))
    wrong = dict(_type_faults(cfg))
    sound = cfg.copy()  # without mistyped values, which the range checks could not compare
    for key in wrong:
        OmegaConf.update(sound, key, "???", merge=False)
    faults = [f"{key} has no default and must be given, as in {key}=…" for key in missing]
    faults += [*_target_faults(cfg), *wrong.values()]
    for check in CHECKS:
        with suppress(MissingMandatoryValue, InterpolationToMissingValueError):
            faults.extend(check(sound))
    return faults


def _target_faults(node: Any, key: str = "") -> Iterator[str]:
    """Yield a fault for every disallowed `_target_` or special `instantiate` key, also in nested sections and lists."""
    if isinstance(node, DictConfig) and not node._is_none():
        for name in node:
            if OmegaConf.is_missing(node, name):
                continue
            inner = f"{key}.{name!s}".lstrip(".")
            if name == "_target_":
                if not _is_own_class(str(node[name])):
                    yield (
                        f"{inner}={node[name]} is not allowed; a target must be a class, and its name start with one of "
                        f"{', '.join(ALLOWED_TARGETS)}."
                    )
            elif name in ("_convert_", "_recursive_", "_partial_", "_args_"):
                yield f"{inner} is not allowed in a configuration of this project."
            else:
                yield from _target_faults(node[name], inner)
    elif isinstance(node, ListConfig):
        for k, item in enumerate(node):
            yield from _target_faults(item, f"{key}[{k}]")


def _is_own_class(target: str) -> bool:
    """Return whether `target` is a class defined in this project or in Lightning, not one that they merely import."""
    module, _, name = target.rpartition(".")
    if not target.startswith(ALLOWED_TARGETS):
        return False
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and found.__module__.startswith(("rlaifv.", "lightning."))


def _type_faults(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield (key, sentence) for every value of the wrong type."""
    for key in dict.fromkeys((*AT_LEAST, *ABOVE_ZERO, *BETWEEN, *OTHER_NUMBERS)):
        value = OmegaConf.select(cfg, key, default=0)  # some keys exist for certain dividers or data sources only
        if value is None and key in NULLABLE:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            yield key, f"{key}={value!r} must be a number."
        elif key in AT_LEAST and not isinstance(value, int):
            yield key, f"{key}={value!r} must be a whole number."
    for key in SWITCHES:
        if not isinstance(OmegaConf.select(cfg, key, default=False), bool):
            yield key, f"{key}={OmegaConf.select(cfg, key)!r} must be true or false."
    stop = cfg.iteration.decoding.stop
    if not isinstance(stop, ListConfig) or not all(isinstance(text, str) and text for text in stop):
        sentence = f"iteration.decoding.stop={stop!r} must be a list of strings that are not empty, as in ['\\n\\n']."
        yield "iteration.decoding.stop", sentence
    forms = cfg.labeler.other_forms
    if not isinstance(forms, ListConfig) or not all(isinstance(form, str) and "{question}" in form for form in forms):
        yield "labeler.other_forms", f"labeler.other_forms={forms!r} must be a list of wordings that hold {{question}}."
    if not isinstance(cfg.learner.train_parts, ListConfig):
        parts = f"learner.train_parts={cfg.learner.train_parts!r}"
        yield "learner.train_parts", f"{parts} must be a list, as in [projector,language_model]."
    if not isinstance(cfg.learner.lora, DictConfig | None):
        lora = f"learner.lora={cfg.learner.lora!r}"
        yield "learner.lora", f"{lora} must be null, or keywords of an adapter such as {{r:64,lora_alpha:16}}."


def _range_faults(cfg: DictConfig) -> Iterator[str]:
    for key, least in AT_LEAST.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and value < least:
            yield f"{key}={value} must be at least {least}."
    for key in ABOVE_ZERO:
        value = OmegaConf.select(cfg, key)
        if value is not None and value <= 0:
            yield f"{key}={value} must be above 0."
    for key, (least, most) in BETWEEN.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and not least <= value <= most:
            yield f"{key}={value} must be between {least} and {most}."
    for key, choices in CHOICES.items():
        value = OmegaConf.select(cfg, key, default=choices[0])
        if value not in choices:
            yield f"{key}={value} must be one of {', '.join(choices)}."
    for key in ("learner.weight_decay", "learner.nll_weight"):
        value = OmegaConf.select(cfg, key)
        if value is not None and value < 0:
            yield f"{key}={value} must not be negative."


def _seed_faults(cfg: DictConfig) -> Iterator[str]:
    if cfg.seed > LARGEST_SEED:
        yield f"seed={cfg.seed} must be at most {LARGEST_SEED}."


def _top_p_faults(cfg: DictConfig) -> Iterator[str]:
    if not 0 < cfg.iteration.decoding.top_p <= 1:
        yield f"iteration.decoding.top_p={cfg.iteration.decoding.top_p} must be above 0, and at most 1."


def _temperature_faults(cfg: DictConfig) -> Iterator[str]:
    if cfg.iteration.decoding.temperature <= 0:
        yield (
            f"iteration.decoding.temperature={cfg.iteration.decoding.temperature} makes all answers to a prompt equal, so no "
            "pair can be built; it must be above 0."
        )


def _labeler_faults(cfg: DictConfig) -> Iterator[str]:
    idle = cfg.labeler.revision is not None or cfg.labeler.dtype != "auto" or cfg.labeler.trust_remote_code
    if cfg.labeler.path is None and idle:
        yield (
            "labeler.revision, labeler.dtype and labeler.trust_remote_code have no effect without labeler.path; set "
            "labeler=model."
        )


def _share_faults(cfg: DictConfig) -> Iterator[str]:
    shared = OmegaConf.select(cfg, "data.num_iterations")
    if shared is not None and shared < cfg.iteration.num_iterations:
        yield (
            f"data.num_iterations={shared} leaves no prompts for the last of iteration.num_iterations="
            f"{cfg.iteration.num_iterations}."
        )


def _streaming_faults(cfg: DictConfig) -> Iterator[str]:
    if OmegaConf.select(cfg, "data.streaming") and OmegaConf.select(cfg, "data.num_rows") is None:
        yield "data.streaming=true needs data.num_rows, since a stream has no end that could be waited for."


def _candidate_faults(cfg: DictConfig) -> Iterator[str]:
    if cfg.iteration.selection.per_epoch and cfg.run != "label":
        yield from _selection_faults(cfg)
    elif cfg.iteration.selection.by != "labeler" and not cfg.iteration.selection.per_epoch:
        yield f"iteration.selection.by={cfg.iteration.selection.by} has no effect with iteration.selection.per_epoch=0."


def _divider_faults(cfg: DictConfig) -> Iterator[str]:
    if "url" in cfg.divider and (cfg.divider.path is None) == (cfg.divider.url is None):
        yield "divider=chat needs either divider.path=DIR_OR_HUB_ID or divider.url=http://…, not both."
    if cfg.divider.get("url") is not None and cfg.divider.model is None:
        yield f"divider.url={cfg.divider.url} needs divider.model, the model's name on the server."


def _trainer_faults(cfg: DictConfig) -> Iterator[str]:
    for name in RESERVED:
        if name in cfg.trainer:
            yield f"trainer.{name}={cfg.trainer[name]} has no effect, since train.py sets it."


def _format_faults(cfg: DictConfig) -> Iterator[str]:
    if cfg.model.dtype == "float16" and cfg.trainer.precision == "32-true" and cfg.run != "label":
        yield (
            "model.dtype=float16 with trainer.precision=32-true trains without loss scaling, which loses small gradients; set "
            "model.dtype=bfloat16 or float32, or trainer.precision=16-mixed on a GPU."
        )


def _selection_faults(cfg: DictConfig) -> Iterator[str]:
    chosen = f"iteration.selection.per_epoch={cfg.iteration.selection.per_epoch}"
    if cfg.data.num_held_out < 2:
        yield (
            f"{chosen} needs held-out prompts, half of which candidates are chosen on and half of which the report is about; "
            f"data.num_held_out is {cfg.data.num_held_out}. Set it, or iteration.selection.per_epoch=0 to go on with the last "
            "weights of every iteration."
        )
    if not cfg.learner.reset_optimizer and cfg.iteration.selection.by != "last":
        yield (
            f"learner.reset_optimizer=false does not go together with {chosen} and "
            f"iteration.selection.by={cfg.iteration.selection.by}: the optimizer's state would be of other weights than the "
            "chosen ones."
        )
    strategy = str(OmegaConf.select(cfg, "trainer.strategy"))
    if strategy.startswith("fsdp") or "stage_3" in strategy:
        yield f"{chosen} needs whole weights on every device, which trainer.strategy={strategy} does not hold."


def _reward_model_faults(cfg: DictConfig) -> Iterator[str]:
    if cfg.method.reward_model is not None and cfg.iteration.selection.per_epoch:
        yield (
            f"iteration.selection.per_epoch={cfg.iteration.selection.per_epoch} has no meaning for a reward model, which "
            "gives no answers to choose by; set it to 0."
        )


def _given_pairs_faults(cfg: DictConfig) -> Iterator[str]:
    if cfg.run not in cfg.method.runs:
        yield (
            f"run={cfg.run} does not fit the method, which is for run={' or '.join(cfg.method.runs)}. run is a group that "
            f"selects one: run={cfg.run} on the command line, or `override /run: {cfg.run}` in the defaults of a file."
        )
    if cfg.run != "train":
        return
    if OmegaConf.select(cfg, "data.form") is None:
        yield f"run=train needs data that come with pairs: set data to one of {', '.join(FORMATS)}."
    if cfg.iteration.chosen_from is not None:
        yield f"iteration.chosen_from={cfg.iteration.chosen_from} has no effect with run=train: no answer is sampled."
    if cfg.labeler.path is not None and cfg.data.num_held_out == 0:
        yield (
            f"labeler.path={cfg.labeler.path} has no effect with run=train and data.num_held_out=0: there is nothing to label."
        )


def _callback_faults(cfg: DictConfig) -> Iterator[str]:
    callbacks = cfg.get("callbacks") or {}
    if callbacks.get("checkpoint") is not None and callbacks.get("random_state") is None:
        yield (
            "callbacks.random_state=null leaves checkpoints that no run can go on from; set "
            "callbacks.checkpoint=null as well, or leave both."
        )


def _path_faults(cfg: DictConfig) -> Iterator[str]:
    path = OmegaConf.select(cfg, "data.path")
    if isinstance(path, str):
        yield from _data_path_faults(cfg, path)
    for name in (
        "model.path",
        "labeler.path",
        "divider.path",
        "divider.split_path",
        "divider.question_path",
        "iteration.chosen_from",
    ):
        section = name.partition(".")[0]
        path, revision = OmegaConf.select(cfg, name), OmegaConf.select(cfg, f"{section}.revision")
        is_directory = path is not None and Path(path).expanduser().is_dir()
        if path is not None and _looks_local(path) and not is_directory:
            yield f"{name}={path} is not a directory, nor does it have the form of a hub id (owner/name)."
        if is_directory and revision is not None:
            yield f"{name.replace('path', 'revision')}={revision} has no effect, since {name}={path} is a directory."
        elif (
            path is not None
            and not is_directory
            and section in ("model", "labeler")
            and cfg[section].trust_remote_code
            and not _is_commit(revision)
        ):
            yield (
                f"{section}.trust_remote_code=true needs {section}.revision to be a full commit, 40 hexadecimal digits, so "
                f"that the code is the one that was read; it is {revision}."
            )


def _start_faults(cfg: DictConfig) -> Iterator[str]:
    start = cfg.start_from
    if start is None or not _looks_local(start) or Path(start).expanduser().is_dir():
        return
    if not (
        cfg.before and Path(start).absolute().is_relative_to(Path(cfg.run_dir).absolute())
    ):  # made before it is read
        yield f"start_from={start} is not a directory, nor does it have the form of a hub id (owner/name)."


def _is_commit(revision: str | None) -> bool:
    return revision is not None and re.fullmatch("[0-9a-f]{40}", str(revision)) is not None


def _data_path_faults(cfg: DictConfig, path: str) -> Iterator[str]:
    place, revision = Path(path).expanduser(), OmegaConf.select(cfg, "data.revision")
    if OmegaConf.select(cfg, "data.form") is None:
        if not place.is_file():
            yield f"data.path={path} is not a file."
    elif _looks_local(path) and not place.exists():
        yield f"data.path={path} is no file or directory, nor does it have the form of a hub id (owner/name)."
    elif revision is not None and place.exists():
        yield f"data.revision={revision} has no effect, since data.path={path} is on this disk."


def _looks_local(path: str) -> bool:
    return path.startswith((".", "/", "~")) or path.count("/") != 1


CHECKS: tuple[Callable[[DictConfig], Iterator[str]], ...] = (
    *LEARNING_CHECKS,
    _format_faults,
    _range_faults,
    _seed_faults,
    _top_p_faults,
    _temperature_faults,
    _labeler_faults,
    _share_faults,
    _streaming_faults,
    _candidate_faults,
    _given_pairs_faults,
    _reward_model_faults,
    _divider_faults,
    _trainer_faults,
    _callback_faults,
    _path_faults,
    _start_faults,
)
