"""Processors of several families, templates and kinds of quotation, over the embedded world's words."""

from typing import Any

from tokenizers import AddedToken, normalizers
from transformers import (
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
)

from rlaifv.worlds.shapes_model import CHAT_TEMPLATE, build_processor, build_tokenizer

BOS, EOS, PAD, IMAGE = 2, 3, 0, 4
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% if message['role'] == 'assistant' %}</s>{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INSTRUCT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% if message['role'] == 'user' %} [/INST]{% else %}</s>{% endif %}{% endfor %}"
)


def chatml() -> Any:
    """As Qwen's: turn markers are added tokens, which the list of special ones does not name."""
    processor = build_processor()
    processor.tokenizer.add_tokens([AddedToken(f"<|im_{end}|>", special=True) for end in ("start", "end")])
    processor.chat_template = CHATML
    return processor


def instruct() -> Any:
    """As Mistral's: turn markers are plain text."""
    processor = build_processor()
    processor.chat_template = INSTRUCT
    return processor


def folding() -> Any:
    """A tokenizer that makes one token of many spellings, after its normaliser."""
    processor = build_processor()
    processor.tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    processor.tokenizer.add_tokens([AddedToken("<turn>", special=True, normalized=True)])
    return processor


def anyres() -> Any:
    """A LLaVA-NeXT processor with tiles of 48 pixels."""
    return LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 48},
            crop_size={"height": 48, "width": 48},
            image_grid_pinpoints=[[48, 96], [96, 48], [96, 96]],
        ),
        tokenizer=build_tokenizer(),
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def gemma() -> Any:
    tokenizer = build_tokenizer()
    names = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
    tokenizer.add_special_tokens({"additional_special_tokens": list(names.values())})
    for name, token in names.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    template = CHAT_TEMPLATE.replace("<image>", "<start_of_image>")
    images = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    return Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4)


def idefics() -> Any:
    images = Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    return Idefics3Processor(images, build_tokenizer(), image_seq_len=4, chat_template=CHAT_TEMPLATE)
