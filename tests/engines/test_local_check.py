"""The check of trees against separate sequences, before an engine's first use."""

from typing import Any

import pytest
import torch

from rlaifv.engines.local import LocalEngine
from rlaifv.models.families import FAMILIES
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.models.tree import packing as tree_module
from rlaifv.records import Prompt
from tests.engines.plain import QUESTIONS, Asked, assert_close, score_plainly, sharpened


def spoil(attention_mask: torch.Tensor) -> torch.Tensor:
    """Every token sees every other one, as in a family that ignores its mask."""
    return torch.ones_like(attention_mask)


def test_the_first_tree_is_compared_with_separate_sequences(
    sharp: Any,
    prompter: Prompter,
    prompts: list[Prompt],
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A model whose trees differ is run on separate sequences from then on, and gives the right answers."""
    expected = LocalEngine(sharp, prompter).answer_probabilities(asked)
    assert not caplog.records
    monkeypatch.setattr(tree_module, "attention_masks", lambda model, allowed, *positions: spoil(allowed))
    engine = LocalEngine(sharp, prompter, batch_tokens=300)
    assert_close(engine.answer_probabilities(asked), expected)
    assert engine.packer.separately
    (warning,) = caplog.records
    assert "in this 'llava' model (float32); it is run on separate sequences" in warning.getMessage()
    assert float(warning.getMessage().split("differ by ")[1].split()[0]) > 0.01
    logps = engine.completion_logps([(prompts[0], [(20, 21, 22, 3), (30,)])])
    assert_close(logps[0], [score_plainly(engine, prompts[0], ids) for ids in ((20, 21, 22, 3), (30,))], atol=1e-5)
    assert len(caplog.records) == 1  # checked once


def test_every_use_of_an_engine_checks_first(
    sharp: Any, prompter: Prompter, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "attention_masks", lambda model, allowed, *positions: spoil(allowed))
    uses: list[Any] = [
        lambda engine: engine.check(prompts[0]),
        lambda engine: engine.sample(prompts[:1], [[0]], Decoding(max_new_tokens=1)),
        lambda engine: engine.completion_logps([(prompts[0], [(20,)])]),
        lambda engine: engine.answer_probabilities([(prompts[0], QUESTIONS)]),
    ]
    for use in uses:
        engine = LocalEngine(sharp, prompter)
        use(engine)
        assert engine.packer.separately


def test_trees_in_half_precision_pass(model: Any, prompter: Prompter, prompts: list[Prompt]) -> None:
    engine = LocalEngine(sharpened(model).bfloat16(), prompter)
    engine.check(prompts[0])
    assert not engine.packer.separately


def test_an_unknown_family_is_run_on_separate_sequences(
    sharp: Any, prompter: Prompter, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = LocalEngine(sharp, prompter).answer_probabilities(asked)
    monkeypatch.delitem(FAMILIES, "llava")
    engine = LocalEngine(sharp, prompter)
    assert engine.packer.separately
    assert_close(engine.answer_probabilities(asked), expected)
