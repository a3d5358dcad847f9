"""The embedded world's tokenizer, processor and shipped weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from rlaifv.models.digests import weights_digest
from rlaifv.models.loading import load_model
from rlaifv.models.prompting import Prompter
from rlaifv.stages.score import WORDING
from rlaifv.worlds.shapes import COLOURS, POSITIONS, QUESTIONS, SHAPES, Thing, polar_question
from rlaifv.worlds.shapes_model import WEIGHTS_DIR, build_model, build_processor, save_small

THINGS = [Thing(cell, colour, shape) for cell in range(9) for colour in COLOURS for shape in SHAPES]
TEXTS = [
    *QUESTIONS,
    *(thing.sentence for thing in THINGS),
    *(polar_question(thing) + WORDING.suffix for thing in THINGS),
    *(f"What is at the {position}?" for position in POSITIONS),
    *(f"A {colour} {shape}." for colour in COLOURS for shape in SHAPES),
    " ".join(thing.caption_sentence for thing in THINGS),
    "Nothing.",
    "Yes",
    "No",
]


def test_every_text_of_the_world_is_known_and_comes_back(processor: Any) -> None:
    tokenizer = processor.tokenizer
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text
        after_template = tokenizer(f"ASSISTANT: {text}</s>", add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in after_template, text


def test_other_text_is_unknown_not_lost(processor: Any) -> None:
    ids = processor.tokenizer("a zebra", add_special_tokens=False).input_ids
    assert ids[1:] == [processor.tokenizer.unk_token_id]


def test_ids_are_unique_and_special_ones_come_first(processor: Any) -> None:
    vocabulary = processor.tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(processor.tokenizer)))
    assert sorted(processor.tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
    assert processor.image_token_id == vocabulary["<image>"]


def test_a_saved_processor_gives_the_same_ids_and_pixels(processor: Any, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.chat_template == processor.chat_template
    for text in (*TEXTS, "a zebra", "<image>\n</s>"):
        assert loaded.tokenizer(text).input_ids == processor.tokenizer(text).input_ids
    image = Image.effect_noise((192, 192), 80).convert("RGB")
    both = [one(text="<image> ?", images=image, return_tensors="pt") for one in (processor, loaded)]
    assert both[0].keys() == both[1].keys()
    for name, tensor in both[0].items():
        assert torch.equal(tensor, both[1][name])


def test_an_image_is_nine_tokens_of_what_the_model_expects(model: Any, processor: Any) -> None:
    inputs = processor(text="<image> ?", images=Image.new("RGB", (192, 192)), return_tensors="pt")
    assert (inputs.input_ids == model.config.image_token_id).sum() == 9
    features = model.get_image_features(inputs.pixel_values).pooler_output
    assert torch.cat(list(features)).shape == (9, 64)


def test_saving_small_halves_the_weights_and_leaves_the_model_alone(
    model: Any, processor: Any, model_dir: Path, tmp_path: Path
) -> None:
    digest = weights_digest(model)
    save_small(model, processor, tmp_path / "small")
    assert weights_digest(model) == digest
    assert model.dtype == torch.float32
    sizes = [(directory / "model.safetensors").stat().st_size for directory in (tmp_path / "small", model_dir)]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.02)
    loaded, _ = load_model(str(tmp_path / "small"), dtype="float32")
    for (name, tensor), (other, original) in zip(loaded.state_dict().items(), model.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(tensor, original.to(torch.bfloat16).float())


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    model = AutoModelForImageTextToText.from_pretrained(WEIGHTS_DIR, dtype=torch.float32, use_safetensors=True)
    return model.eval(), AutoProcessor.from_pretrained(WEIGHTS_DIR)


def test_the_shipped_weights_are_small() -> None:
    assert (WEIGHTS_DIR / "model.safetensors").stat().st_size <= 6 * 10**6
    assert sum(path.stat().st_size for path in WEIGHTS_DIR.iterdir()) <= 6.1 * 10**6


def test_the_shipped_weights_are_those_of_the_built_model(shipped: tuple[Any, Any], processor: Any) -> None:
    model, loaded = shipped
    assert isinstance(model, LlavaForConditionalGeneration)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 4 * 10**6
    built = build_model(build_processor().tokenizer)
    assert {name: p.shape for name, p in model.named_parameters()} == {n: p.shape for n, p in built.named_parameters()}
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert loaded.chat_template == processor.chat_template
    assert Prompter(loaded).yes_no_ids() == Prompter(processor).yes_no_ids()
    assert model.generation_config.eos_token_id == loaded.tokenizer.eos_token_id
