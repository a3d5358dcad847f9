"""The recipe of the embedded model, at a size that takes seconds."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlaifv.models.digests import weights_digest
from rlaifv.models.prompting import Prompter
from rlaifv.models.tree.packing import PackedTrees, Tree
from rlaifv.records import Prompt
from rlaifv.stages.dividers.rules import to_claims
from rlaifv.stages.score import WORDING
from rlaifv.worlds import shapes_pretrain
from rlaifv.worlds.shapes import QUESTIONS, parse_claim
from rlaifv.worlds.shapes_pretrain import PretrainSettings, StepReport, pretrain

TINY = PretrainSettings(
    num_steps=8,
    cosine_steps=8,
    warmup_steps=2,
    learning_rate=2e-3,
    batch_size=4,
    num_scenes=8,
    captions=1,
    polar_questions=2,
    short_questions=1,
    autocast=False,
)
Outcome = tuple[list[StepReport], Any, Any]


def run(settings: PretrainSettings) -> Outcome:
    *steps, last = pretrain(settings)
    reports = [step for step in steps if isinstance(step, StepReport)]
    assert len(reports) == len(steps)
    assert not isinstance(last, StepReport)
    return reports, *last


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return run(TINY)


def test_every_step_is_reported_and_the_losses_fall(outcome: Outcome) -> None:
    reports, model, _ = outcome
    assert [report.step for report in reports] == list(range(1, 9))
    first, last = reports[0], reports[-1]
    assert first.caption_loss == pytest.approx(math.log(model.config.text_config.vocab_size), abs=0.3)
    assert last.caption_loss < first.caption_loss - 1
    assert last.short_loss < first.short_loss - 0.5
    assert last.polar_loss < first.polar_loss - 0.5
    assert all(0 <= report.polar_accuracy <= 1 for report in reports)
    assert not model.training


def test_two_runs_are_equal_and_another_seed_is_not(outcome: Outcome) -> None:
    reports, model, _ = outcome
    again, same, _ = run(TINY)
    assert again == reports
    assert weights_digest(same) == weights_digest(model)
    (other, *_) = pretrain(replace(TINY, num_steps=1, seed=1))
    assert other != reports[0]


def test_a_run_may_end_with_its_warmup() -> None:
    reports, _, _ = run(replace(TINY, num_steps=2))
    assert len(reports) == 2


def test_mixed_precision_trains_too() -> None:
    reports, model, _ = run(replace(TINY, num_steps=4, autocast=True))
    assert reports[-1].caption_loss < reports[0].caption_loss - 0.5
    assert model.dtype == torch.float32


def test_it_is_trained_on_what_it_will_be_asked(
    outcome: Outcome, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each branch, behind its prefix, is a prompt of a run followed by its answer; only the answer is scored."""
    seen: list[Tree] = []
    pack = shapes_pretrain.pack

    def spy(trees: list[Tree]) -> PackedTrees:
        seen.extend(trees)
        return pack(trees)

    monkeypatch.setattr(shapes_pretrain, "pack", spy)
    list(pretrain(replace(TINY, num_steps=1)))
    assert len(seen) == TINY.batch_size
    prompter = Prompter(outcome[2])
    for tree in seen:
        exchanges = []
        for branch in tree.branches:
            asked = [*tree.prefix, *branch.ids[: branch.context]]
            text = prompter.decode(asked).removeprefix("USER:").removesuffix("ASSISTANT:").strip()
            answer = prompter.decode(branch.ids[branch.context :])
            prompt = replace(prompts[0], question=text)
            assert tuple(asked) == prompter.encode(prompt).ids
            assert tuple(branch.ids[branch.context :]) == prompter.completion_ids(prompt, answer)
            exchanges.append((text, answer))
        (question, caption), *polar, (short, place) = exchanges
        assert question in QUESTIONS
        assert all(map(parse_claim, to_claims(caption)))
        assert [answer for _, answer in polar] == ["Yes", "No"]
        assert all(text.startswith("Is there a ") and text.endswith("?" + WORDING.suffix) for text, _ in polar)
        assert short.startswith("What is at the ")
        assert place.startswith(("A ", "Nothing"))
