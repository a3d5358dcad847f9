from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoConfig, LlavaNextImageProcessorPil, LlavaNextProcessor, LlavaProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rlaifv.models.budget.layout import has_layout, image_layout, image_tokens
from rlaifv.worlds.shapes_model import build_processor, build_tokenizer

VISION = {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14}
GRIDS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]


def llava(**changes):
    return AutoConfig.for_model("llava", vision_config=VISION, **changes)


def llava_next(**changes):
    return AutoConfig.for_model("llava_next", vision_config=VISION, image_grid_pinpoints=GRIDS, **changes)


def qwen3_vl():
    return AutoConfig.for_model("qwen3_vl")


def test_llava_counts_patches_and_with_full_selection_the_class_token():
    assert image_layout(llava()).num_tokens == 16
    assert image_layout(llava()).tile_positions == 17
    assert image_tokens(llava(vision_feature_select_strategy="full")) == 17


def test_siglip_tower_has_no_class_token():
    tower = {**VISION, "model_type": "siglip_vision_model"}
    config = AutoConfig.for_model("llava", vision_config=tower, vision_feature_select_strategy="full")
    assert image_layout(config).tile_positions == 16
    assert image_tokens(config) == 16


def test_llava_agrees_with_its_processor():
    processor = build_processor()
    ids = processor(images=Image.new("RGB", (70, 31)), text="<image> Describe")["input_ids"]
    vision = {"model_type": "clip_vision_model", "image_size": 48, "patch_size": 16}
    config = AutoConfig.for_model("llava", vision_config=vision)
    assert isinstance(processor, LlavaProcessor)
    assert ids[0].count(processor.image_token_id) == image_tokens(config, image_px=(31, 70)) == 9


@settings(max_examples=30, deadline=None)
@given(height=st.integers(20, 400), width=st.integers(20, 400))
def test_llava_next_agrees_with_its_processor(height, width):
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=GRIDS
        ),
        tokenizer=build_tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    encoded = processor(images=Image.new("RGB", (width, height)), text="<image> Describe")
    layout = image_layout(llava_next(), image_px=(height, width))
    assert layout.num_tokens == encoded["input_ids"][0].count(processor.image_token_id)
    assert layout.num_tiles == len(encoded["pixel_values"][0])
    assert layout.num_projected == 16 * layout.num_tiles


def test_llava_next_largest_image_fills_its_largest_grid():
    layout = image_layout(llava_next())
    assert layout.num_tokens == 16 + 8 * 8 + 8  # overview, two by two tiles, a newline for each row
    assert layout.num_tiles == 5


@settings(max_examples=30, deadline=None)
@given(height=st.integers(16, 500), width=st.integers(16, 500))
def test_qwen3_vl_agrees_with_its_processor(height, width):
    limits = {"size": {"shortest_edge": 64**2, "longest_edge": 320**2}}
    processor = Qwen2VLImageProcessorPil(**limits, patch_size=16, temporal_patch_size=2, merge_size=2)
    _, rows, columns = processor(images=Image.new("RGB", (width, height)))["image_grid_thw"][0]
    layout = image_layout(qwen3_vl(), limits, image_px=(height, width))
    assert layout.tile_positions == rows * columns
    assert layout.num_tokens == rows * columns // 4


@pytest.mark.parametrize(
    ("processor_settings", "tokens"),
    [(None, 16384), ({"max_pixels": 1_310_720}, 1280), ({"size": {"longest_edge": 1_310_720}}, 1280)],
)
def test_qwen3_vl_largest_image_fills_the_processors_area(processor_settings, tokens):
    assert image_tokens(qwen3_vl(), processor_settings) == tokens


def test_qwen2_5_vl_has_bounds_of_its_own():
    assert image_tokens(AutoConfig.for_model("qwen2_5_vl")) == 3584**2 // 28**2
    assert image_tokens(qwen3_vl()) == 4096**2 // 32**2


@pytest.mark.parametrize(("name", "tiles"), [("internvl", 13), ("idefics3", 17), ("smolvlm", 17), ("gemma3", 1)])
def test_largest_images_by_hand(name: str, tiles: int) -> None:
    """Published sizes: 12 tiles of 448 pixels and an overview; 4 by 4 tiles of 364 or 384; a single one of 896."""
    sizes: dict[str, tuple[dict[str, Any], int]] = {
        "internvl": ({}, 256),
        "idefics3": ({"vision_config": {"image_size": 364, "patch_size": 14}, "scale_factor": 2}, 169),
        "smolvlm": ({"vision_config": {"image_size": 384, "patch_size": 14}, "scale_factor": 3}, 81),
        "gemma3": ({"vision_config": {"model_type": "siglip_vision_model", "image_size": 896, "patch_size": 14}}, 256),
    }
    changes, tokens_per_tile = sizes[name]
    layout = image_layout(AutoConfig.for_model(name, **changes))
    assert (layout.num_tiles, layout.num_tokens) == (tiles, tiles * tokens_per_tile)


def test_layout_agrees_with_what_each_model_makes_of_a_picture(tiny: Any) -> None:
    """Placeholders are as many as vectors come out of the model for images of two shapes."""
    config = tiny.model.config
    if not has_layout(config):
        return
    for prompt in (tiny.prompts[0], tiny.prompts[2]):
        settings, size, num_tiles = None, None, 1
        if "image_sizes" in prompt.images:
            size = tuple(prompt.images["image_sizes"][0].tolist())
            num_tiles = prompt.images["pixel_values"].shape[1]
        elif "image_grid_thw" in prompt.images:
            size = tuple((prompt.images["image_grid_thw"][0, 1:] * config.vision_config.patch_size).tolist())
            settings = {"min_pixels": 1, "max_pixels": 10_000}
        else:  # the tiny processor's bounds are none of the published ones, but a tile is a tile
            pixels = prompt.images["pixel_values"]
            num_tiles = pixels.shape[1] if pixels.dim() == 5 else len(pixels)
        layout = image_layout(config, settings, size)
        expected = prompt.ids.count(4)
        assert layout.num_tokens * (1 if size else num_tiles / layout.num_tiles) == expected
        assert not size or layout.num_tiles == num_tiles


@settings(max_examples=20, deadline=None)
@given(height=st.integers(20, 900), width=st.integers(20, 900))
def test_llava_onevision_shrinks_what_would_be_too_much(height: int, width: int) -> None:
    """Nine tiles' worth of features at most, give or take the tenth that it lets pass, a newline each row, the overview."""
    grids = [[28 * rows, 28 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    vision = {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 7}
    config = AutoConfig.for_model("llava_onevision", vision_config=vision, image_grid_pinpoints=grids)
    layout = image_layout(config, image_px=(height, width))
    assert layout.num_tokens <= 16 + 1.1**2 * 9 * 16 + 24
    assert image_tokens(config) <= 16 + 1.1**2 * 9 * 16 + 24


def test_an_unknown_layout_is_said_to_be_unknown():
    for name in ("minicpmv4_6", "glm4v"):
        config = AutoConfig.for_model(name)
        assert not has_layout(config)
        with pytest.raises(ValueError, match=f"an image takes in models of type '{name}' is not known beforehand"):
            image_layout(config)
