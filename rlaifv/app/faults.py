"""Collect all faults of a run at once: of its settings, its data, and this machine."""

import re
from collections.abc import Iterator, Sequence

import torch
from omegaconf import DictConfig, OmegaConf

from rlaifv.app.checks import ConfigError, config_faults
from rlaifv.app.data_sizes import size_to_data
from rlaifv.runtime.console import console
from rlaifv.runtime.ranks import rank

# Settings of learning that every method uses.
USED_BY_ALL = tuple(f"learner.{name}" for name in ("batch_size", "batch_tokens", "recompute", "train_parts", "lora"))


def size_and_check(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Fit the sizes of a fresh run to its data, print what changed, and refuse what cannot run.

    Args:
        cfg: of the run, which gets the sizes.
        overrides: as on the command line.

    Raises:
        ConfigError: one sentence per fault.
    """
    said, faults = [], []
    if cfg.resume is None:  # else its own settings are sized already
        try:
            said = size_to_data(cfg, overrides)
        except ValueError as error:
            faults.append(str(error))
    faults = [*config_faults(cfg), *faults, *_unused(cfg, overrides), *_machine_faults(cfg)]
    if faults:
        raise ConfigError("\n".join(faults))
    for sentence in said if rank() == 0 else ():  # others would only repeat it
        console.print(sentence, markup=False, soft_wrap=True)


def _unused(cfg: DictConfig, overrides: Sequence[str]) -> Iterator[str]:
    """Say which typed settings of learning and pairing the method has no use for, as `learner.beta` with method=ppo."""
    settings = repr(OmegaConf.to_container(cfg.method, resolve=False))
    used = {*USED_BY_ALL, *re.findall(r"\$\{((?:learner|iteration)\.\w+)", settings)}
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        setting = ".".join(key.split(".")[:2])
        if setting in used:
            continue
        if key.startswith("learner."):
            yield f"{key} has no effect with this method; what its learner knows is under method.learner.module."
        elif setting == "iteration.pairing" and cfg.run != "train":  # whose pairs are given
            yield f"{key} has no effect with this method, which makes no pairs by score."


def _machine_faults(cfg: DictConfig) -> Iterator[str]:
    accelerator, precision = (str(OmegaConf.select(cfg, f"trainer.{name}")) for name in ("accelerator", "precision"))
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        if not cfg.preflight_only:
            yield "trainer.accelerator=gpu, but torch sees no GPU here; trainer=cpu runs without one."
    elif precision == "16-mixed" and (accelerator == "cpu" or not has_gpu):
        yield "trainer.precision=16-mixed needs a GPU; on a CPU, set trainer.precision=bf16-mixed."
    elif accelerator != "cpu" and precision.startswith("bf16") and has_gpu and not torch.cuda.is_bf16_supported(False):
        yield f"trainer.precision={precision}, but this GPU has no bfloat16; set trainer.precision=16-mixed or 32-true."
