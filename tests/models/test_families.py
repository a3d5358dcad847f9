from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoConfig, LlavaNextImageProcessorPil, LlavaNextProcessor, LlavaProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rlaifv.models.families import FAMILIES, PARTS, family_of, image_layout, image_tokens
from rlaifv.worlds.shapes_model import build_processor, build_tokenizer

VISION = {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14}
GRIDS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]


def llava(**changes):
    return AutoConfig.for_model("llava", vision_config=VISION, **changes)


def llava_next(**changes):
    return AutoConfig.for_model("llava_next", vision_config=VISION, image_grid_pinpoints=GRIDS, **changes)


def qwen3_vl():
    return AutoConfig.for_model("qwen3_vl")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_prefixes_of_parts_do_not_overlap(family):
    prefixes = [prefix for part in PARTS for prefix in getattr(family, part)]
    for one in prefixes:
        assert [other for other in prefixes if other.startswith(one)] == [one]


def test_unknown_family_and_unknown_parameter_are_named():
    with pytest.raises(ValueError, match=r"type 'llama' are not supported; the supported types are llava, llava_next"):
        family_of(AutoConfig.for_model("llama"))
    with pytest.raises(ValueError, match=r"'model\.audio\.weight' fits no part of 'llava'"):
        FAMILIES["llava"].part_of("model.audio.weight")


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


def test_layout_needs_a_known_family():
    with pytest.raises(ValueError, match="'idefics3' are not supported"):
        image_layout(SimpleNamespace(model_type="idefics3"))
