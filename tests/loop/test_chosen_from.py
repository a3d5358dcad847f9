"""Chosen answers of another model, from sampling to committed pairs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlaifv.engines.labeler import LabelerModule
from rlaifv.engines.local import LocalEngine
from rlaifv.loop import FeedbackLoop
from rlaifv.models.loading import load_model
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.stages.dividers.rules import RulesDivider
from rlaifv.stages.generate import OTHER_MARK, generate, in_words_of
from rlaifv.stages.pair import PairingRules
from rlaifv.worlds.shapes_model import WEIGHTS_DIR
from rlaifv.worlds.shapes_source import ShapesSource
from tests.loop.world import Settings, rlaifv_loop

DECODING = Decoding(temperature=1.0, max_new_tokens=60)


def engine() -> LocalEngine:
    model, processor = load_model(str(WEIGHTS_DIR))
    return LocalEngine(model.requires_grad_(False), Prompter(processor))


@pytest.fixture
def policy() -> LocalEngine:
    return engine()


@pytest.fixture
def loop(tmp_path: Path, policy: LocalEngine) -> FeedbackLoop:
    settings = Settings(
        num_prompts=6,
        num_responses=5,
        decoding=DECODING,
        rules=PairingRules(length_balance=False, max_pairs_per_prompt=9),
        min_pairs=1,
        shard_prompts=3,
        max_drop_rate=0,
    )
    source = ShapesSource(tmp_path / "scenes", num_held_out=0, seed=0)
    labeler = LabelerModule(policy)
    return rlaifv_loop(
        tmp_path, source, policy, labeler, RulesDivider(), settings, seed=0, truth=source, chosen_from=engine()
    )


def test_all_chosen_answers_are_the_other_models_and_all_rejected_ones_the_policys(loop: FeedbackLoop) -> None:
    manifest = loop.prepare(0)
    responses = manifest.records("responses")
    assert [response.id.endswith(OTHER_MARK) for response in responses] == [False] * 3 + [True] * 2 + (
        [False] * 3 + [True] * 2
    ) * 5
    assert len({response.id for response in responses}) == 30
    pairs = manifest.records("pairs")
    assert pairs
    for pair in pairs:
        assert pair.chosen_response_id.endswith(OTHER_MARK)
        assert not pair.rejected_response_id.endswith(OTHER_MARK)
        assert len(pair.chosen_reference_logps) == len(pair.chosen_token_ids)
    assert "chosen_from" in manifest.producer


def test_the_policys_own_answers_do_not_change_with_the_company(policy: LocalEngine, prompts: Any) -> None:
    alone = generate(prompts[:2], policy, DECODING, 3, seed=4)
    together = in_words_of(policy.prompter, prompts[:2], alone, generate(prompts[:2], policy, DECODING, 2, 5))
    assert [one for one in together if not one.id.endswith(OTHER_MARK)] == alone


def test_foreign_answers_become_the_policys_tokens(policy: LocalEngine, prompts: Any) -> None:
    """With one tokenizer they are the tokens that were sampled."""
    sampled = generate(prompts[:2], policy, DECODING, 6, seed=4)
    others = [response for response in sampled if response.finished]
    assert {response.prompt_id for response in others} == {prompt.id for prompt in prompts[:2]}
    marked = in_words_of(policy.prompter, prompts[:2], others, others)
    for own, other in zip(others, [one for one in marked if one.id.endswith(OTHER_MARK)], strict=True):
        assert other.token_ids == own.token_ids
        assert other.text == own.text
        assert other.id == own.id + OTHER_MARK


def test_an_answer_that_was_cut_gets_no_end(policy: LocalEngine, prompts: Any) -> None:
    cut = generate(prompts[:1], policy, Decoding(temperature=1.0, max_new_tokens=6), 2, seed=4)
    assert not any(response.finished for response in cut)
    marked = in_words_of(policy.prompter, prompts[:1], cut, cut)[2:]
    assert [one.token_ids for one in marked] == [one.token_ids for one in cut]


def test_another_model_leaves_the_policy_as_it_is(loop: FeedbackLoop, policy: LocalEngine) -> None:
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    loop.prepare(0)
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
