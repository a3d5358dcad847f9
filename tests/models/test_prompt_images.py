"""Images in prompts: read once, stacked as the processors stack them, refused beyond the limits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rlaifv.data.images import ImageError, load_image
from rlaifv.models import prompting as prompting_module
from rlaifv.models.prompting import EncodedPrompt, Prompter, stack_images
from rlaifv.records import Prompt
from rlaifv.worlds.shapes_model import build_processor
from tests.models.processors import IMAGE, anyres, gemma, idefics


def test_several_images_have_placeholders_each(prompter: Prompter, prompts: list[Prompt]) -> None:
    paths = tuple(path for prompt in prompts[:3] for path in prompt.image_paths)
    together = prompter.encode(Prompt("three", "What is it?", paths))
    assert together.ids.count(IMAGE) == 27
    alone = [prompter.encode(prompt).images["pixel_values"] for prompt in prompts[:3]]
    assert torch.equal(together.images["pixel_values"], torch.cat(alone))
    assert not torch.equal(alone[0], alone[1])
    backwards = prompter.encode(Prompt("backwards", "What is it?", paths[::-1]))
    assert torch.equal(backwards.images["pixel_values"], torch.cat(alone[::-1]))


def test_a_prompt_without_images(prompter: Prompter) -> None:
    encoded = prompter.encode(Prompt("text", "What is it?", ()))
    assert encoded.images == {}
    assert IMAGE not in encoded.ids
    assert stack_images([encoded, encoded]) == {}


def test_an_image_that_is_missing_is_named(prompter: Prompter, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.png"):
        prompter.encode(Prompt("p", "?", (str(tmp_path / "absent.png"),)))


def test_images_beyond_the_limits_are_not_decoded(processor: Any, prompts: list[Prompt]) -> None:
    for limits, reason in (({"max_pixels": 100}, "too_many_pixels"), ({"max_bytes": 100}, "too_many_bytes")):
        with pytest.raises(ImageError) as refused:
            Prompter(processor, **limits).encode(prompts[0])
        assert refused.value.reason == reason


def spy_on_reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []

    def load(path: str, *limits: int) -> Image.Image:
        read.append(path)
        return load_image(path, *limits)

    monkeypatch.setattr(prompting_module, "load_image", load)
    return read


def test_images_are_read_once(prompter: Prompter, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch) -> None:
    read = spy_on_reading(monkeypatch)
    first = prompter.encode(prompts[0])
    again = prompter.encode(prompts[0])
    prompter.question_ids(prompts[0], "What is it?")
    assert read == list(prompts[0].image_paths)
    assert again.ids == first.ids
    assert torch.equal(again.images["pixel_values"], first.images["pixel_values"])


def test_the_least_recently_used_images_are_forgotten(
    prompter: Prompter, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = 3 * 48 * 48 * 4
    monkeypatch.setattr(prompting_module, "PIXEL_CACHE_BYTES", 2 * one)
    read = spy_on_reading(monkeypatch)
    a, b, c = prompts[:3]
    original = prompter.encode(a).images["pixel_values"]
    for prompt in (b, a, c, a, b):  # c takes the place of b
        prompter.encode(prompt)
    assert read == [path for prompt in (a, b, c, b) for path in prompt.image_paths]
    prompter.encode(c)
    assert torch.equal(prompter.encode(a).images["pixel_values"], original)
    assert len(read) == 6


def test_images_of_different_numbers_of_tiles_stack_as_the_processor_stacks_them(tmp_path: Path) -> None:
    processor = anyres()
    pictures = [Image.effect_noise(size, 80).convert("RGB") for size in ((90, 40), (95, 95), (40, 90))]
    paths = []
    for k, picture in enumerate(pictures):
        paths.append(str(tmp_path / f"{k}.png"))
        picture.save(paths[-1])
    prompter = Prompter(processor)
    encoded = [prompter.encode(Prompt(str(k), "What is it?", (path,))) for k, path in enumerate(paths)]
    assert [one.images["pixel_values"].shape[1] for one in encoded] == [3, 5, 3]
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    expected = processor(text=[text] * 3, images=pictures, return_tensors="pt", padding=True)
    assert [list(one.ids) for one in encoded] == [
        ids[mask.bool()].tolist() for ids, mask in zip(expected.input_ids, expected.attention_mask, strict=True)
    ]
    together = prompter.encode(Prompt("three", "What is it?", tuple(paths)))
    for stacked in (stack_images(encoded), together.images):
        assert stacked.keys() == {"pixel_values", "image_sizes"}
        assert torch.equal(stacked["pixel_values"], expected.pixel_values)
        assert torch.equal(stacked["image_sizes"], expected.image_sizes)
    assert together.ids.count(IMAGE) == sum(one.ids.count(IMAGE) for one in encoded)


@pytest.mark.parametrize("build", [gemma, idefics])
def test_what_a_family_puts_around_its_images_is_kept(build: Any, tmp_path: Path) -> None:
    """Markers, line breaks and the numbers of tiles, as the processor writes them when it is given the whole prompt."""
    processor, paths = build(), []
    pictures = [Image.effect_noise(size, 80).convert("RGB") for size in ((56, 30), (40, 56))]
    for k, picture in enumerate(pictures):
        paths.append(str(tmp_path / f"{k}.png"))
        picture.save(paths[-1])
    prompter = Prompter(processor)
    for number in (1, 2):
        content = [*({"type": "image"} for _ in range(number)), {"type": "text", "text": "What is it?"}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        expected = processor(text=[text], images=[pictures[:number]], return_tensors="pt")
        encoded = prompter.encode(Prompt("p", "What is it?", tuple(paths[:number])))
        assert list(encoded.ids) == expected["input_ids"][0].tolist()
        assert encoded.images.keys() == expected.keys() - {"input_ids", "attention_mask", "token_type_ids"}
        assert all(torch.equal(tensor, expected[name]) for name, tensor in encoded.images.items())
        placeholder = processor.tokenizer.convert_tokens_to_ids("<image_soft_token>" if build is gemma else "<image>")
        assert prompter.image_token_id == placeholder
        assert encoded.ids.count(placeholder) >= 4 * number


@pytest.mark.parametrize("build", [build_processor, anyres, gemma, idefics])
def test_tokens_are_counted_by_the_sizes_of_images(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as encoding the prompt gives; pictures of the same sizes are not processed again, and none is read."""
    sizes = ((56, 30), (40, 56), (90, 40))
    paths = tuple(str(tmp_path / f"{k}.png") for k in range(3))
    for path, size in zip(paths, sizes, strict=True):
        Image.effect_noise(size, 80).convert("RGB").save(path)
    prompts = [Prompt(str(n), f"What is {'it ' * n}?", paths[:n]) for n in range(4)] + [Prompt("4", "?", paths[2:])]
    expected = [len(Prompter(build()).encode(prompt).ids) for prompt in prompts]
    prompter = Prompter(build())
    read = spy_on_reading(monkeypatch)
    calls: list[int] = []
    process = Prompter._process
    monkeypatch.setattr(Prompter, "_process", lambda self, images: calls.append(len(images)) or process(self, images))
    for _ in range(2):
        assert [prompter.num_tokens(p, dict(zip(paths, sizes, strict=True))) for p in prompts] == expected
    assert len(set(expected)) == 5
    assert read == []
    assert calls == [1, 2, 3, 1]


def test_patches_of_images_cut_into_strips_lie_side_by_side() -> None:
    """MiniCPM-V: one strip of patches for all images, and the grid of each."""
    first, second = (
        {"pixel_values": torch.rand(1, 3, 7, 7 * size), "target_sizes": torch.tensor([[2, size // 2]])}
        for size in (8, 4)
    )
    stacked = stack_images([EncodedPrompt((1,), first), EncodedPrompt((2,), second)])
    assert torch.equal(stacked["pixel_values"][..., :56], first["pixel_values"])
    assert torch.equal(stacked["pixel_values"][..., 56:], second["pixel_values"])
    assert stacked["target_sizes"].tolist() == [[2, 4], [2, 2]]


def test_masks_of_tiles_are_padded_with_the_tiles() -> None:
    images = [
        {"pixel_values": torch.rand(1, n, 3, 4, 4), "pixel_attention_mask": torch.ones(1, n, 4, 4)} for n in (1, 3)
    ]
    stacked = stack_images([EncodedPrompt((1,), one) for one in images])
    assert stacked["pixel_values"].shape == (2, 3, 3, 4, 4)
    assert stacked["pixel_attention_mask"][:, :, 0, 0].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert not stacked["pixel_values"][0, 1:].any()


def test_prompts_without_images_take_no_place_in_a_stack() -> None:
    pixels = torch.rand(1, 3, 2, 2)
    stacked = stack_images([EncodedPrompt((1,), {}), EncodedPrompt((2,), {"pixel_values": pixels})])
    assert torch.equal(stacked["pixel_values"], pixels)
