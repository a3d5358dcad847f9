"""What transformers 4 reads, key by key; and that version 5 still reads the same from it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoProcessor

from rlaifv.models.budget.architecture import architecture_config
from rlaifv.models.older_layout import older_config, write_older_layout

GEMMA = {"full_attention": 1e6, "sliding_attention": 1e4}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_file(model_dir: Path) -> None:
    processor = read(model_dir / "processor_config.json")
    image_processor = processor.pop("image_processor")
    special = read(model_dir / "tokenizer_config.json")["extra_special_tokens"]
    before = AutoConfig.from_pretrained(model_dir).to_dict()
    write_older_layout(model_dir)
    config = read(model_dir / "config.json")
    assert config["torch_dtype"] == "float32"
    assert config["text_config"]["rope_theta"] == 10000.0
    assert "rope_scaling" not in config["text_config"]
    assert read(model_dir / "preprocessor_config.json") == image_processor | {"processor_class": "LlavaProcessor"}
    assert read(model_dir / "processor_config.json") == processor
    tokenizer = read(model_dir / "tokenizer_config.json")
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["additional_special_tokens"] == special == ["<image>"]
    assert "extra_special_tokens" not in tokenizer
    template = (model_dir / "chat_template.jinja").read_text(encoding="utf-8")
    assert read(model_dir / "chat_template.json") == {"chat_template": template}
    assert AutoConfig.from_pretrained(model_dir).to_dict() == before


def test_the_processor_stays_the_same_to_version_5(model_dir: Path) -> None:
    before = AutoProcessor.from_pretrained(model_dir)
    write_older_layout(model_dir)
    after = AutoProcessor.from_pretrained(model_dir)
    assert after.image_processor.to_dict() == before.image_processor.to_dict()
    assert (
        after.tokenizer("USER: <image> A red ring .").input_ids
        == before.tokenizer("USER: <image> A red ring .").input_ids
    )
    assert after.tokenizer.all_special_tokens == before.tokenizer.all_special_tokens
    assert after.chat_template == before.chat_template


def test_what_is_not_there_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    write_older_layout(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_rotations_that_differ_between_layers() -> None:
    rope = {name: {"rope_type": "default", "rope_theta": theta} for name, theta in GEMMA.items()}
    rope["full_attention"] |= {"rope_type": "linear", "factor": 8.0}
    older = older_config({"rope_parameters": rope})
    assert older == {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    config = AutoConfig.for_model("gemma3_text", **older)
    assert {name: config.rope_parameters[name]["rope_theta"] for name in GEMMA} == GEMMA
    assert config.rope_parameters["full_attention"]["factor"] == 8.0


@pytest.mark.parametrize(
    "name", ["llava-1.5-7b-hf", "llava-v1.6-34b-hf", "qwen2.5-vl-7b-instruct", "qwen3-vl-8b-instruct"]
)
def test_version_5_reads_the_same_rotation(name: str) -> None:
    config = architecture_config(f"anyone/{name}")
    again = AutoConfig.for_model(**older_config(config.to_dict()))
    assert again.text_config.rope_parameters == config.text_config.rope_parameters
