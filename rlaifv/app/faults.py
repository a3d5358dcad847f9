"""Collect all faults of a run at once: of its settings, its data, and this machine."""

from collections.abc import Iterator, Sequence

import torch
from omegaconf import DictConfig, OmegaConf

from rlaifv.app.checks import ConfigError, config_faults
from rlaifv.app.data_sizes import size_to_data
from rlaifv.runtime.console import console
from rlaifv.runtime.ranks import rank


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
    faults = [*config_faults(cfg), *faults, *_machine_faults(cfg)]
    if faults:
        raise ConfigError("\n".join(faults))
    for sentence in said if rank() == 0 else ():  # others would only repeat it
        console.print(sentence, markup=False, soft_wrap=True)


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
