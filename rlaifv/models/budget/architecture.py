"""What a model is made of, known before any of its weights is downloaded or held in memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from rlaifv.models.families import PARTS, family_of
from rlaifv.models.loading import load_config

# Configs of models that the shipped experiments name, so that their size is known offline.
DESCRIPTIONS_DIR = Path(__file__).parent / "architectures"

_SINGLE_FILE, _INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


class PartSize(NamedTuple):
    """Numbers of parameters of one part of a model."""

    name: str
    total: int
    trainable: int


def architecture_config(path: str, revision: str | None = None) -> PretrainedConfig:
    """Return the config of a model, without touching the network.

    Args:
        path: a local directory in the hub's layout, or a hub id; of an id that is not in the local hub cache, the last
            part names one of the descriptions shipped in `DESCRIPTIONS_DIR`, in any case.
        revision: of a hub id.

    Raises:
        ValueError: the config is broken, or is neither here nor shipped.
    """
    directory = Path(path).expanduser()
    if directory.is_dir():
        try:
            return load_config(str(directory), is_offline=True)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"The directory model.path={path!r} holds no readable config.json: {error}") from error
    try:
        return load_config(path, revision, is_offline=True)
    except (OSError, ValueError, KeyError):
        description = DESCRIPTIONS_DIR / f"{path.rsplit('/', 1)[-1].lower()}.json"
    if description.is_file():
        return AutoConfig.for_model(**json.loads(description.read_text()))
    shipped = ", ".join(sorted(file.stem for file in DESCRIPTIONS_DIR.glob("*.json")))
    raise ValueError(
        f"The size of model.path={path!r} is unknown: it is no local directory, not in the hub cache, and not among "
        f"the shipped descriptions ({shipped}). Run `hf download {path} config.json` first, or give the directory that "
        "holds the model."
    )


def weights_on_disk(path: str, revision: str | None = None) -> bool:
    """Return whether all safetensors files of a model are in its directory or in the local hub cache."""
    directory = Path(path).expanduser()

    def find(name: str) -> Path | None:
        if directory.is_dir():
            return directory / name if (directory / name).is_file() else None
        try:
            cached = try_to_load_from_cache(path, name, revision=revision)
        except HFValidationError:
            return None
        return Path(cached) if isinstance(cached, str) else None

    if find(_SINGLE_FILE):
        return True
    index = find(_INDEX_FILE)
    return index is not None and all(map(find, set(json.loads(index.read_text())["weight_map"].values())))


def build_on_meta(config: PretrainedConfig) -> PreTrainedModel:
    """Return the model with every shape but no storage; takes well under a second for any size."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)
    return model


def parameter_table(model: nn.Module, trainable: Callable[[str], bool] | None = None) -> list[PartSize]:
    """Count a model's parameters by part: vision, projector, language_model, head, and adapters where it has any.

    Args:
        model: of a known family, on any device; or the PEFT model around one.
        trainable: tells from a parameter's name (as in `named_parameters`) whether it trains; `requires_grad` without.

    Returns:
        One row per part, parts without parameters (a tied head) included. A tied parameter counts once.

    Raises:
        ValueError: the family is unknown, or a parameter belongs to none of its parts.
    """
    family = family_of(model.config)  # type: ignore[arg-type]
    total: dict[str, int] = dict.fromkeys(PARTS, 0)
    trains = dict(total)
    for name, parameter in model.named_parameters():
        part = "adapters" if ".lora_" in name else family.part_of(name.removeprefix("base_model.model."))
        total[part] = total.get(part, 0) + parameter.numel()
        if trainable(name) if trainable else parameter.requires_grad:
            trains[part] = trains.get(part, 0) + parameter.numel()
    return [PartSize(part, count, trains.get(part, 0)) for part, count in total.items()]
