import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig

from rlaifv.models.budget.architecture import (
    DESCRIPTIONS_DIR,
    architecture_config,
    build_on_meta,
    parameter_table,
    weights_on_disk,
)
from rlaifv.worlds.shapes_model import build_model, build_tokenizer

COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    """An empty hub cache, and a network that fails when it is asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("reached for the network"))
    return tmp_path / "hub"


def put_in_cache(hub_cache, name, files):
    repository = hub_cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    for file, text in files.items():
        (repository / "snapshots" / COMMIT / file).write_text(text)


# Totals as published with the checkpoints.
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llava-hf/llava-1.5-7b-hf", 7.063),
        ("llava-hf/llava-1.5-13b-hf", 13.35),
        ("llava-hf/llava-v1.6-34b-hf", 34.75),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8.292),
        ("Qwen/Qwen3-VL-8B-Instruct", 8.767),
    ],
)
def test_shipped_descriptions_have_the_published_size(name, billions):
    model = build_on_meta(architecture_config(name))
    assert all(parameter.is_meta for parameter in model.parameters())
    table = parameter_table(model)
    assert sum(part.total for part in table) == sum(parameter.numel() for parameter in model.parameters())
    assert sum(part.total for part in table) / 1e9 == pytest.approx(billions, rel=1e-3)


def test_every_description_is_a_known_family():
    for file in DESCRIPTIONS_DIR.glob("*.json"):
        table = parameter_table(build_on_meta(architecture_config(f"anyone/{file.stem.upper()}")))
        assert [part.name for part in table] == ["vision", "projector", "language_model", "head"]
        assert all(part.total for part in table)


def test_parts_of_llava_7b():
    sizes = {part.name: part.total for part in parameter_table(build_on_meta(architecture_config("llava-1.5-7b-hf")))}
    assert sizes["projector"] == 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    assert sizes["head"] == 32064 * 4096
    layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert sizes["language_model"] == 32 * layer + 4096 + 32064 * 4096


def test_parts_of_qwen3_vl_split_the_merger_from_the_tower():
    sizes = {
        part.name: part.total for part in parameter_table(build_on_meta(architecture_config("qwen3-vl-8b-instruct")))
    }
    wide = 4 * 1152
    merger = wide * wide + wide + wide * 4096 + 4096
    assert (
        sizes["projector"] == 4 * merger + 2 * 1152 + 3 * 2 * wide
    )  # the last merger and three of deepstack, with norms


def test_tied_head_counts_once():
    config = AutoConfig.for_model(
        "qwen3_vl",
        text_config={"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 64},
        vision_config={"depth": 1, "out_hidden_size": 64, "deepstack_visual_indexes": [0]},
        tie_word_embeddings=True,
    )
    assert {part.name: part.total for part in parameter_table(build_on_meta(config))}["head"] == 0


def test_what_trains_is_told_by_name_or_by_requires_grad():
    model = build_model(build_tokenizer())
    named = {part.name: part for part in parameter_table(model, lambda name: "projector" in name)}
    assert named["projector"].trainable == named["projector"].total > 0
    assert named["language_model"].trainable == 0
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    assert [part.name for part in parameter_table(model) if part.trainable] == ["head"]


def test_adapters_are_a_part_of_their_own():
    plain = {part.name: part.total for part in parameter_table(build_model(build_tokenizer()))}
    adapted = get_peft_model(build_model(build_tokenizer()), LoraConfig(r=2, target_modules=["q_proj"]))
    table = {part.name: part for part in parameter_table(adapted)}
    assert table["adapters"].total == table["adapters"].trainable
    assert table["vision"].total + table["language_model"].total == plain["vision"] + plain["language_model"]


def test_config_of_a_directory(tmp_path):
    build_model(build_tokenizer()).config.save_pretrained(tmp_path / "model")
    assert architecture_config(str(tmp_path / "model")).text_config.hidden_size == 192
    (tmp_path / "model/config.json").write_text("{")
    with pytest.raises(ValueError, match=r"holds no readable config\.json"):
        architecture_config(str(tmp_path / "model"))


def test_hub_cache_goes_before_the_description(hub_cache):
    changed = json.loads((DESCRIPTIONS_DIR / "llava-1.5-7b-hf.json").read_text())
    changed["text_config"]["num_hidden_layers"] = 7
    put_in_cache(hub_cache, "llava-hf/llava-1.5-7b-hf", {"config.json": json.dumps(changed)})
    assert architecture_config("llava-hf/llava-1.5-7b-hf").text_config.num_hidden_layers == 7


@pytest.mark.parametrize("path", ["someone/unheard-of", "not a hub id", "/no/such/directory"])
def test_unknown_model_says_what_to_do(path):
    with pytest.raises(ValueError, match=r"no local directory.*shipped descriptions.*hf download"):
        architecture_config(path)


def test_weights_on_disk_of_a_directory(tmp_path):
    assert not weights_on_disk(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'
    )
    (tmp_path / "1.safetensors").touch()
    assert not weights_on_disk(str(tmp_path))
    (tmp_path / "2.safetensors").touch()
    assert weights_on_disk(str(tmp_path))


def test_weights_on_disk_of_a_hub_id(hub_cache):
    assert not weights_on_disk("someone/model")
    assert not weights_on_disk("/no/such/directory")
    put_in_cache(hub_cache, "someone/model", {"model.safetensors": ""})
    assert weights_on_disk("someone/model")
    assert not weights_on_disk("someone/model", revision="f" * 40)


def test_meta_device_does_not_leak():
    build_on_meta(architecture_config("llava-1.5-7b-hf"))
    assert torch.empty(1).device.type == "cpu"
