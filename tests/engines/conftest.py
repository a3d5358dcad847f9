"""A model whose answers differ, an engine over it, and questions for it."""

from typing import Any

import pytest
import torch

from rlaifv.engines.local import LocalEngine
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from rlaifv.worlds.shapes_model import build_model
from tests.engines.plain import QUESTIONS, Asked, sharpened


@pytest.fixture(scope="module")
def sharp(processor: Any) -> Any:
    """A small LLaVA with weights so large that its answers differ between questions and between pictures."""
    torch.manual_seed(0)
    return sharpened(build_model(processor.tokenizer, hidden_size=64, num_layers=2, vision_layers=1))


@pytest.fixture
def engine(sharp: Any, prompter: Prompter) -> LocalEngine:
    return LocalEngine(sharp, prompter)


@pytest.fixture
def asked(prompts: list[Prompt]) -> Asked:
    """Different numbers of questions about four pictures."""
    return [(prompts[k], QUESTIONS[k : k + 1 + k]) for k in range(3)] + [(prompts[3], QUESTIONS[::-1])]
