import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel

from rlaifv.models.budget.architecture import architecture_config
from rlaifv.models.budget.flops import model_cost
from rlaifv.models.budget.layout import image_layout
from rlaifv.models.budget.memory import (
    dtype_bytes,
    head_bytes,
    kv_cache_bytes,
    layer_activation_bytes,
    training_activation_bytes,
)

NUM_TOKENS = 160
TEXT = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, "head_dim": 32}


def tiny_config(model_type, num_layers, num_kv_heads):
    text = {**TEXT, "num_hidden_layers": num_layers, "num_key_value_heads": num_kv_heads}
    if model_type == "llava":
        return AutoConfig.for_model("llava", text_config={"model_type": "llama", **text})
    return AutoConfig.for_model("qwen3_vl", text_config=text)


def saved_bytes(config, dtype, lora=False):
    """Bytes of the tensors that autograd keeps in one forward pass of the language model, its weights excluded."""
    model = AutoModel.from_config(config.text_config).to(dtype).train()
    if lora:
        model = get_peft_model(model, LoraConfig(r=1, target_modules="all-linear"))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept, storages = [], {}

    def keep(tensor):
        kept.append(tensor)  # its storage is not given to another tensor meanwhile
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    embeddings = torch.randn(1, NUM_TOKENS, TEXT["hidden_size"], dtype=dtype, requires_grad=True)
    mask = torch.ones(1, 1, NUM_TOKENS, NUM_TOKENS, dtype=torch.bool).tril()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=torch.arange(NUM_TOKENS)[None], use_cache=False
        )
    return sum(size for pointer, size in storages.items() if pointer not in weights)


def one_layer(config_of, dtype, lora=False):
    return saved_bytes(config_of(3), dtype, lora) - saved_bytes(config_of(2), dtype, lora)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["llava", "qwen3_vl"])
def test_activations_are_what_autograd_saves(model_type, dtype, num_kv_heads):
    config = tiny_config(model_type, 3, num_kv_heads)
    cost = model_cost(config, image_layout(config, image_px=(320, 320)))
    expected = training_activation_bytes(cost, NUM_TOKENS, dtype.itemsize, trains=True) / 3
    measured = one_layer(lambda layers: tiny_config(model_type, layers, num_kv_heads), dtype)
    assert expected == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_keep_float32_copies_of_their_inputs(dtype):
    config = tiny_config("llava", 3, 4)
    cost = model_cost(config, image_layout(config))
    measured = one_layer(lambda layers: tiny_config("llava", layers, 4), dtype, lora=True)
    expected = training_activation_bytes(cost, NUM_TOKENS, dtype.itemsize, trains=False, adapter_bytes=4) / 3
    # The estimate allows for dropout masks, a byte for every input, which these adapters do not have.
    dropout = NUM_TOKENS * cost.adapter_inputs
    assert expected - dropout == pytest.approx(measured, rel=0.05)


def test_frozen_layers_keep_less_and_recomputed_ones_least():
    config = tiny_config("llava", 8, 4)
    cost = model_cost(config, image_layout(config))
    assert layer_activation_bytes(cost, 2, trains=False) < layer_activation_bytes(cost, 2, trains=True)
    kept = training_activation_bytes(cost, NUM_TOKENS, 2, trains=True)
    recomputed = training_activation_bytes(cost, NUM_TOKENS, 2, trains=True, recompute=True)
    assert recomputed == kept // 8 + 8 * NUM_TOKENS * TEXT["hidden_size"] * 2


def test_llava_7b_keeps_512_kib_of_keys_and_values_for_a_token():
    config = architecture_config("llava-1.5-7b-hf")
    cost = model_cost(config, image_layout(config))
    assert kv_cache_bytes(cost, 1, 2) == 512 * 2**10
    assert kv_cache_bytes(cost, 606, 2) / 2**20 == 303


def test_gradients_double_the_logits():
    config = tiny_config("llava", 1, 4)
    cost = model_cost(config, image_layout(config))
    assert head_bytes(cost, 10, 2) == 10 * 64 * 6
    assert head_bytes(cost, 10, 2, with_gradients=True) == 2 * head_bytes(cost, 10, 2)


def test_dtype_bytes_of_a_name_and_of_the_checkpoint():
    config = architecture_config("llava-1.5-7b-hf")
    assert dtype_bytes("float32", config) == 4
    assert dtype_bytes("auto", config) == 2
    assert dtype_bytes("auto", AutoConfig.for_model("llava")) == 4
    for wrong in ("int8", "nonsense", "Tensor"):
        with pytest.raises(ValueError, match=f"'{wrong}' is no floating-point dtype"):
            dtype_bytes(wrong, config)
