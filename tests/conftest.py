"""A small LLaVA with random weights and a few drawn prompts, for all tests."""

import atexit
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing may try the network
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="rlaifv-tests-")  # nor leave copies in the user's home

from transformers import LlamaConfig, LlamaForCausalLM

from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from rlaifv.worlds.shapes_model import build_model, build_processor
from rlaifv.worlds.shapes_source import ShapesSource

pytest_plugins = ["tests.launching"]

atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def processor() -> Any:
    return build_processor()


@pytest.fixture
def model(processor: Any) -> Any:
    """A LLaVA of about 560,000 parameters, the same for every test."""
    torch.manual_seed(0)
    return build_model(processor.tokenizer, hidden_size=64, num_layers=2, vision_layers=1).eval()


@pytest.fixture
def prompter(processor: Any) -> Prompter:
    return Prompter(processor)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> ShapesSource:
    return ShapesSource(tmp_path_factory.mktemp("scenes"), num_held_out=4, seed=0)


@pytest.fixture(scope="session")
def prompts(source: ShapesSource) -> list[Prompt]:
    return source.prompts(0, 6)


@pytest.fixture(scope="session")
def prompt_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough prompts for four iterations of the smallest numbers that the tests ask for, and two to be held out."""
    directory = tmp_path_factory.mktemp("photos")
    Image.new("RGB", (64, 48), "red").save(directory / "photo.png")
    listed = directory / "prompts.jsonl"
    listed.write_text("\n".join(json.dumps({"image": "photo.png", "question": f"What is {k}?"}) for k in range(18)))
    return listed


@pytest.fixture
def model_dir(model: Any, processor: Any, tmp_path: Path) -> Path:
    """The small LLaVA in a directory, in the hub's layout."""
    directory = tmp_path / "model"
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}assistant:"


def save_chat_model(directory: Path, processor: Any, num_positions: int, seed: int = 1) -> Path:
    """A tiny random Llama with the embedded world's words, in the hub's layout."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=num_positions, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    before = tokenizer.chat_template
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)
    tokenizer.chat_template = before
    return directory


@pytest.fixture(scope="session")
def chat_dir(processor: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model whose replies are garbage; long enough for the dividers' prompts."""
    return save_chat_model(tmp_path_factory.mktemp("chat"), processor, 2048)
