"""A tiny model of every family with random weights, and prompts with random pictures for it; no processor is needed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText

from rlaifv.models.prompting import EncodedPrompt, stack_images
from rlaifv.worlds.shapes_model import build_model

IMAGE, BEGIN, END = 4, 5, 7
TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CLIP = TOWER | {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, "projection_dim": 16}
SIGLIP = TOWER | {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14, "vision_use_head": False}
TILE = TOWER | {"image_size": 28, "patch_size": 7}
QWEN_TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
QWEN_IDS = {"image_token_id": IMAGE, "video_token_id": 6, "vision_start_token_id": BEGIN, "vision_end_token_id": END}
GRIDS = [[28, 56], [56, 28], [56, 56]]

Pictures = Callable[[int], dict[str, Tensor]]


def one_size(variant: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(1, 3, 28, 28)}


def anyres(variant: int) -> dict[str, Tensor]:
    size, tiles = (((40, 20), 3), ((50, 56), 5))[variant]
    return {"pixel_values": torch.randn(1, tiles, 3, 28, 28), "image_sizes": torch.tensor([size])}


def patches(variant: int) -> dict[str, Tensor]:
    grid = torch.tensor([((1, 4, 6), (1, 8, 4))[variant]])
    return {"pixel_values": torch.randn(int(grid.prod()), 96), "image_grid_thw": grid}


def tiles(variant: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn((1, 3)[variant], 3, 28, 28)}


def masked_tiles(variant: int) -> dict[str, Tensor]:
    number, width = ((1, 28), (3, 21))[variant]
    mask = torch.ones(1, number, 28, 28, dtype=torch.bool)
    mask[..., width:] = False
    return {"pixel_values": torch.randn(1, number, 3, 28, 28), "pixel_attention_mask": mask}


def strips(variant: int) -> dict[str, Tensor]:
    sizes = torch.tensor([[[8, 4]], [[4, 4], [8, 8]]][variant])
    return {"pixel_values": torch.randn(1, 3, 7, 7 * int(sizes.prod(1).sum())), "target_sizes": sizes}


# What makes up a family's tiny model, and what its processor gives for a picture.
FAMILY_CASES: dict[str, tuple[dict[str, Any], Pictures]] = {
    "llava": ({"vision_config": CLIP, "text_config": TEXT | {"model_type": "llama"}}, one_size),
    "llava_next": (
        {
            "vision_config": CLIP,
            "text_config": TEXT | {"model_type": "mistral", "sliding_window": 12},
            "image_grid_pinpoints": GRIDS,
        },
        anyres,
    ),
    "llava_onevision": (
        {"vision_config": SIGLIP, "text_config": TEXT | {"model_type": "qwen2"}, "image_grid_pinpoints": GRIDS},
        anyres,
    ),
    "qwen2_5_vl": (
        {
            "vision_config": QWEN_TOWER | {"window_size": 16, "fullatt_block_indexes": [1]},
            "text_config": TEXT | {"rope_parameters": ROPE},
            **QWEN_IDS,
        },
        patches,
    ),
    "qwen3_vl": (
        {
            "vision_config": QWEN_TOWER | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
            "text_config": TEXT | {"head_dim": 16, "rope_parameters": ROPE | {"mrope_interleaved": True}},
            **QWEN_IDS,
        },
        patches,
    ),
    "internvl": (
        {
            "vision_config": TILE | {"image_size": [28, 28], "patch_size": [7, 7]},
            "text_config": TEXT | {"model_type": "qwen2"},
            "downsample_ratio": 0.5,
        },
        tiles,
    ),
    "idefics3": (
        {"vision_config": TILE, "text_config": TEXT | {"model_type": "llama"}, "scale_factor": 2},
        masked_tiles,
    ),
    "smolvlm": (
        {"vision_config": TILE, "text_config": TEXT | {"model_type": "llama"}, "scale_factor": 2},
        masked_tiles,
    ),
    "gemma3": (
        {
            "vision_config": SIGLIP,
            "text_config": TEXT
            | {"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
            "mm_tokens_per_image": 4,
            "boi_token_index": BEGIN,
            "eoi_token_index": END,
        },
        one_size,
    ),
    "minicpmv4_6": (
        {
            "vision_config": TILE | {"image_size": 56, "num_hidden_layers": 2},
            "text_config": TEXT
            | {"model_type": "qwen3_5_text", "head_dim": 16, "layer_types": ["full_attention", "full_attention"]},
            "insert_layer_id": 0,
        },
        strips,
    ),
}


@dataclass(frozen=True)
class Tiny:
    """A family's model, and prompts for it: a picture, two pictures, another picture of other shape, and none."""

    name: str
    model: Any
    prompts: tuple[EncodedPrompt, ...]


def tiny_config(name: str) -> Any:
    sizes, _ = FAMILY_CASES[name]
    placeholder = "image_token_index" if name.startswith("llava") else "image_token_id"
    return AutoConfig.for_model(name, **{placeholder: IMAGE, **sizes})


def build_tiny(name: str) -> Tiny:
    """Weights are so large that whatever a token attends to moves its log-probs by much more than rounding."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(tiny_config(name)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    pictures = FAMILY_CASES[name][1]
    first, second = (picture_prompt(model, pictures(variant), variant) for variant in (0, 1))
    text = EncodedPrompt((1, 11, 12, 13, 14), {})
    both = EncodedPrompt((*first.ids[:-2], *second.ids[1:]), stack_images([first, second]))
    return Tiny(name, model, (first, both, replace(second, ids=(*second.ids, 30, 31)), text))


def picture_prompt(model: Any, images: dict[str, Tensor], variant: int) -> EncodedPrompt:
    """Text, the placeholders of a picture between two markers, and more text, which is longer than any window here."""
    with torch.no_grad():
        features = model.model.get_image_features(**images).pooler_output
    size = sum(len(one.flatten(0, -2)) for one in features)
    return EncodedPrompt((1, 20 + variant, BEGIN, *[IMAGE] * size, END, *range(40, 45 + variant), 50), images)


@pytest.fixture(scope="module")
def sharp(processor: Any) -> Any:
    """A small LLaVA with weights so large that whatever it attends to moves its logits by much more than rounding."""
    torch.manual_seed(0)
    model = build_model(processor.tokenizer, hidden_size=64, num_layers=2, vision_layers=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return model


@pytest.fixture(scope="session", params=FAMILY_CASES)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return build_tiny(request.param)


@pytest.fixture(scope="session")
def tiny_names() -> list[str]:
    return list(FAMILY_CASES)


@pytest.fixture(scope="session")
def tiny_qwen() -> Tiny:
    return build_tiny("qwen3_vl")


@pytest.fixture(scope="session")
def tiny_gemma() -> Tiny:
    return build_tiny("gemma3")


@pytest.fixture(scope="session")
def tiny_mistral() -> Tiny:
    """LLaVA-NeXT, whose language model here has a window in every layer."""
    return build_tiny("llava_next")
