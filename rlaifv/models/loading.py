"""Load and export weights. This is the only module that loads weights, or runs a model's own code if allowed."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, get_args

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
)
from transformers.utils import is_bitsandbytes_available

from rlaifv.models.families import FAMILIES, check_family, family_of, missing_architecture
from rlaifv.models.trust import check_files
from rlaifv.runtime.phases import timed

logger = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16", "float16", "auto"]
Quantization = Literal["none", "nf4"]
Part = Literal["vision", "projector", "language_model"]


def load_config(
    path: str, revision: str | None = None, trust_remote_code: bool = False, is_offline: bool = False
) -> PretrainedConfig:
    """Return the config of a model, after `trust.check_files`.

    Args:
        path: a local directory in the hub's layout, or a hub id.
        revision: commit, tag or branch of a hub id.
        trust_remote_code: as for `load_model`.
        is_offline: whether to look at the local cache of the hub only.

    Raises:
        ValueError, OSError, KeyError: there is no config, or none that is known or may be loaded.
    """
    check_files(path, revision, trust_remote_code, is_offline)
    # Without a plain no, transformers would ask the terminal.
    return AutoConfig.from_pretrained(
        path, revision=revision, trust_remote_code=trust_remote_code, local_files_only=is_offline
    )


@timed("load")
def load_model(
    path: str,
    revision: str | None = None,
    dtype: Dtype = "auto",
    attention: str = "sdpa",
    trust_remote_code: bool = False,
    quantization: Quantization = "none",
) -> tuple[nn.Module, Any]:
    """Load a transformers image-text-to-text model and its processor.

    Args:
        path: a local directory in the hub's layout, or a hub id.
        revision: commit, tag or branch of a hub id; pin a commit for a run that must be repeatable.
        dtype: of the weights; "auto" takes the checkpoint's.
        attention: "sdpa", "eager" or "flex_attention"; "auto" takes the fastest that the model's own code prefers.
        trust_remote_code: whether Python files of the model run, of a directory or of a hub id pinned by a full commit.
        quantization: "nf4" keeps the language model's linear layers in 4 bits (QLoRA, arXiv 2305.14314), which only adapters
            can train; needs bitsandbytes.

    Raises:
        ValueError: the directory or id holds no such model, or one that cannot be run here, or asks for code that may not.
    """
    where = str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path
    try:
        if not trust_remote_code and (needed := missing_architecture(where)):
            raise ValueError(needed)
        config = load_config(where, revision, trust_remote_code)
        check_family(config)
        processor = AutoProcessor.from_pretrained(where, revision=revision, trust_remote_code=trust_remote_code)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            where,
            revision=revision,
            dtype=dtype,
            attn_implementation=None if attention == "auto" else attention,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            quantization_config=None if quantization == "none" else _in_four_bits(config, dtype),
        )
        model, found = loaded
        if found["missing_keys"]:  # transformers would fill them with random numbers
            names = sorted(found["missing_keys"])
            raise ValueError(f"its weights lack {len(names)} tensors of the model, {names[0]} among them.")
    except Exception as error:  # files that nobody vouches for make loaders fail in a dozen ways
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"model.path={path!r} (revision {revision}) could not be loaded as an image-text-to-text model: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    for module in model.modules():  # a layout of some CPUs for inference, which gives no gradients afterwards
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if attention == "auto":
        logger.info("model.attention=auto took %s for %s.", model.config._attn_implementation, path)
    return model.eval(), processor


@timed("load")
def load_chat_model(path: str, revision: str | None = None, dtype: Dtype = "auto") -> tuple[nn.Module, Any]:
    """Load a model that answers text, and its tokenizer: a language model, or an image-text-to-text model.

    The tokenizer has a chat template, the processor's where it has none of its own. Arguments as for `load_model`.

    Raises:
        ValueError: there is no such model, some of its weights are missing, or nobody knows its chat template.
    """
    where = str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path
    try:
        config = load_config(where, revision)  # a model's own code is never run here
        sees = hasattr(config, "vision_config")
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
        if not tokenizer.chat_template and sees:
            processor = AutoProcessor.from_pretrained(where, revision=revision, trust_remote_code=False)
            tokenizer.chat_template = processor.chat_template
        if not tokenizer.chat_template:
            raise ValueError("it has no chat template.")
        loader = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        loaded: Any = loader.from_pretrained(
            where,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model, found = loaded
        if found["missing_keys"]:
            names = sorted(found["missing_keys"])
            raise ValueError(f"its weights lack {len(names)} tensors of the model, {names[0]} among them.")
    except Exception as error:  # as in load_model
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"The divider's model {path!r} (revision {revision}) could not be loaded: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    return model.eval().requires_grad_(False), tokenizer


def _in_four_bits(config: PretrainedConfig, dtype: Dtype) -> BitsAndBytesConfig:
    if not is_bitsandbytes_available():
        raise ValueError("model.quantization=nf4 needs bitsandbytes, as in pip install 'rlaifv[qlora]'.")
    family = family_of(config)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=config.dtype or torch.float32 if dtype == "auto" else getattr(torch, dtype),
        llm_int8_skip_modules=[prefix.rstrip(".") for prefix in family.vision + family.projector + family.head],
    )


@timed("load")
def select_trainable(model: Any, parts: Sequence[Part], lora: Mapping[str, Any] | None = None) -> nn.Module:
    """Freeze all but the named parts, or put LoRA adapters on the language model's linear layers and freeze the rest.

    Args:
        model: all of whose parameters may be changed.
        parts: what trains when there is no `lora`.
        lora: keywords of `peft.LoraConfig` (r, lora_alpha, lora_dropout); adapters then train alone.

    Returns:
        The model itself, or the PEFT model around it.

    Raises:
        ValueError: nothing would train, or the model is of no known family, whose parts would have names.
    """
    if lora is not None:
        decoder = model.get_decoder()
        inside = next(name for name, module in model.named_modules() if module is decoder) + "."
        targets = [
            name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.startswith(inside)
        ]
        return get_peft_model(model, LoraConfig(target_modules=targets, **lora))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(_prefixes(model.config, parts)))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"learner.train_parts={list(parts)} leaves nothing to train.")
    return model


def _prefixes(config: PretrainedConfig, parts: Sequence[Part]) -> tuple[str, ...]:
    """Return the parameter-name prefixes of some parts; the head belongs to the language model."""
    if set(parts) == set(get_args(Part)):
        return ("",)
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"learner.train_parts={list(parts)} cannot be told apart in a model of type {config.model_type!r}; give all of "
            f"{', '.join(get_args(Part))}, or set learner.lora."
        )
    family = FAMILIES[config.model_type]
    prefixes = tuple(prefix for part in parts for prefix in getattr(family, part))
    return prefixes + family.head if "language_model" in parts else prefixes


def backbone(model: nn.Module) -> Any:
    """Return the Hugging Face model inside a PEFT wrapper, adapters in place; any other model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or PyTorch file; nothing but tensors is read.

    Raises:
        ValueError: the file is damaged, or holds more.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors, or is damaged; it was not loaded.") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}.") from error
    return found


def rename_tensors(path: Path, target: Path, rename: Callable[[str], str]) -> None:
    """Write a safetensors file again, each tensor under the name that `rename` gives it."""
    with safe_open(path, framework="pt") as file:
        tensors = {rename(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        save_file(tensors, target, metadata=file.metadata())


def export_model(model: nn.Module, processor: Any, directory: Path, adapter_directory: Path) -> None:
    """Write weights and processor in the hub's layout; adapters are merged, so that `from_pretrained` needs nothing else.

    Adapters are also written alone, as PEFT does, to a directory that is not made where there are none. Weights of 4 bits are
    written in the type that they are computed in: rounding to 4 bits again would lose what was learned.
    """
    if isinstance(model, PeftModel):
        with timed("export"):
            model.save_pretrained(str(adapter_directory))
            (adapter_directory / "README.md").unlink(missing_ok=True)  # a form to be filled in
        model = _merged(model)
    with timed("export"):
        model.save_pretrained(directory)  # type: ignore[operator]
        processor.save_pretrained(directory)


@timed("merge")
def _merged(model: PeftModel) -> Any:
    """Return the model with its adapters in its weights, in place: what is added to one layer is computed after the other."""
    base: Any = model.get_base_model()
    if not getattr(base, "is_quantized", False):
        return model.merge_and_unload()
    adapted = {name: layer for name, layer in base.named_modules() if isinstance(layer, LoraLayer)}
    merged: Any = model.unload().dequantize()
    for name, layer in adapted.items():
        weight = merged.get_submodule(name).weight
        weight.data += layer.get_delta_weight("default").to(weight)  # type: ignore[attr-defined]
    return merged
