"""Convert a checkpoint of LLaVA's authors to the Hub's layout, which transformers and `train.py` load.

    python tools/convert_llava.py source=DIR out=DIR vision=openai/clip-vit-large-patch14-336

    source=DIR          LLaVA-1.5 as its authors publish it, or RLAIF-V-7B: config.json, tokenizer, weights
    out=DIR             output directory; must not exist
    vision=ID_OR_DIR    the CLIP model of the tower and the image processor; default: the one named in the config
    revision=null       commit of that model

The tower's weights are taken from `source` if it has them (RLAIF-V-7B), else from `vision`. Weights are read with
`weights_only`, so that a checkpoint cannot run code. A tokenizer that consists of tokenizer.model only, as the authors
publish it, needs `pip install 'rlaifv[convert]'`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING
from torch import Tensor
from transformers import (
    AddedToken,
    AutoImageProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

sys.path.insert(0, str(Path(__file__).parent.parent))

from rlaifv.app.arguments import parse_options, refuse
from rlaifv.models.key_names import name_from_authors
from rlaifv.models.loading import read_tensors
from rlaifv.runtime.console import console, set_up_logging

IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"
# The vocabulary is padded to a multiple of this, as in the Hub's checkpoints: 32,064 for LLaVA-1.5.
VOCABULARY_MULTIPLE = 64
# Vicuna's format, which LLaVA-1.5 was trained on, without the system prompt, as in the Hub's template.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@dataclass
class Options:
    """Command-line options; see the module docstring."""

    source: str = MISSING
    out: str = MISSING
    vision: str | None = None
    revision: str | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert the checkpoint that the command line names."""
    set_up_logging()
    try:
        options = parse_options(Options, __doc__, sys.argv[1:] if arguments is None else arguments)
        convert(Path(options.source), Path(options.out), options.vision, options.revision)
    except (ValueError, OSError) as error:
        raise SystemExit(refuse(error)) from error
    console.print(f"written to {options.out}", soft_wrap=True)


def convert(source: Path, out: Path, vision: str | None, revision: str | None = None) -> None:
    """Convert a checkpoint; see the module docstring.

    Raises:
        ValueError: the checkpoint is of another kind, damaged or incomplete, or `out` already exists.
        OSError: a file cannot be read or written.
    """
    if out.exists():
        raise ValueError(f"out={out} is there already.")
    config_path = source / "config.json"
    try:
        authors: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config_path} is not JSON: {error}.") from error
    if authors.get("mm_projector_type") != "mlp2x_gelu":
        raise ValueError(
            f"{config_path} is not of LLaVA-1.5: mm_projector_type is {authors.get('mm_projector_type')!r}."
        )
    vision = vision or authors.get("mm_vision_tower")
    if not vision:
        raise ValueError(f"{config_path} names no mm_vision_tower; give vision=….")
    tokenizer = _tokenizer(source)
    tokenizer.add_tokens(AddedToken(IMAGE_TOKEN, special=True, normalized=False), special_tokens=True)
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.unk_token:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tensors = {
        name_from_authors(name): tensor for name, tensor in _tensors(source) if "rotary_emb.inv_freq" not in name
    }
    pinned: Any = {"revision": revision}
    config = _config(authors, CLIPVisionConfig.from_pretrained(vision, **pinned), tokenizer)
    text: Any = config.text_config
    _grow_vocabulary(tensors, text.vocab_size)
    if not any(name.startswith("vision_tower.") for name in tensors):
        tower = CLIPVisionModel.from_pretrained(vision, **pinned, use_safetensors=True)
        tensors |= {f"vision_tower.{name}": tensor for name, tensor in tower.state_dict().items()}
    model = _load(config, tensors, source)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    image_processor = AutoImageProcessor.from_pretrained(vision, **pinned)
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    model.save_pretrained(out)
    processor.save_pretrained(out)


def _tokenizer(source: Path) -> Any:
    """Load the tokenizer. For SentencePiece, name the class: the one from the config would drop the first space."""
    if (source / "tokenizer.json").is_file() or not (source / "tokenizer.model").is_file():
        return AutoTokenizer.from_pretrained(source)
    missing = [name for name in ("sentencepiece", "google.protobuf") if not _is_installed(name)]
    if missing:
        raise ValueError(
            f"{source} has a SentencePiece tokenizer, which needs pip install 'rlaifv[convert]'; {missing[0]} is missing."
        )
    return LlamaTokenizer.from_pretrained(source)


def _is_installed(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True


def _config(authors: dict[str, Any], vision: Any, tokenizer: Any) -> Any:
    known = LlamaConfig().to_dict().keys() - {"architectures", "model_type", "vocab_size", "dtype", "torch_dtype"}
    rows = -(-max(len(tokenizer), authors["vocab_size"]) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    text = {name: value for name, value in authors.items() if name in known and value is not None}
    if "rope_theta" in authors:
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": authors["rope_theta"]}
    text["pad_token_id"] = tokenizer.pad_token_id
    return LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**text, vocab_size=rows),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=authors.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def _tensors(source: Path) -> Iterator[tuple[str, Tensor]]:
    files = sorted(source.glob("*.safetensors")) or sorted(source.glob("pytorch_model*.bin"))
    if not files:
        raise ValueError(f"{source} holds no weights: neither *.safetensors nor pytorch_model*.bin.")
    for path in files:
        yield from read_tensors(path).items()


def _grow_vocabulary(tensors: dict[str, Tensor], rows: int) -> None:
    """Pad embeddings and head to `rows` with the mean of the existing rows.

    The new tokens are never predicted, and image features replace the embedding of the image token.
    """
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        if name not in tensors:
            raise ValueError(f"The checkpoint lacks {name}.")
        old = tensors[name]
        tensors[name] = torch.cat([old, old.float().mean(0, keepdim=True).to(old.dtype).expand(rows - len(old), -1)])


def _load(config: LlavaConfig, tensors: dict[str, Tensor], source: Path) -> Any:
    loaded: Any = LlavaForConditionalGeneration.from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        dtype=tensors["language_model.lm_head.weight"].dtype,
        output_loading_info=True,
    )
    model, found = loaded
    if found["missing_keys"]:
        names = sorted(found["missing_keys"])
        raise ValueError(f"{source} lacks {len(names)} tensors of the model, {names[0]} among them.")
    return model


if __name__ == "__main__":
    main()
