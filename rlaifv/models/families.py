"""What differs between families of vision-language models: where their parts are, and what an image becomes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from transformers import PretrainedConfig
from transformers.image_processing_utils import select_best_resolution
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.utils import is_torchvision_available

Part = Literal["vision", "projector", "language_model", "head"]
PARTS: tuple[Part, ...] = get_args(Part)

ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}

# Bounds of the processor published with Qwen3-VL; an image is resized to lie between them.
QWEN3_VL_MIN_PX = 256**2
QWEN3_VL_MAX_PX = 4096**2


@dataclass(frozen=True, slots=True)
class Family:
    """What the tree has to know of a family whose models it runs exactly (the tests compare each with its own forward).

    vision, projector, language_model, head: prefixes of the parameter names of each part, no two of which overlap. The
        input embedding belongs to the language model; a head that is tied to it has no parameters of its own.
    sees_whole_images: whether the tokens of an image see one another in both directions; causal like text otherwise.
    has_video_processor: whether the processor owns one, which cannot be loaded without torchvision.

    In all of them prompts put images before text, so that questions about the same images share a prefix.
    """

    model_type: str
    vision: tuple[str, ...]
    projector: tuple[str, ...]
    language_model: tuple[str, ...] = ("model.language_model.",)
    head: tuple[str, ...] = ("lm_head.",)
    sees_whole_images: bool = False
    has_video_processor: bool = False

    def part_of(self, parameter_name: str) -> Part:
        """The part that a parameter belongs to.

        Raises:
            ValueError: no prefix fits, so the entry of this family lags behind the installed transformers.
        """
        for part in PARTS:
            if parameter_name.startswith(getattr(self, part)):
                return part
        raise ValueError(
            f"The parameter {parameter_name!r} fits no part of {self.model_type!r} in rlaifv/models/families.py."
        )


_TOWER, _PROJECTOR = ("model.vision_tower.",), ("model.multi_modal_projector.",)
# The newline embedding ends each row of an image's grid: it is made of the same stuff as projected features.
_PROJECTOR_AND_NEWLINE = (*_PROJECTOR, "model.image_newline")
_QWEN_TOWER = ("model.visual.patch_embed.", "model.visual.blocks.")

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llava", _TOWER, _PROJECTOR),
        Family("llava_next", _TOWER, _PROJECTOR_AND_NEWLINE),
        Family("llava_onevision", _TOWER, _PROJECTOR_AND_NEWLINE, has_video_processor=True),
        Family("qwen2_5_vl", _QWEN_TOWER, ("model.visual.merger.",), has_video_processor=True),
        Family(
            "qwen3_vl",
            (*_QWEN_TOWER, "model.visual.pos_embed."),
            ("model.visual.merger.", "model.visual.deepstack_merger_list."),
            has_video_processor=True,
        ),
        Family("internvl", _TOWER, _PROJECTOR, has_video_processor=True),
        Family("idefics3", ("model.vision_model.",), ("model.connector.",), ("model.text_model.",)),
        Family(
            "smolvlm", ("model.vision_model.",), ("model.connector.",), ("model.text_model.",), has_video_processor=True
        ),
        Family("gemma3", _TOWER, _PROJECTOR, sees_whole_images=True),
        Family("minicpmv4_6", _TOWER, ("model.merger.",), has_video_processor=True),
    )
}


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model, by its config's `model_type`.

    Raises:
        ValueError: the family has no entry in `FAMILIES`.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"Models of type {config.model_type!r} are not supported; the supported types are {', '.join(FAMILIES)}. "
            "A new one needs an entry in rlaifv/models/families.py."
        )
    return FAMILIES[config.model_type]


def check_family(config: PretrainedConfig) -> None:
    """Refuse what could only fail later.

    Raises:
        ValueError: the model takes no images, keeps a state that branches would share, or its processor lacks a package.
    """
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(f"Models of type {config.model_type!r} do not answer questions about images.")
    others = sorted(set(getattr(config.get_text_config(), "layer_types", None) or ()) - ATTENTION_LAYERS)
    if others:
        raise ValueError(
            f"This {config.model_type!r} model has layers of type {', '.join(others)}, which do not go by a mask, so that "
            "answers to one prompt would run into each other; only models whose layers are all attention can be run."
        )
    family = FAMILIES.get(config.model_type)
    if family is not None and family.has_video_processor and not is_torchvision_available():
        raise ValueError(
            f"The processor of {config.model_type!r} models needs torchvision, which is not installed: pip install torchvision."
        )


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
    """Sizes for an image of height and width `image_px`, or for the image that takes the most tokens.

    Args:
        config: of a model of a known family.
        processor_settings: of the image processor, as in preprocessor_config.json. Only Qwen3-VL's `max_pixels` and
            `min_pixels` (or `size.longest_edge` and `size.shortest_edge`, both in pixels too) matter; the published
            processor's without.
        image_px: height and width before any resizing; LLaVA-1.5 resizes every image to one size.

    Raises:
        ValueError: the family is unknown.
    """
    model_type = family_of(config).model_type
    if model_type == "qwen3_vl":
        return _merged_patches(config, processor_settings or {}, image_px)
    if model_type == "llava_next":
        return _tiles(config, image_px)
    positions, kept = _tower(config)
    return ImageLayout(num_tokens=kept, num_tiles=1, tile_positions=positions, num_projected=kept)


def image_tokens(
    config: PretrainedConfig,
    processor_settings: Mapping[str, Any] | None = None,
    image_px: tuple[int, int] | None = None,
) -> int:
    """Tokens that an image takes in a prompt: `image_layout(...).num_tokens`, where the arguments are explained."""
    return image_layout(config, processor_settings, image_px).num_tokens


def _tower(config: Any) -> tuple[int, int]:
    """Positions of a fixed-size vision tower, and how many of them the feature selection keeps."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    positions = patches + (vision.model_type == "clip_vision_model")  # a class token; SigLIP has none
    return positions, patches if config.vision_feature_select_strategy == "default" else positions


def _tiles(config: Any, image_px: tuple[int, int] | None) -> ImageLayout:
    """LLaVA-NeXT's "anyres": an overview and a grid of tiles, from whose features the padding is cut."""
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
    num_tiles = 1 + (grid_height // tile_px) * (grid_width // tile_px)
    newlines = rows
    return ImageLayout(kept + rows * columns + newlines, num_tiles, positions, num_tiles * kept)


def _merged_patches(config: Any, settings: Mapping[str, Any], image_px: tuple[int, int] | None) -> ImageLayout:
    """Qwen3-VL keeps the image's shape within bounds of area and merges neighbouring patches into one token."""
    merge = config.vision_config.spatial_merge_size
    token_px = config.vision_config.patch_size * merge
    size = settings.get("size") or {}
    largest = settings.get("max_pixels") or size.get("longest_edge") or QWEN3_VL_MAX_PX
    smallest = settings.get("min_pixels") or size.get("shortest_edge") or QWEN3_VL_MIN_PX
    if image_px is None:
        tokens = largest // token_px**2
    else:
        height, width = smart_resize(*image_px, factor=token_px, min_pixels=smallest, max_pixels=largest)
        tokens = (height // token_px) * (width // token_px)
    return ImageLayout(num_tokens=tokens, num_tiles=1, tile_positions=tokens * merge**2, num_projected=tokens)
