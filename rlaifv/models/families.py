"""Model families: what differs between them, and which models cannot be run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import is_torchvision_available

Part = Literal["vision", "projector", "language_model", "head"]
PARTS: tuple[Part, ...] = get_args(Part)

# Published models whose architecture transformers does not have: hub ids without their owner, in small letters, with the
# `model_type`; and where the code of each type is.
FOREIGN_MODELS = {"omnilmm-12b": "omnilmm", "rlaif-v-12b": "omnilmm"}
FOREIGN_CODE = {"omnilmm": "github.com/OpenBMB/MiniCPM-V, folder omnilmm"}
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True, slots=True)
class Family:
    """What prefix trees need to know of a model family. Tests compare each family with its own forward.

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
        """Return the part that a parameter belongs to.

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
        # For weights that stand on a plain transformer; those on Qwen3.5, the default, are refused below.
        Family("minicpmv4_6", _TOWER, ("model.merger.",), has_video_processor=True),
    )
}


def family_of(config: PretrainedConfig) -> Family:
    """Return the family of a model, by its config's `model_type`.

    Raises:
        ValueError: the family has no entry in `FAMILIES`.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"The parts of models of type {config.model_type!r} are not known; those of {', '.join(sorted(FAMILIES))} are."
        )
    return FAMILIES[config.model_type]


def missing_architecture(path: str) -> str | None:
    """Return what is needed to run a model whose architecture transformers lacks; None for all others.

    Args:
        path: a directory, of which config.json is read, or a hub id.
    """
    directory = Path(path).expanduser()
    if directory.is_dir():
        try:
            model_type = json.loads((directory / "config.json").read_text(encoding="utf-8"))["model_type"]
        except (OSError, ValueError, KeyError, TypeError):  # whoever loads it says what is wrong
            return None
    else:
        model_type = FOREIGN_MODELS.get(path.rpartition("/")[2].lower())
    if model_type not in FOREIGN_CODE:
        return None
    return (
        f"{path} is of type {model_type!r}, an architecture that transformers does not have: its code is in its authors' "
        f"repository ({FOREIGN_CODE[model_type]}). To run it, convert its weights to an architecture of transformers, and "
        "give the directory as model.path."
    )


def check_family(config: PretrainedConfig) -> None:
    """Refuse models that would fail later.

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
            f"The processor of {config.model_type!r} models needs torchvision, which is not installed; "
            "`pip install torchvision` mends that."
        )
