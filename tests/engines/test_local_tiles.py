"""The local engine with a family that cuts pictures into tiles."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
)

from rlaifv.engines.local import LocalEngine
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt
from rlaifv.worlds.shapes_model import CHAT_TEMPLATE, build_tokenizer
from tests.engines.plain import QUESTIONS, Asked, ask_plainly, assert_close, sharpened


@pytest.fixture(scope="module")
def anyres() -> tuple[Any, Any]:
    """A small LLaVA-NeXT and its processor: an overview and up to four tiles of nine patches, newlines between rows."""
    grids = [[48, 96], [96, 48], [96, 96]]
    tokenizer = build_tokenizer()
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, image_grid_pinpoints=grids
        ),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(num_hidden_layers=1, image_size=48, patch_size=16, projection_dim=64, **sizes),
        text_config=LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=2, num_key_value_heads=2, **sizes),
        image_token_index=tokenizer.vocab["<image>"],
        image_grid_pinpoints=grids,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    return sharpened(LlavaNextForConditionalGeneration(config)), processor


@pytest.fixture
def photographs(tmp_path: Path) -> list[Prompt]:
    """Pictures of several shapes, which LLaVA-NeXT cuts into different numbers of tiles and tokens."""
    prompts = []
    for k, size in enumerate(((90, 40), (95, 95), (30, 90), (64, 50))):
        path = tmp_path / f"{k}.png"
        noise = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(k))
        Image.fromarray(noise.to(torch.uint8).numpy()).save(path)
        prompts.append(Prompt(f"photograph-{k}", "What is it?", (str(path),)))
    return prompts


def test_llava_next_answers_as_it_does_to_each_question_alone(
    anyres: tuple[Any, Any], photographs: list[Prompt]
) -> None:
    model, processor = anyres
    engine = LocalEngine(model, Prompter(processor))
    several = Prompt("several", "What is it?", tuple(path for p in photographs[:2] for path in p.image_paths))
    asked: Asked = [(prompt, QUESTIONS) for prompt in (*photographs, several)]
    tiles = [engine.prompter.encode(prompt).images["pixel_values"].shape[1] for prompt in photographs]
    assert tiles == [3, 5, 3, 5]
    expected = [[ask_plainly(model, processor, prompt, question) for question in some] for prompt, some in asked]
    assert_close(engine.answer_probabilities(asked), expected)
    p_yes = torch.tensor([[pair[0] for pair in some] for some in expected])
    assert (p_yes.std(0) / p_yes.mean(0)).max() > 0.05  # the pictures matter


def test_llava_next_samples_do_not_depend_on_the_batch(anyres: tuple[Any, Any], photographs: list[Prompt]) -> None:
    model, processor = anyres
    engine = LocalEngine(model, Prompter(processor))
    seeds = [[k, k + 10] for k in range(4)]
    together = engine.sample(photographs, seeds, Decoding(max_new_tokens=8))
    alone = [engine.sample([photographs[k]], [seeds[k]], Decoding(max_new_tokens=8))[0] for k in range(4)]
    assert together == alone
