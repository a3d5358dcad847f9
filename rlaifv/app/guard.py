"""Reject secrets in the settings, which are written to config.yaml, reports and experiment trackers."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from rlaifv.runtime.console import console

SECRET_NAME = re.compile(
    r"(?i)(?:^|[_.-])(?:api_?key|access_?key|private_?key|token|secret|passw(?:or)?d|credentials?)$"
)
# Token formats of the Hugging Face Hub, OpenAI-style APIs, GitHub and AWS.
SECRET_VALUE = re.compile(r"\bhf_\w{20,}|\bsk-[\w-]{20,}|\bgh[opsu]_\w{30,}|\bAKIA[0-9A-Z]{16}\b")
LEAST_CHARS = 8  # a shorter secret would match ordinary words


class RefuseSecrets(Callback):
    """Abort a command whose settings contain a secret, before anything is written; the message does not repeat it.

    Raises SystemExit because Hydra turns other exceptions in callbacks into warnings.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        _refuse(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _refuse(config)


def secret_keys(settings: Mapping[str, str], environment: Mapping[str, str]) -> list[str]:
    """Return the keys of settings that hold a secret.

    A setting counts as secret if its key is named like one, its value has the format of a known token, or its value
    contains the value of an environment variable that is named like a secret.

    >>> secret_keys({"logger.wandb.api_key": "x", "row_tokens": "9", "name": "my s3cr3t-w0rd"}, {"HF_TOKEN": "s3cr3t-w0rd"})
    ['logger.wandb.api_key', 'name']
    """
    known = [
        value for name, value in environment.items() if SECRET_NAME.search(name) and len(value.strip()) >= LEAST_CHARS
    ]
    return [
        key
        for key, value in settings.items()
        if (SECRET_NAME.search(key) and value not in ("", "null"))
        or SECRET_VALUE.search(value)
        or any(secret in value for secret in known)
    ]


def _refuse(config: DictConfig) -> None:
    overrides = (item.lstrip("+~").partition("=") for item in config.hydra.overrides.task)
    settings = dict(_leaves(OmegaConf.to_container(config)))
    settings |= {key: value for key, _, value in overrides}
    found = secret_keys({key: value for key, value in settings.items() if not key.startswith("hydra.")}, os.environ)
    for key in found:
        console.print(
            f"\n[bold red]error:[/] {key} holds a secret, and settings are written down; put it in the environment instead, "
            "as in WANDB_API_KEY=…, where the libraries that need it look for it.",
            soft_wrap=True,
        )
    if found:
        raise SystemExit(2)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, value as text) for every leaf of a configuration; None becomes "null", as in Hydra."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, f"{key}.{name}".lstrip("."))
    else:
        yield key, "null" if value is None else str(value)
