"""Figures for LLaVA-1.5-7B follow from its published sizes: 32 layers, width 4096, MLP 11008, vocabulary 32064."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from rlaifv.models.budget.architecture import architecture_config
from rlaifv.models.budget.flops import model_cost
from rlaifv.models.budget.layout import image_layout
from rlaifv.models.loading import select_trainable
from rlaifv.worlds.shapes_model import build_model, build_tokenizer

TERA = 1e12


@pytest.fixture(scope="module")
def cost():
    config = architecture_config("llava-1.5-7b-hf")
    return model_cost(config, image_layout(config))


def test_linear_layers(cost):
    assert cost.linear_weights == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert cost.token_flops / 1e9 == pytest.approx(12.952, rel=1e-3)


def test_head(cost):
    assert cost.head_flops(1) == 2 * 4096 * 32064
    assert cost.head_flops(1412) / TERA == pytest.approx(0.371, rel=2e-3)


def test_image(cost):
    assert cost.vision_flops / TERA == pytest.approx(0.382, rel=5e-3)
    assert cost.projector_flops / TERA == pytest.approx(0.024, rel=1e-2)


def test_pair_that_shares_its_prefix_against_two_sequences(cost):
    shared = cost.language_flops(606, num_branches=2, branch_tokens=100)
    separate = 2 * cost.language_flops(706)
    assert shared / TERA == pytest.approx(10.60, rel=2e-3)
    assert separate / TERA == pytest.approx(18.55, rel=2e-3)
    assert separate / shared == pytest.approx(1.75, rel=2e-3)


@given(prefix=st.integers(1, 3000), branch=st.integers(0, 3000))
def test_one_branch_costs_what_the_whole_sequence_costs(cost, prefix, branch):
    assert cost.language_flops(prefix, 1, branch) == pytest.approx(cost.language_flops(prefix + branch), rel=1e-12)


def test_grouped_queries_shrink_keys_and_values_only():
    config = architecture_config("qwen3-vl-8b-instruct")
    cost = model_cost(config, image_layout(config, image_px=(640, 480)))
    assert (cost.attention_width, cost.kv_width) == (32 * 128, 8 * 128)
    assert cost.kv_elements == 2 * 36 * 1024
    assert cost.has_qk_norm
    # 640 by 480 is 40 by 30 patches of 16; two by two make a token.
    assert cost.image.num_tokens == 300
    per_patch = 27 * (4 * 1152**2 + 2 * 1152 * 4304) + 2 * 3 * 16 * 16 * 1152
    assert cost.vision_flops == 2 * per_patch * 1200 + 4 * 27 * 1152 * 1200**2


def test_agrees_with_the_operations_that_run():
    model = build_model(build_tokenizer()).eval()
    model.set_attn_implementation("eager")  # its scores are counted in full, not only below the diagonal
    cost = model_cost(model.config, image_layout(model.config))
    ids = torch.full((1, 40), 30)
    ids[0, 2:11] = model.config.image_token_id
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(input_ids=ids, pixel_values=torch.zeros(1, 3, 48, 48), use_cache=False)
    expected = cost.vision_flops + cost.projector_flops + 40 * cost.token_flops + cost.head_flops(40)
    expected += cost.attention_flops(40, 40)
    assert expected == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_adapter_weights_are_those_that_peft_adds():
    model = build_model(build_tokenizer())
    cost = model_cost(model.config, image_layout(model.config))
    adapted = select_trainable(model, (), lora={"r": 4})
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == cost.adapter_weights(4)
