"""What loads, what is refused, what trains, and what an export gives back."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM

from rlaifv.models import families, loading
from rlaifv.models.digests import weights_digest
from rlaifv.models.families import FAMILIES
from rlaifv.models.loading import backbone, export_model, load_chat_model, load_model, select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt

LORA = {"r": 2, "lora_alpha": 4}


def logits_of(model: Any, prompter: Prompter, prompt: Prompt) -> torch.Tensor:
    encoded = prompter.encode(prompt)
    with torch.no_grad():
        return model(input_ids=torch.tensor([encoded.ids]), **encoded.images).logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_loads_what_was_saved(model: Any, model_dir: Path, prompts: list[Prompt], attention: str) -> None:
    loaded: Any
    loaded, processor = load_model(str(model_dir), attention=attention)
    assert not loaded.training
    assert loaded.config._attn_implementation == attention
    assert weights_digest(loaded) == weights_digest(model)
    prompter = Prompter(processor)
    torch.testing.assert_close(logits_of(loaded, prompter, prompts[0]), logits_of(model, prompter, prompts[0]))


def test_home_directories_are_expanded(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model_dir.parent))
    assert weights_digest(load_model("~/model")[0]) == weights_digest(load_model(str(model_dir))[0])


def test_dtypes(model: Any, model_dir: Path, tmp_path: Path) -> None:
    assert load_model(str(model_dir), dtype="bfloat16")[0].dtype == torch.bfloat16
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja"):
        shutil.copy(model_dir / name, tmp_path / "half")
    assert load_model(str(tmp_path / "half"))[0].dtype == torch.bfloat16
    assert load_model(str(tmp_path / "half"), dtype="float32")[0].dtype == torch.float32


def refusal_of(path: str) -> str:
    with pytest.raises(ValueError, match=r"could not be loaded as an image-text-to-text model: \S") as error:
        load_model(path)
    assert f"model.path={path!r}" in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refusal_of(str(tmp_path / "missing"))
    refusal_of("nobody/no-such-model")
    refusal_of(str(tmp_path / "empty"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "processor_config.json"])
def test_a_missing_file_is_an_error(model_dir: Path, name: str) -> None:
    (model_dir / name).unlink()
    refusal_of(str(model_dir))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_truncated_file_is_an_error(model_dir: Path, name: str) -> None:
    content = (model_dir / name).read_bytes()
    (model_dir / name).write_bytes(content[: len(content) // 2])
    refusal_of(str(model_dir))


def test_weights_of_another_size_are_an_error(model_dir: Path) -> None:
    weights = load_file(model_dir / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("model.norm.weight"))
    weights[name] = torch.zeros(3)
    save_file(weights, model_dir / "model.safetensors", {"format": "pt"})
    refusal_of(str(model_dir))


def test_weights_that_lack_a_tensor_are_an_error(model_dir: Path) -> None:
    """Random numbers in its place would make a model that runs and knows nothing."""
    weights = load_file(model_dir / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("model.norm.weight"))
    del weights[name]
    save_file(weights, model_dir / "model.safetensors", {"format": "pt"})
    assert "its weights lack 1 tensors of the model, model.language_model.norm.weight" in refusal_of(str(model_dir))


def test_a_text_model_is_an_error(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    assert "Models of type 'llama' do not answer questions about images." in refusal_of(str(tmp_path / "llama"))


def test_a_family_is_refused_before_its_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AutoConfig.for_model("qwen3_5").save_pretrained(tmp_path / "qwen3_5")
    assert "has layers of type linear_attention, which do not go by a mask" in refusal_of(str(tmp_path / "qwen3_5"))
    monkeypatch.setattr(families, "is_torchvision_available", lambda: False)
    AutoConfig.for_model("qwen3_vl").save_pretrained(tmp_path / "qwen3_vl")
    assert "needs torchvision, which is not installed; `pip install torchvision` mends that." in refusal_of(
        str(tmp_path / "qwen3_vl")
    )


def test_auto_takes_an_attention_and_says_which(model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="rlaifv")
    loaded: Any = load_model(str(model_dir), attention="auto")[0]
    assert loaded.config._attn_implementation == "sdpa"
    assert f"model.attention=auto took sdpa for {model_dir}." in caplog.text


def outsider() -> Any:
    """A model of a family that has no entry, so that nothing is known of its parts."""
    text = {"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = tower | {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model(
        "vipllava", text_config=text | heads, vision_config=vision, vision_feature_layers=[-1]
    )
    return AutoModelForImageTextToText.from_config(config)


def test_an_unknown_family_trains_as_a_whole_or_through_adapters() -> None:
    with pytest.raises(
        ValueError, match=r"train_parts=\['projector'\] cannot be told apart in a model of type 'vipllava'"
    ):
        select_trainable(outsider(), ("projector",))
    whole = select_trainable(outsider(), ("projector", "language_model", "vision"))
    assert all(parameter.requires_grad for parameter in whole.parameters())
    adapted = select_trainable(outsider(), ("projector",), LORA)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("language_model.layers" in name and "lora_" in name for name in trained)


@pytest.mark.parametrize(
    "parts",
    [
        ("vision",),
        ("projector",),
        ("language_model",),
        ("projector", "language_model"),
        ("vision", "projector", "language_model"),
    ],
)
def test_named_parts_train_and_the_others_do_not(model: Any, parts: tuple[Any, ...]) -> None:
    chosen = {*parts, *(("head",) if "language_model" in parts else ())}  # the head goes with the language model
    assert select_trainable(model, parts) is model
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (FAMILIES["llava"].part_of(name) in chosen), name
    select_trainable(model, ("projector",))
    trained = {FAMILIES["llava"].part_of(name) for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"projector"}


def test_nothing_to_train_is_an_error(model: Any) -> None:
    with pytest.raises(ValueError, match=r"learner\.train_parts=\[\] leaves nothing to train"):
        select_trainable(model, ())


def test_lora_trains_adapters_of_the_language_model_alone(
    model: Any, prompter: Prompter, prompts: list[Prompt]
) -> None:
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("model.language_model.")
    }
    adapted = select_trainable(model, ("vision",), lora=LORA)
    assert isinstance(adapted, PeftModel)
    trainable = {name.removeprefix("base_model.model.") for name, p in adapted.named_parameters() if p.requires_grad}
    assert trainable == {f"{name}.lora_{side}.default.weight" for name in linear for side in "AB"}
    encoded = prompter.encode(prompts[0])
    output = adapted(input_ids=torch.tensor([encoded.ids]), **encoded.images)
    output.logits.square().mean().backward()
    torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0).step()
    after = {name.replace(".base_layer", ""): p for name, p in backbone(adapted).named_parameters()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(p.any() for name, p in after.items() if "lora_B" in name)  # they start at zero


def test_backbone_is_what_peft_wraps(model: Any) -> None:
    assert backbone(model) is model
    adapted = select_trainable(model, (), lora=LORA)
    assert backbone(adapted) is model
    assert any("lora_A" in name for name, _ in backbone(adapted).named_parameters())


def test_digest_changes_with_any_weight_and_with_nothing_else(model: Any, model_dir: Path) -> None:
    digest = weights_digest(model)
    assert len(digest) == 64
    model.train().requires_grad_(False)
    assert weights_digest(model) == weights_digest(copy.deepcopy(model)) == digest
    assert weights_digest(load_model(str(model_dir))[0]) == digest
    for parameter in model.parameters():
        last = parameter.data.view(-1)[-1:]
        original = last.clone()
        last.copy_(torch.nextafter(original, torch.tensor([9.0])))
        assert weights_digest(model) != digest
        last.copy_(original)
    assert weights_digest(model) == digest
    assert weights_digest(model.to(torch.bfloat16)) != digest


def test_digest_covers_adapters(model: Any) -> None:
    digest = weights_digest(model)
    adapted = select_trainable(model, (), lora=LORA)
    fresh = weights_digest(adapted)
    assert fresh != digest
    with torch.no_grad():
        next(p for p in adapted.parameters() if p.requires_grad).add_(1.0)
    assert weights_digest(adapted) != fresh


def test_four_bits_with_adapters(model_dir: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    """QLoRA: 4 bits in the language model alone, adapters train, and the export says what the policy said."""
    pytest.importorskip("bitsandbytes")
    model: Any
    model, processor = load_model(str(model_dir), quantization="nf4", dtype="float32")
    whole, _ = load_model(str(model_dir), dtype="float32")
    kinds = {name: type(module).__name__ for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    quantized = {name for name, kind in kinds.items() if kind == "Linear4bit"}
    assert quantized == {name for name in kinds if name.startswith("model.language_model.")}
    prompter = Prompter(processor)
    before = logits_of(model, prompter, prompts[0])
    assert 0 < (before - logits_of(whole, prompter, prompts[0])).abs().max() < 5
    policy = select_trainable(model, (), LORA).train()
    encoded = prompter.encode(prompts[0])
    logits = policy(input_ids=torch.tensor([encoded.ids]), **encoded.images).logits
    logits.logsumexp(-1).sum().backward()
    policy.eval()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in trained)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.05 * torch.randn_like(parameter))
    expected = logits_of(policy, prompter, prompts[0])
    assert (expected - before).abs().max() > 0.1
    export_model(policy, processor, tmp_path / "export", tmp_path / "adapter")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "export").eval()
    assert not any(type(module).__name__ == "Linear4bit" for module in loaded.modules())
    torch.testing.assert_close(logits_of(loaded, prompter, prompts[0]), expected, rtol=1e-3, atol=1e-3)


def test_four_bits_need_their_library(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match=r"model\.quantization=nf4 needs bitsandbytes, as in pip install"):
        load_model(str(model_dir), quantization="nf4")


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_an_export_needs_nothing_but_transformers(
    model: Any, model_dir: Path, processor: Any, prompts: list[Prompt], tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    policy = select_trainable(model, ("language_model",), lora)
    untrained = logits_of(policy, Prompter(processor), prompts[0])
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) if parameter.requires_grad else 0)
    expected = logits_of(policy, Prompter(processor), prompts[0])
    export_model(policy, processor, tmp_path / "export", tmp_path / "adapter")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "export").eval()
    actual = logits_of(loaded, Prompter(AutoProcessor.from_pretrained(tmp_path / "export")), prompts[0])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert (expected - untrained).abs().max() > 0.1
    assert not any("lora" in name for name in loaded.state_dict())
    assert (tmp_path / "adapter").exists() == (lora is not None)
    if lora is not None:
        again = PeftModel.from_pretrained(load_model(str(model_dir))[0], str(tmp_path / "adapter")).eval()
        torch.testing.assert_close(logits_of(again, Prompter(processor), prompts[0]), expected, rtol=1e-4, atol=1e-5)
    assert sorted(path.suffix for path in (tmp_path / "export").iterdir()) == [".jinja", *[".json"] * 5, ".safetensors"]


def test_a_chat_model_is_loaded_with_its_template(model_dir: Path) -> None:
    """The embedded model's template belongs to its processor."""
    loaded, tokenizer = load_chat_model(str(model_dir), dtype="float32")
    assert tokenizer.chat_template
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_chat_model_that_cannot_be_used_is_named(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"The divider's model '.*empty' \(revision None\) could not be loaded"):
        load_chat_model(str(tmp_path / "empty"))
    (model_dir / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="it has no chat template"):
        load_chat_model(str(model_dir))
