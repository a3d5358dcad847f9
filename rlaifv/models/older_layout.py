"""Write an exported model's config and tokenizer files under the names that transformers 4 expects."""

import json
from pathlib import Path
from typing import Any

from rlaifv.store.atomic import write_json


def write_older_layout(directory: Path) -> None:
    """Rewrite configuration and tokenizer of an exported model, and add the files that version 5 has merged into others.

    Version 5 reads the result as it read what was there.

    Args:
        directory: with config.json; the other files are written as far as their like is there.
    """
    write_json(directory / "config.json", older_config(_read(directory / "config.json")))
    tokenizer, template = directory / "tokenizer_config.json", directory / "chat_template.jinja"
    if tokenizer.is_file():
        write_json(tokenizer, older_tokenizer_config(_read(tokenizer)))
    if template.is_file():
        write_json(directory / "chat_template.json", {"chat_template": template.read_text(encoding="utf-8")})
    if (directory / "processor_config.json").is_file():
        processor = _read(directory / "processor_config.json")
        if images := processor.pop("image_processor", None):  # version 4 would take it for the object of that name
            owner = {name: processor[name] for name in ("processor_class",) if name in processor}
            write_json(directory / "preprocessor_config.json", images | owner)
            write_json(directory / "processor_config.json", processor)


def older_config(config: dict[str, Any]) -> dict[str, Any]:
    """Add what version 4 looks for: `torch_dtype`, and `rope_theta` and `rope_scaling` outside of `rope_parameters`.

    Where layers differ in their rotation (Gemma 3), the full ones' is `rope_theta`, the others' `rope_local_base_freq`.

    >>> older_config({"dtype": "float16", "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}})
    {'dtype': 'float16', 'text_config': {'rope_theta': 10000.0}, 'torch_dtype': 'float16'}
    """
    older = {name: older_config(value) if isinstance(value, dict) else value for name, value in config.items()}
    if "dtype" in config:
        older["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters")
    if not rope:
        return older
    if "full_attention" in rope:
        older["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    del older["rope_parameters"]
    older["rope_theta"] = rope["rope_theta"]
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    if scaling != {"rope_type": "default"}:
        older["rope_scaling"] = scaling
    return older


def older_tokenizer_config(config: dict[str, Any]) -> dict[str, Any]:
    """Name a class that version 4 has, and its name for a list of special tokens.

    >>> older_tokenizer_config({"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<image>"]})
    {'tokenizer_class': 'PreTrainedTokenizerFast', 'additional_special_tokens': ['<image>']}
    """
    older = dict(config)
    if older.get("tokenizer_class") == "TokenizersBackend":
        older["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(older.get("extra_special_tokens"), list):
        older["additional_special_tokens"] = older.pop("extra_special_tokens")
    return older


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
