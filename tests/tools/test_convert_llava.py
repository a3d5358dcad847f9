"""A checkpoint in the authors' form, made from a small LLaVA, gives the same answers after conversion."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionModel

from rlaifv.models.loading import load_model
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from tools.convert_llava import convert, main


def authors_names(model: Any, with_tower: bool) -> dict[str, torch.Tensor]:
    """The weights as LLaVA's authors name them; their vocabulary has no image token, so the last rows are cut."""
    renamed = {}
    for name, tensor in model.state_dict().items():
        old = name.replace("model.language_model.", "model.")
        for number, place in ((1, 0), (2, 2)):
            old = old.replace(f"model.multi_modal_projector.linear_{number}", f"model.mm_projector.{place}")
        old = old.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
        if with_tower or "vision_tower" not in old:
            renamed[old] = tensor.contiguous().clone()
    return renamed


@pytest.fixture
def clip(model: Any, processor: Any, tmp_path: Path) -> Path:
    """The tower as a CLIP model of its own."""
    tower = CLIPVisionModel(model.config.vision_config)
    tower.load_state_dict(model.model.vision_tower.state_dict())
    tower.save_pretrained(tmp_path / "clip")
    processor.image_processor.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def write_authors(model: Any, processor: Any, directory: Path, with_tower: bool, pickled: bool) -> Path:
    directory.mkdir()
    text = model.config.text_config
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    names = (*names, "max_position_embeddings", "rms_norm_eps", "vocab_size", "bos_token_id", "eos_token_id")
    config = {name: getattr(text, name) for name in names} | {
        "model_type": "llava_llama",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -1,
        "mm_vision_tower": "nobody/nothing",
        "rope_theta": 10000.0,
    }
    (directory / "config.json").write_text(json.dumps(config))
    processor.tokenizer.save_pretrained(directory)
    tensors = authors_names(model, with_tower)
    if pickled:
        torch.save(tensors, directory / "pytorch_model-00001-of-00001.bin")
    else:
        save_file(tensors, directory / "model.safetensors")
    return directory


def logits(model: Any, prompter: Prompter, prompt: Prompt) -> torch.Tensor:
    encoded = prompter.encode(prompt)
    with torch.no_grad():
        return model(input_ids=torch.tensor([encoded.ids]), **encoded.images).logits


@pytest.mark.parametrize(("with_tower", "pickled"), [(True, True), (False, False)], ids=["bin", "safetensors"])
def test_same_answers(
    model: Any, processor: Any, clip: Path, prompts: list[Prompt], tmp_path: Path, with_tower: bool, pickled: bool
) -> None:
    source = write_authors(model, processor, tmp_path / "authors", with_tower, pickled)
    main([f"source={source}", f"out={tmp_path / 'out'}", f"vision={clip}"])
    loaded, own = load_model(str(tmp_path / "out"))
    assert loaded.config.text_config.vocab_size % 64 == 0  # type: ignore[union-attr]
    prompter = Prompter(own)
    ids = prompter.encode(prompts[0]).ids
    assert ids.count(prompter.image_token_id) == 9
    assert prompter.decode(ids).startswith("USER: ")
    before = logits(model, Prompter(processor), prompts[0])
    assert ids == Prompter(processor).encode(prompts[0]).ids
    after = logits(loaded, prompter, prompts[0])[..., : before.shape[-1]]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def use_sentencepiece(source: Path) -> Path:
    """Leaves the tokenizer as the authors publish it: tokenizer.model alone, beside a config of type llava."""
    for path in (*source.glob("*token*"), *source.glob("*.jinja")):
        path.unlink()
    sentences = ["USER: What is in the image? ASSISTANT: A red ring.", "A blue star and a green square."]
    with (source / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=file,
            model_type="bpe",
            vocab_size=320,
            byte_fallback=True,
            normalization_rule_name="identity",  # as Llama's
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    words = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (source / "tokenizer_config.json").write_text(json.dumps(words))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(
        json.dumps(config | {"model_type": "llava", "bos_token_id": 1, "eos_token_id": 2})
    )
    return source / "tokenizer.model"


def test_a_sentencepiece_tokenizer_keeps_its_pieces(model: Any, processor: Any, clip: Path, tmp_path: Path) -> None:
    source = write_authors(model, processor, tmp_path / "authors", True, False)
    vocabulary = sentencepiece.SentencePieceProcessor(model_file=str(use_sentencepiece(source)))
    convert(source, tmp_path / "out", str(clip))
    loaded, own = load_model(str(tmp_path / "out"))
    for text in ("USER: A red ring", "A star Ä and\n a ring."):
        ids = own.tokenizer.encode(text, add_special_tokens=False)
        assert ids == vocabulary.encode(text)
        assert own.tokenizer.decode(ids) == text
    assert own.tokenizer.convert_tokens_to_ids("<image>") == len(vocabulary) == loaded.config.image_token_index  # type: ignore[union-attr]
    assert loaded.generation_config.eos_token_id == vocabulary.eos_id()  # type: ignore[union-attr]
    assert (own.tokenizer.bos_token_id, own.tokenizer.pad_token) == (vocabulary.bos_id(), "<pad>")


@pytest.mark.parametrize("name", ["sentencepiece", "google.protobuf"])
def test_a_sentencepiece_tokenizer_needs_an_extra(
    model: Any, processor: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = write_authors(model, processor, tmp_path / "authors", True, False)
    use_sentencepiece(source)
    monkeypatch.setitem(sys.modules, name, None)
    said = rf"authors has a SentencePiece tokenizer, which needs pip install 'rlaifv\[convert\]'; {name} is missing\."
    with pytest.raises(ValueError, match=said):
        convert(source, tmp_path / "out", str(clip))
    assert not (tmp_path / "out").exists()


class Evil:
    def __reduce__(self) -> Any:
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("pickle", "holds more than tensors, or is damaged; it was not loaded"),
        ("torn", "is damaged"),
        ("missing", "lacks"),
        ("other", "is not of LLaVA-1.5: mm_projector_type is 'linear'"),
        ("stranger", "belongs to no part of a LLaVA-1.5 checkpoint"),
        ("none", "holds no weights"),
        ("json", "is not JSON"),
    ],
)
def test_what_cannot_be_converted_is_said(
    model: Any, processor: Any, clip: Path, tmp_path: Path, damage: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_authors(model, processor, tmp_path / "authors", True, damage == "pickle")
    weights = source / "model.safetensors"
    if damage == "pickle":
        torch.save({"x": Evil()}, source / "pytorch_model-00001-of-00001.bin")
    elif damage == "torn":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "none":
        weights.unlink()
    elif damage == "json":
        (source / "config.json").write_text("{")
    elif damage == "other":
        (source / "config.json").write_text(json.dumps({"mm_projector_type": "linear"}))
    else:
        tensors = authors_names(model, True)
        tensors.pop("model.layers.1.mlp.up_proj.weight")
        save_file(tensors | ({"score.weight": torch.zeros(1)} if damage == "stranger" else {}), weights)
    with pytest.raises(ValueError, match=said):
        convert(source, tmp_path / "out", str(clip))
    assert "code ran" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
