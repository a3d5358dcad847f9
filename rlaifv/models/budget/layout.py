"""Tiles, patches and tokens of an image, from configs alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from transformers import (
    GotOcr2ImageProcessorPil,
    Idefics3ImageProcessorPil,
    PretrainedConfig,
    SmolVLMImageProcessorPil,
)
from transformers.image_processing_utils import select_best_resolution
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from rlaifv.models.families import FAMILIES

# Bounds of area of the published processors; an image is resized to lie between them.
QWEN_AREA_PX = {"qwen2_5_vl": (56**2, 3584**2), "qwen3_vl": (256**2, 4096**2)}
# InternVL's processor cuts an image into so many tiles at most, and adds an overview.
INTERNVL_TILES = 12
# Idefics3 and SmolVLM enlarge an image's longer edge to so many tiles before they cut it.
IDEFICS_EDGE_TILES = 4


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """Sizes of one image on its way into the language model.

    num_tokens: placeholders in the prompt
    num_tiles: crops that the vision tower sees, the overview included
    tile_positions: sequence length of the tower for each of them
    num_projected: vectors that come out of the projector, before padding is cut and newlines are added
    """

    num_tokens: int
    num_tiles: int
    tile_positions: int
    num_projected: int


def image_layout(
    config: PretrainedConfig,
    processor_settings: Mapping[str, Any] | None = None,
    image_px: tuple[int, int] | None = None,
) -> ImageLayout:
    """Return sizes for an image of height and width `image_px`, or for the image that takes the most tokens.

    Args:
        config: of a model of a known family.
        processor_settings: of the image processor, as in preprocessor_config.json. Only those of Qwen-VL matter:
            `max_pixels` and `min_pixels` (or `size.longest_edge` and `size.shortest_edge`, both in pixels too); the
            published processor's without.
        image_px: height and width before any resizing; LLaVA-1.5 and Gemma 3 resize every image to one size.

    Raises:
        ValueError: nothing is known about images of this type of model.
    """
    if not has_layout(config):
        raise ValueError(
            f"How many tokens an image takes in models of type {config.model_type!r} is not known beforehand, nor what a "
            "run costs."
        )
    if config.model_type in QWEN_AREA_PX:
        return _merged_patches(config, processor_settings or {}, image_px)
    if config.model_type in ("llava_next", "llava_onevision"):
        return _tiles(config, image_px)
    if config.model_type in ("internvl", "idefics3", "smolvlm"):
        return _square_tiles(config, image_px)
    positions, kept = _tower(config)
    return ImageLayout(num_tokens=kept, num_tiles=1, tile_positions=positions, num_projected=kept)


def has_layout(config: PretrainedConfig) -> bool:
    """Return whether `image_layout` knows this type of model, without which a run cannot be budgeted."""
    return config.model_type in FAMILIES and config.model_type != "minicpmv4_6"  # slices by rules of its own


def image_tokens(
    config: PretrainedConfig,
    processor_settings: Mapping[str, Any] | None = None,
    image_px: tuple[int, int] | None = None,
) -> int:
    """Return tokens that an image takes in a prompt: `image_layout(...).num_tokens`, where the arguments are explained."""
    return image_layout(config, processor_settings, image_px).num_tokens


def _tower(config: Any) -> tuple[int, int]:
    """Return positions of a fixed-size vision tower, and how many of them the feature selection keeps."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    if config.model_type == "gemma3":
        return patches, config.mm_tokens_per_image
    positions = patches + (vision.model_type == "clip_vision_model")  # a class token; SigLIP has none
    return positions, patches if config.vision_feature_select_strategy == "default" else positions


def _tiles(config: Any, image_px: tuple[int, int] | None) -> ImageLayout:
    """LLaVA's "anyres": an overview and a grid of tiles, from whose features the padding is cut.

    LLaVA-OneVision shrinks them where they would fill more than some number of tiles: 9 in "anyres_max_9".
    """
    tile_px, patch_px = config.vision_config.image_size, config.vision_config.patch_size
    grids = [tuple(grid) for grid in config.image_grid_pinpoints]
    if image_px is None:  # an image that has exactly the size of a grid is not padded
        return max((_tiles(config, grid) for grid in grids), key=lambda layout: layout.num_tokens)
    height, width = image_px
    grid_height, grid_width = select_best_resolution(image_px, grids)
    rows, columns = grid_height // tile_px * (tile_px // patch_px), grid_width // tile_px * (tile_px // patch_px)
    if width / height > columns / rows:
        rows -= (rows - int(round(height * columns / width, 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * rows / height, 7))) // 2 * 2
    positions, kept = _tower(config)
    if config.model_type == "llava_onevision":
        most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        shrink = sqrt(rows * columns / (most * (tile_px // patch_px) ** 2))
        if shrink > 1.1:
            rows, columns = int(rows // shrink), int(columns // shrink)
    num_tiles = 1 + (grid_height // tile_px) * (grid_width // tile_px)
    newlines = rows
    return ImageLayout(kept + rows * columns + newlines, num_tiles, positions, num_tiles * kept)


def _square_tiles(config: Any, image_px: tuple[int, int] | None) -> ImageLayout:
    """InternVL, Idefics3 and SmolVLM cut an image into square tiles of one size and add an overview."""
    vision = config.vision_config
    if config.model_type == "internvl":
        tile_px, patch_px = vision.image_size[0], vision.patch_size[0]
        patches = (tile_px // patch_px) ** 2
        positions, kept = patches + 1, int(patches * config.downsample_ratio**2)  # a class token
        num_tiles = INTERNVL_TILES + 1
        if image_px is not None:
            size = {"height": tile_px, "width": tile_px}
            cutter: Any = GotOcr2ImageProcessorPil(size=size, crop_to_patches=True, max_patches=INTERNVL_TILES)
            num_tiles = cutter.get_number_of_image_patches(*image_px)
    else:
        tile_px = vision.image_size
        positions = (tile_px // vision.patch_size) ** 2
        kept = positions // config.scale_factor**2
        edge_px = IDEFICS_EDGE_TILES * tile_px
        processor = Idefics3ImageProcessorPil if config.model_type == "idefics3" else SmolVLMImageProcessorPil
        cutter = processor(size={"longest_edge": edge_px}, max_image_size={"longest_edge": tile_px})
        num_tiles = cutter.get_number_of_image_patches(*(image_px or (edge_px, edge_px)))[0]
    return ImageLayout(num_tiles * kept, num_tiles, positions, num_tiles * kept)


def _merged_patches(config: Any, settings: Mapping[str, Any], image_px: tuple[int, int] | None) -> ImageLayout:
    """Qwen-VL keeps the image's shape within bounds of area and merges neighbouring patches into one token."""
    merge = config.vision_config.spatial_merge_size
    token_px = config.vision_config.patch_size * merge
    size = settings.get("size") or {}
    least, most = QWEN_AREA_PX[config.model_type]
    largest = settings.get("max_pixels") or size.get("longest_edge") or most
    smallest = settings.get("min_pixels") or size.get("shortest_edge") or least
    if image_px is None:
        tokens = largest // token_px**2
    else:
        height, width = smart_resize(*image_px, factor=token_px, min_pixels=smallest, max_pixels=largest)
        tokens = (height // token_px) * (width // token_px)
    return ImageLayout(num_tokens=tokens, num_tiles=1, tile_positions=tokens * merge**2, num_projected=tokens)
