"""Masks and positions as each family wants them: literal in, literal out, and a decoding step against the whole sequence."""

from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from rlaifv.models.tree.attention import attention_masks, open_images, prefix_positions, uses_mrope

IMAGE = 4
CAUSAL = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
COUNTED = torch.arange(4)[None]


@pytest.fixture
def attention_of() -> Any:
    """Sets a model's attention implementation for one test."""
    changed = []

    def change(model: Any, attention: str) -> Any:
        changed.append(model)
        model.config.get_text_config()._attn_implementation = attention
        return model

    yield change
    for model in changed:
        model.config.get_text_config()._attn_implementation = "sdpa"


def test_one_mask_where_all_layers_see_everything(tiny_qwen: Any, attention_of: Any) -> None:
    assert attention_masks(tiny_qwen.model, CAUSAL, COUNTED, COUNTED) is CAUSAL
    eager = attention_masks(attention_of(tiny_qwen.model, "eager"), CAUSAL, COUNTED, COUNTED)
    lowest = torch.finfo(torch.float32).min
    assert eager[0, 0].tolist() == [[0 if k <= q else lowest for k in range(4)] for q in range(4)]
    blocks = attention_masks(attention_of(tiny_qwen.model, "flex_attention"), CAUSAL, COUNTED, COUNTED)
    assert blocks.shape == (1, 1, 4, 4)
    allowed = [[bool(blocks.mask_mod(0, 0, q, k)) for k in range(4)] for q in range(4)]
    assert allowed == CAUSAL[0, 0].tolist()


def test_attention_that_would_ignore_the_mask_is_refused(tiny_qwen: Any, attention_of: Any) -> None:
    model = attention_of(tiny_qwen.model, "flash_attention_2")
    with pytest.raises(ValueError, match=r"model\.attention='flash_attention_2' cannot run trees; use auto, sdpa"):
        attention_masks(model, CAUSAL, COUNTED, COUNTED)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_window_counts_positions_and_not_columns(tiny_gemma: Any, attention_of: Any, attention: str) -> None:
    """Gemma's window here is 8: the query at 9 sees keys from 2 on, wherever they lie."""
    model = attention_of(tiny_gemma.model, attention)
    allowed = torch.tensor([[[[True, True, True, False]]]])
    masks = attention_masks(model, allowed, torch.tensor([[9]]), torch.tensor([[2, 1, 9, 8]]))
    visible = {name: (mask if attention == "sdpa" else mask == 0)[0, 0].tolist() for name, mask in masks.items()}
    assert visible == {"full_attention": [[True, True, True, False]], "sliding_attention": [[True, False, True, False]]}


def test_a_model_whose_layers_all_slide_gets_one_mask(tiny_mistral: Any) -> None:
    allowed = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    mask = attention_masks(tiny_mistral.model, allowed, torch.tensor([[12]]), torch.tensor([[0, 1]]))
    assert mask.tolist() == [[[[False, True]]]]


def test_images_see_themselves_whole(tiny_gemma: Any, tiny_qwen: Any) -> None:
    """Two images of a sequence, of which the second ends it, and the image that begins the next sequence of the row."""
    ids = torch.tensor([[IMAGE, IMAGE, 9, IMAGE, IMAGE, IMAGE, IMAGE]])
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1]])
    causal = torch.ones(1, 1, 7, 7, dtype=torch.bool).tril()
    opened = open_images(tiny_gemma.model, causal, ids, positions) ^ causal
    assert opened[0, 0].nonzero().tolist() == [[0, 1], [3, 4], [5, 6]]
    assert open_images(tiny_qwen.model, causal, ids, positions) is causal


def test_positions_on_three_axes(tiny_qwen: Any) -> None:
    """A text token, an image of one by two merged patches, a text token, another of two by one, and what follows."""
    grids = torch.tensor([[1, 2, 4], [1, 4, 2]])
    first, second = [9, IMAGE, IMAGE, 9], [9, 9, IMAGE, IMAGE, 9]
    whole = prefix_positions(tiny_qwen.model, [first + second], {"image_grid_thw": grids})
    assert whole[0].tolist() == [
        [0, 1, 1, 3, 4, 5, 6, 6, 8],
        [0, 1, 1, 3, 4, 5, 6, 7, 8],
        [0, 1, 2, 3, 4, 5, 6, 6, 8],
    ]
    apart = prefix_positions(tiny_qwen.model, [first, [9, 9], second], {"image_grid_thw": grids})
    assert apart[0].tolist() == whole[0][:, :4].tolist()
    assert apart[1].tolist() == [[0, 1]] * 3
    assert apart[2].tolist() == (whole[0][:, 4:] - 4).tolist()
    assert tiny_qwen.model.model.rope_deltas is None


def test_other_families_count(tiny_gemma: Any) -> None:
    assert not uses_mrope(tiny_gemma.model)
    assert [one.tolist() for one in prefix_positions(tiny_gemma.model, [[9, IMAGE, 9], [9]], {})] == [[0, 1, 2], [0]]


@torch.no_grad()
def test_a_decoding_step_over_forked_caches_equals_the_whole_sequence(tiny: Any) -> None:
    """A prefix is run once with its mask, forked, and two answers go on token by token over the cached keys."""
    base, prompt, answers = tiny.model.model, tiny.prompts[1], torch.tensor([[60, 61, 62], [70, 71, 72]])
    ids = torch.tensor([prompt.ids])
    length = ids.shape[1]
    places = torch.arange(length)[None]
    allowed = open_images(tiny.model, torch.ones(1, 1, length, length, dtype=torch.bool).tril(), ids, places)
    (positions,) = prefix_positions(tiny.model, [prompt.ids], prompt.images)
    cache = DynamicCache()
    base(
        input_ids=ids,
        attention_mask=attention_masks(tiny.model, allowed, places, places),
        position_ids=positions.unsqueeze(-2),
        past_key_values=cache,
        use_cache=True,
        **prompt.images,
    )
    cache.batch_repeat_interleave(2)
    for step in range(3):
        keys = torch.arange(length + step + 1).expand(2, -1)
        here = torch.full((2, 1), int(positions.max()) + 1 + step)
        hidden = base(
            input_ids=answers[:, step : step + 1],
            attention_mask=attention_masks(tiny.model, torch.ones(2, 1, 1, keys.shape[1]) > 0, keys[:, -1:], keys),
            position_ids=here.expand(3, -1, -1) if uses_mrope(tiny.model) else here,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        for row, answer in enumerate(answers):
            expected = last_hidden(tiny.model, torch.cat([ids[0], answer[: step + 1]]), prompt.images)
            torch.testing.assert_close(hidden[row], expected, rtol=1e-4, atol=1e-5)


def last_hidden(model: Any, ids: Tensor, images: dict[str, Tensor]) -> Tensor:
    known = signature(model.model.forward).parameters
    types = {name: (ids[None] == IMAGE).long() for name in ("mm_token_type_ids", "token_type_ids") if name in known}
    found = model.model(input_ids=ids[None], **types, **images).last_hidden_state[0, -1]
    if uses_mrope(model):
        model.model.rope_deltas = None
    return found
