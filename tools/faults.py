"""Everything that is wrong with a run, at once: its settings, its data, and what this machine lacks."""

from collections.abc import Iterator, Sequence

import torch
from omegaconf import DictConfig, OmegaConf

from rlaifv.checks import ConfigError, config_faults
from rlaifv.runtime import console, rank
from tools.sizes import size_to_data


def size_and_check(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Fit the sizes of a fresh run to its data, say so, and refuse what cannot run.

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
    wants_gpu = OmegaConf.select(cfg, "trainer.accelerator") == "gpu"
    if wants_gpu and not torch.cuda.is_available() and not cfg.preflight_only:
        yield "trainer.accelerator=gpu, but torch sees no GPU here; trainer=cpu runs without one."
