"""Twins of published models: their own configs made small, with the real classes of config, tokenizer and processor.

A twin has what its family's code branches on: the template's shape, the special tokens and who pads, begins and ends with
them, where features are taken, how many heads share keys, how an image is cut. Its vocabulary is learned from the few
sentences of `tests.twins.signal`, as no published one is at hand.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    CLIPImageProcessorPil,
    LlamaTokenizer,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PretrainedConfig,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen3VLProcessor,
)
from transformers.utils import is_torchvision_available

import rlaifv.models.budget.architecture

ARCHITECTURES = Path(rlaifv.models.budget.architecture.__file__).parent / "architectures"
HIDDEN_SIZE, HEAD_DIM, NUM_LAYERS, TILE_PX = 96, 24, 2, 42
QWEN_TILE = 3  # image tokens along an edge of the picture

# Both keep the images first, then the words, as the published templates do.
_IMAGES = "{% for part in message['content'] if part['type'] == 'image' %}IMAGE{% endfor %}"
_WORDS = "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
VICUNA = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    + _IMAGES.replace("IMAGE", "<image>\n")
    + _WORDS
    + " {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}SYSTEM{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    + _IMAGES
    + _WORDS
    + "<|im_end|>END{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NEXT_34B = (
    CHATML.replace("IMAGE", "<image>\n")
    .replace("END", "", 1)
    .replace("SYSTEM", "<|im_start|>system\nAnswer the questions.<|im_end|>")
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN25 = (
    CHATML.replace("IMAGE", QWEN_IMAGE)
    .replace("END", "\n", 1)
    .replace("SYSTEM", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
)
QWEN3 = CHATML.replace("IMAGE", QWEN_IMAGE).replace("END", "\n", 1).replace("SYSTEM", "")
QWEN_TOKENS = [
    f"<|{name}|>"
    for name in (
        *(
            "endoftext",
            "im_start",
            "im_end",
            "object_ref_start",
            "object_ref_end",
            "box_start",
            "box_end",
            "quad_start",
        ),
        *("quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
    )
]


@dataclass(frozen=True)
class Family:
    """How the twin of a published model is made.

    Attributes:
        architecture: name of a file in `ARCHITECTURES`, without its ending.
        processor: the real processor over a vocabulary that is learned from sentences.
        width: of the language model, in multiples of `HIDDEN_SIZE`.
    """

    architecture: str
    processor: Callable[[Iterable[str], dict[str, Any]], Any]
    width: int = 1


def small_config(family: Family, tokenizer: Any) -> PretrainedConfig:
    """The published config with small sizes; whatever is no size stays as it is."""
    config = json.loads((ARCHITECTURES / f"{family.architecture}.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    num_heads = HIDDEN_SIZE * family.width // HEAD_DIM
    shared_by = text["num_attention_heads"] // text["num_key_value_heads"]
    vocab_size = 64 * (len(tokenizer) // 64 + 1)  # rows that no token has, as published
    text |= {
        "hidden_size": HIDDEN_SIZE * family.width,
        "intermediate_size": 2 * HIDDEN_SIZE * family.width,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": num_heads,
        "num_key_value_heads": max(1, num_heads // shared_by),
        "max_position_embeddings": 1024,
        "vocab_size": vocab_size,
    }
    text |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if "mrope_section" in text.get("rope_parameters", {}):
        sections = text["rope_parameters"]["mrope_section"]
        text["rope_parameters"]["mrope_section"] = [n * HEAD_DIM // 2 // sum(sections) for n in sections]
        text["rope_parameters"]["mrope_section"][0] += HEAD_DIM // 2 - sum(text["rope_parameters"]["mrope_section"])
        text |= {"head_dim": HEAD_DIM} if "head_dim" in text else {}
        _shrink_qwen(config, tokenizer)
    else:
        vision |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
        vision |= {"image_size": TILE_PX, "projection_dim": 64}
        config |= {"image_seq_length": (TILE_PX // vision["patch_size"]) ** 2}
        config |= {"image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
        config |= {"pad_token_id": tokenizer.pad_token_id} if "pad_token_id" in config else {}
        if "image_grid_pinpoints" in config:
            config["image_grid_pinpoints"] = _pinpoints(config)
    return AutoConfig.for_model(**config)


def _shrink_qwen(config: dict[str, Any], tokenizer: Any) -> None:
    vision = config["vision_config"]
    vision |= {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4}
    vision |= {"out_hidden_size": config["text_config"]["hidden_size"]}
    if "fullatt_block_indexes" in vision:
        vision |= {"fullatt_block_indexes": [1], "window_size": 2 * vision["patch_size"] * vision["spatial_merge_size"]}
    else:
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    for name, token in (("image", "image_pad"), ("video", "video_pad")):
        config[f"{name}_token_id"] = tokenizer.convert_tokens_to_ids(f"<|{token}|>")
    for name in ("start", "end"):
        config[f"vision_{name}_token_id"] = tokenizer.convert_tokens_to_ids(f"<|vision_{name}|>")


def _pinpoints(config: dict[str, Any]) -> list[list[int]]:
    published = min(min(size) for size in config["image_grid_pinpoints"])
    return [[TILE_PX * edge // published for edge in size] for size in config["image_grid_pinpoints"]]


def learned_bpe(sentences: Iterable[str], first: list[str], pre_tokenizer: Any, bytes_in: list[str]) -> tuple[Any, Any]:
    """Vocabulary and merges; tokens of `first` have the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=first, initial_alphabet=bytes_in, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(sentences, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    return learned["vocab"], [tuple(merge) for merge in learned["merges"]]


def _llama_tokenizer(sentences: Iterable[str], added: list[str], **names: str) -> LlamaTokenizer:
    """As SentencePiece made them: a space is a character of its own, and unknown characters are spelled in bytes."""
    byte_tokens = [f"<0x{k:02X}>" for k in range(256)]
    begin, end = names.get("bos_token", "<s>"), names.get("model_eos", "</s>")
    pieces = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    vocab, merges = learned_bpe(sentences, ["<unk>", begin, end, *byte_tokens], pieces, [])
    eos = names.get("eos_token", end)
    tokenizer = LlamaTokenizer(vocab, merges, bos_token=begin, eos_token=eos, padding_side="left", legacy=False)
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    tokenizer.pad_token = names["pad_token"]
    return tokenizer


def vicuna(sentences: Iterable[str], published: dict[str, Any]) -> LlavaProcessor:
    """LLaVA-1.5's."""
    vision = published["vision_config"]
    images = CLIPImageProcessorPil(
        size={"shortest_edge": TILE_PX}, crop_size={"height": TILE_PX, "width": TILE_PX}, do_convert_rgb=True
    )
    tokenizer = _llama_tokenizer(sentences, ["<image>", "<pad>"], pad_token="<pad>")
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=vision["patch_size"],
        vision_feature_select_strategy=published["vision_feature_select_strategy"],
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )


def next_34b(sentences: Iterable[str], published: dict[str, Any]) -> LlavaNextProcessor:
    """LLaVA-NeXT-34B's: Yi's tokens in ChatML."""
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE_PX},
        crop_size={"height": TILE_PX, "width": TILE_PX},
        image_grid_pinpoints=_pinpoints(published),
    )
    names = {"bos_token": "<|startoftext|>", "model_eos": "<|endoftext|>"}
    added = ["<|im_start|>", "<|im_end|>", "<image>", "<pad>"]
    tokenizer = _llama_tokenizer(sentences, added, eos_token="<|im_end|>", pad_token="<pad>", **names)
    return LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=published["vision_config"]["patch_size"],
        vision_feature_select_strategy=published["vision_feature_select_strategy"],
        num_additional_image_tokens=1,
        chat_template=NEXT_34B,
    )


def qwen(sentences: Iterable[str], published: dict[str, Any]) -> Any:
    """Qwen2.5-VL's or Qwen3-VL's; the part for videos is there where torchvision is."""
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocab, merges = learned_bpe(sentences, [], pieces, pre_tokenizers.ByteLevel.alphabet())
    # On the hub they come last, and the end of a text pads.
    tokenizer = Qwen2Tokenizer(
        vocab | {"<|endoftext|>": len(vocab)}, merges, eos_token="<|im_end|>", padding_side="left"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": QWEN_TOKENS})
    vision = published["vision_config"]
    token_px = vision["patch_size"] * vision["spatial_merge_size"]
    pixels = {"shortest_edge": token_px**2, "longest_edge": (QWEN_TILE * token_px) ** 2}
    sizes = {"patch_size": vision["patch_size"], "merge_size": vision["spatial_merge_size"]}
    images = Qwen2VLImageProcessorPil(size=pixels, **sizes)
    is_third = published["model_type"] == "qwen3_vl"
    made, template = (Qwen3VLProcessor, QWEN3) if is_third else (Qwen2_5_VLProcessor, QWEN25)
    if not is_torchvision_available():  # within `images_only`
        return made(images, tokenizer, chat_template=template)
    from transformers import Qwen2VLVideoProcessor, Qwen3VLVideoProcessor

    videos = (Qwen3VLVideoProcessor if is_third else Qwen2VLVideoProcessor)(**sizes)
    return made(images, tokenizer, videos, chat_template=template)


FAMILIES = {
    "llava7b": Family("llava-1.5-7b-hf", vicuna),
    "llava13b": Family("llava-1.5-13b-hf", vicuna, width=2),
    "next34b": Family("llava-v1.6-34b-hf", next_34b),
    "qwen25": Family("qwen2.5-vl-7b-instruct", qwen),
    "qwen3": Family("qwen3-vl-8b-instruct", qwen),
}


def published_config(family: Family) -> dict[str, Any]:
    """What the file says."""
    return json.loads((ARCHITECTURES / f"{family.architecture}.json").read_text())
