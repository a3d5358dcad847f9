"""Refuse secrets among the settings, which are written to config.yaml, reports and trackers."""

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
# Keys of the Hugging Face hub, of OpenAI and its like, of GitHub and of AWS.
SECRET_VALUE = re.compile(r"\bhf_\w{20,}|\bsk-[\w-]{20,}|\bgh[opsu]_\w{30,}|\bAKIA[0-9A-Z]{16}\b")
LEAST_CHARS = 8  # a shorter one would be found in innocent words


class RefuseSecrets(Callback):
    """Ends a command whose settings hold a secret before anything is written, without repeating it.

    Hydra turns exceptions of its callbacks into warnings, but lets an exit pass.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        _refuse(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _refuse(config)


def secret_keys(settings: Mapping[str, str], environment: Mapping[str, str]) -> list[str]:
    """Return the keys of settings that hold a secret: by their name, their look, or since the environment keeps it as one.

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
    """Yield values of a configuration as text, by key; null as Hydra writes it."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, f"{key}.{name}".lstrip("."))
    else:
        yield key, "null" if value is None else str(value)
