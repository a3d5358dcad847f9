"""Next sentences after one prefix: which are compared, and that nothing but them trains."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaifv.engines.local import LocalEngine
from rlaifv.learners.dpo.batch import PreferenceBatch, PreferenceCollator
from rlaifv.learners.dpo.losses import dpo_loss, reduce_logps
from rlaifv.models.prompting import Prompter
from rlaifv.models.tree.packing import branch_logps
from rlaifv.records import Prompt
from rlaifv.stages.reference import ReferenceLogps
from rlaifv.stages.sentence_pairs import SentencePairs
from rlaifv.stages.stage import Made, Task
from tests.stages.sentences import BLACK, BLUE, GREEN, RED, ids_of, sentence, table


@pytest.fixture
def policy(model: Any, prompter: Prompter) -> LocalEngine:
    return LocalEngine(model, prompter)


def made(policy: LocalEngine, *answers: tuple[str, str], cap: int = 9, may_end: bool = False) -> Made:
    return SentencePairs(policy, cap, may_end)(Task(), *table(policy.prompter, answers))


def sides(result: Made) -> list[tuple[str, str]]:
    return [(pair.chosen, pair.rejected) for pair in result.records]


def test_a_sentence_that_follows_the_same_prefix_is_preferred(policy: LocalEngine) -> None:
    result = made(policy, (f"{GREEN} {RED} {BLACK}", "+-+"), (f"{GREEN} {BLUE}", "++"))
    assert sides(result) == [(f"{GREEN} {BLUE}", f"{GREEN} {RED}")]
    (pair,) = result.records
    assert pair.chosen_token_ids == ids_of(policy.prompter, f"{GREEN} {BLUE}", is_whole=False)
    assert pair.rejected_token_ids == ids_of(policy.prompter, f"{GREEN} {RED}", is_whole=False)
    assert (pair.id, pair.chosen_response_id, pair.rejected_response_id) == ("p/1>p/0", "p/1", "p/0")
    assert (pair.chosen_score, pair.rejected_score) == (0.0, -1.0)
    assert result.drops == {"nothing_rejected": 1}


def test_of_several_the_closest_is_chosen(policy: LocalEngine) -> None:
    result = made(policy, (RED, "-"), (GREEN, "+"), (BLUE, "+"), (BLACK, "+"))
    assert sides(result) == [(BLUE, RED)]


def test_one_after_another_prefix_stands_in_where_none_follows_the_same(policy: LocalEngine) -> None:
    result = made(policy, (f"{GREEN} {RED}", "+-"), (f"{BLACK} {BLUE}", "++"))
    assert sides(result) == [(f"{GREEN} {BLUE}", f"{GREEN} {RED}")]


def test_what_the_prefix_says_is_not_said_again(policy: LocalEngine) -> None:
    result = made(policy, (f"{GREEN} {RED}", "+-"), (f"{GREEN} {GREEN}", "++"), (f"{BLACK} {GREEN}", "++"))
    assert sides(result) == []
    assert result.drops == {"nothing_supported": 1, "nothing_rejected": 2}


def test_a_first_sentence_cannot_stand_within_an_answer_nor_the_other_way_round(policy: LocalEngine) -> None:
    """Their first tokens differ, and the text would lack its space or begin with one."""
    assert sides(made(policy, (f"{GREEN} {RED}", "+-"), (BLUE, "+"))) == []
    assert sides(made(policy, (RED, "-"), (f"{GREEN} {BLUE}", "-+"))) == []


def test_the_end_is_chosen_only_where_it_may_and_nothing_else_can(policy: LocalEngine) -> None:
    answers = [(f"{GREEN} {RED}", "+-"), (RED, "-")]
    assert sides(made(policy, *answers)) == [(GREEN, RED)]
    result = made(policy, *answers, may_end=True)
    assert sides(result) == [(GREEN, f"{GREEN} {RED}"), (GREEN, RED)]
    ended, other = result.records
    assert ended.chosen_token_ids == ids_of(policy.prompter, GREEN)
    assert other.chosen_token_ids == ids_of(policy.prompter, GREEN, is_whole=False)
    assert ended.id != other.id


def test_equal_pairs_are_one(policy: LocalEngine) -> None:
    again = f"{RED} {BLACK}", "-+"
    result = made(policy, (RED, "-"), again, (BLUE, "+"))
    assert sides(result) == [(BLUE, RED)]
    assert result.drops == {"repeated": 1, "nothing_rejected": 1}


def test_the_cap_counts_what_it_drops(policy: LocalEngine) -> None:
    wrong = [(sentence(colour, "ring", "top"), "-") for colour in ("red", "green", "black")]
    result = made(policy, *wrong, (BLUE, "+"), cap=2)
    assert (len(result.records), result.drops["over_cap"]) == (2, 1)


def test_claims_that_know_no_sentence_are_refused(policy: LocalEngine) -> None:
    with pytest.raises(ValueError, match="does not say in which sentence it is; set method"):
        SentencePairs(policy)(Task(), *table(policy.prompter, [(RED, "-")], ends=False))


def test_another_models_answers_are_refused(policy: LocalEngine) -> None:
    with pytest.raises(ValueError, match=r"iteration\.chosen_from=null"):
        SentencePairs(policy, chosen_from=object())


def test_only_the_sentences_train(policy: LocalEngine, prompts: list[Prompt]) -> None:
    """With summed log-probs, loss and gradient are those of the sentences alone: the prefix is on both sides and cancels."""
    (preference,) = made(policy, (f"{GREEN} {RED}", "+-"), (f"{GREEN} {BLUE}", "++")).records
    shared = len(ids_of(policy.prompter, GREEN, is_whole=False))
    assert preference.chosen_token_ids[:shared] == preference.rejected_token_ids[:shared]
    preference = replace(preference, prompt_id=prompts[0].id)
    (pair,) = ReferenceLogps(policy)(Task(), prompts[:1], [preference]).records
    pair = replace(pair, chosen_reference_logps=(*pair.chosen_reference_logps[:-1], -9.0))
    pair = replace(
        pair, rejected_reference_logps=pair.chosen_reference_logps[:shared] + pair.rejected_reference_logps[shared:]
    )
    policy.model.requires_grad_(True)
    batch = PreferenceCollator(policy)([(prompts[0], pair)])
    (whole, of_whole), (alone, of_alone) = (loss_and_gradients(policy.model, batch, start) for start in (0, shared))
    assert float(whole) == pytest.approx(float(alone), rel=1e-5)
    assert any(gradient.abs().max() > 1e-4 for gradient in of_alone)
    for one, other in zip(of_whole, of_alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def loss_and_gradients(model: Any, batch: PreferenceBatch, start: int) -> tuple[Tensor, list[Tensor]]:
    """The loss without the first tokens of each side, and its gradient."""
    lengths = [length - start for length in batch.lengths]
    logps = [
        reduce_logps(torch.cat([side[start:] for side in values.split(list(batch.lengths))]), lengths, "sum")
        for values in (batch.of_sides(branch_logps(model, batch.trees, batch.images)), batch.reference_logps)
    ]
    (chosen, rejected), (reference_chosen, reference_rejected) = (one.chunk(2) for one in logps)
    loss = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=0.1).loss
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    return loss.detach(), [gradient for gradient in gradients if gradient is not None]
