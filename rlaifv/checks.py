"""What is refused after the configuration is composed, before a model loads: in full sentences, with key and value."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

# `instantiate` may build these and nothing else: a configuration file is data, not code.
ALLOWED_TARGETS = ("rlaifv.", "lightning.Trainer", "lightning.pytorch.callbacks.", "lightning.pytorch.loggers.")
AT_LEAST = {
    "iteration.num_iterations": 1,
    "iteration.num_prompts": 1,
    "iteration.num_responses": 2,
    "iteration.epochs": 1,
    "iteration.min_pairs": 1,
    "iteration.shard_prompts": 1,
    "iteration.decoding.max_new_tokens": 1,
    "iteration.pairing.max_pairs_per_prompt": 1,
    "learner.batch_size": 1,
    "learner.weight_decay": 0,
    "learner.row_tokens": 0,
    "engine.batch_tokens": 1,
    "divider.max_claims": 1,
    "data.num_held_out": 0,
    "evaluation.num_examples": 0,
}
ABOVE_ZERO = ("learner.beta", "learner.lr", "learner.changed_weight", "iteration.pairing.margin")
CHOICES = {
    "model.dtype": ("float32", "bfloat16", "float16", "auto"),
    "labeler.dtype": ("float32", "bfloat16", "float16", "auto"),
    "model.attention": ("sdpa", "eager", "flex_attention"),
    "learner.reduction": ("sum", "mean", "weighted"),
    "learner.schedule": ("cosine", "linear", "constant"),
}


class ConfigError(ValueError):
    """A configuration that cannot run; the message lists everything that is wrong with it."""


def check_config(cfg: DictConfig) -> None:
    """Refuse what could only fail later, or would be ignored in silence.

    Raises:
        ConfigError: one sentence per fault, each naming its key.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError("\n".join(f"{key} has no default and must be given, as in {key}=…" for key in missing))
    faults = [*_target_faults(cfg), *_type_faults(cfg)]
    if not faults:  # comparisons make sense for numbers only
        faults = [*_range_faults(cfg), *_combination_faults(cfg)]
    if faults:
        raise ConfigError("\n".join(faults))


def _target_faults(node: Any, key: str = "") -> Iterator[str]:
    """Also looks inside lists, and at keys of `instantiate` that could smuggle a target in."""
    if isinstance(node, DictConfig):
        for name in node:
            inner = f"{key}.{name!s}".lstrip(".")
            if name == "_target_":
                target = str(node[name])
                if not target.startswith(ALLOWED_TARGETS):
                    yield f"{inner}={target} is not allowed; targets must start with one of {', '.join(ALLOWED_TARGETS)}."
            elif name in ("_convert_", "_recursive_", "_partial_", "_args_"):
                yield f"{inner} is not allowed in a configuration of this project."
            else:
                yield from _target_faults(node[name], inner)
    elif isinstance(node, ListConfig):
        for k, item in enumerate(node):
            yield from _target_faults(item, f"{key}[{k}]")


def _type_faults(cfg: DictConfig) -> Iterator[str]:
    for key in (*AT_LEAST, *ABOVE_ZERO, "seed", "iteration.max_drop_rate", "learner.label_smoothing"):
        value = OmegaConf.select(cfg, key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield f"{key}={value!r} must be a number."
    if not isinstance(cfg.seed, int) or isinstance(cfg.seed, bool):
        yield f"seed={cfg.seed!r} must be a whole number."


def _range_faults(cfg: DictConfig) -> Iterator[str]:
    for key, least in AT_LEAST.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and value < least:
            yield f"{key}={value} must be at least {least}."
    for key in ABOVE_ZERO:
        if OmegaConf.select(cfg, key) <= 0:
            yield f"{key}={OmegaConf.select(cfg, key)} must be above 0."
    for key, choices in CHOICES.items():
        if OmegaConf.select(cfg, key) not in choices:
            yield f"{key}={OmegaConf.select(cfg, key)} must be one of {', '.join(choices)}."
    if not 0 <= cfg.learner.label_smoothing < 0.5:
        yield f"learner.label_smoothing={cfg.learner.label_smoothing} must be from 0 up to, but not including, 0.5."
    if not 0 <= cfg.learner.warmup_ratio <= 1:
        yield f"learner.warmup_ratio={cfg.learner.warmup_ratio} must be between 0 and 1."
    if not 0 <= cfg.iteration.max_drop_rate <= 1:
        yield f"iteration.max_drop_rate={cfg.iteration.max_drop_rate} must be between 0 and 1."
    if cfg.seed < 0:
        yield f"seed={cfg.seed} must not be negative."


def _combination_faults(cfg: DictConfig) -> Iterator[str]:
    if cfg.iteration.decoding.temperature <= 0:
        yield (
            f"iteration.decoding.temperature={cfg.iteration.decoding.temperature} makes all answers to a prompt equal, so no "
            "pair can be built; it must be above 0."
        )
    if (cfg.learner.reduction == "weighted") != (cfg.learner.changed_weight != 1):
        yield (
            f"learner.changed_weight={cfg.learner.changed_weight} and learner.reduction={cfg.learner.reduction} do not go "
            "together: weights other than 1 need reduction=weighted, and the other way round."
        )
    unknown = set(cfg.learner.train_parts) - {"vision", "projector", "language_model"}
    if unknown or not cfg.learner.train_parts:
        yield (
            f"learner.train_parts={list(cfg.learner.train_parts)} must name at least one of vision, projector and "
            "language_model, and nothing else."
        )
    if cfg.labeler.path is None and (cfg.labeler.revision is not None or cfg.labeler.dtype != "auto"):
        yield "labeler.revision and labeler.dtype have no effect without labeler.path; set labeler=model."
    path = OmegaConf.select(cfg, "data.path")
    if path is not None and not Path(path).expanduser().is_file():
        yield f"data.path={path} is not a file."
    for key in ("model.path", "labeler.path"):
        value = OmegaConf.select(cfg, key)
        if value is not None and _looks_local(value) and not Path(value).expanduser().is_dir():
            yield f"{key}={value} is not a directory, nor does it have the form of a hub id (owner/name)."


def _looks_local(path: str) -> bool:
    return path.startswith((".", "/", "~")) or path.count("/") != 1
