"""A run of the learner for every test."""

from typing import Any

import pytest

from rlaifv.models.loading import select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from tests.learners.dpo_run import Run


@pytest.fixture
def run(model: Any, prompter: Prompter, prompts: list[Prompt]) -> Run:
    return Run(select_trainable(model, ["projector", "language_model"]), prompter, prompts)
