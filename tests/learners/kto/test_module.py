"""KTO on a tiny LLaVA: trees against separate rows, the reference point of a batch, and what a step does."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from lightning import LightningModule

from rlaifv.engines.local import LocalEngine
from rlaifv.learners.kto.batch import LabelledBatch, LabelledCollator
from rlaifv.learners.kto.module import KTOModule
from rlaifv.learners.policy import NonFiniteLoss
from rlaifv.models.prompting import Prompter
from rlaifv.records import LabelledAnswer, Prompt
from rlaifv.stages.label_answers import with_mismatched
from rlaifv.stages.reference import AnswerReferenceLogps
from rlaifv.stages.stage import Task
from tests.learners.dpo_run import ANSWERS

SGD: Any = partial(torch.optim.SGD, lr=0.05)
LABELS = (True, False, False, True)


@pytest.fixture(autouse=True)
def logged(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Steps are taken without a trainer here."""
    found: dict[str, float] = {}
    monkeypatch.setattr(LightningModule, "log", lambda *arguments, **settings: None)
    monkeypatch.setattr(
        LightningModule,
        "log_dict",
        lambda self, some, **settings: found.update({name: value.item() for name, value in some.items()}),
    )
    return found


@pytest.fixture
def engine(model: Any, prompter: Prompter) -> LocalEngine:
    return LocalEngine(model, prompter)


@pytest.fixture
def answers(engine: LocalEngine, prompter: Prompter, prompts: list[Prompt]) -> list[LabelledAnswer]:
    """Two answers to each of two prompts, with mismatched ones, through the stage that users run."""
    some = []
    for k, is_desirable in enumerate(LABELS):
        prompt = prompts[k // 2]
        ids = prompter.completion_ids(prompt, ANSWERS[k])
        some.append(LabelledAnswer(f"{prompt.id}/{k}", prompt.id, ids, is_desirable, 1.0 + is_desirable, 1, 0))
    counted: list[int] = []
    made = AnswerReferenceLogps(engine)(Task(advance=counted.append), prompts[:2], with_mismatched(some))
    assert sum(counted) == 4
    return list(made.records)


def moved(answers: Sequence[LabelledAnswer], own: float, other: float) -> list[LabelledAnswer]:
    """Reference log-probs that the policy is above of, per token: by so much for answers, and for mismatched ones."""
    return [
        replace(
            one,
            reference_logps=tuple(value - own for value in one.reference_logps),
            mismatched_reference_logps=tuple(value - other for value in one.mismatched_reference_logps),
        )
        for one in answers
    ]


def batch_of(engine: LocalEngine, prompts: list[Prompt], answers: Sequence[LabelledAnswer]) -> LabelledBatch:
    by_id = {prompt.id: prompt for prompt in prompts}
    collator = LabelledCollator(engine)
    for answer in answers:
        collator.check_record(answer)
    return collator([(by_id[answer.prompt_id], answer) for answer in answers])


def step(module: KTOModule, batch: LabelledBatch) -> tuple[float, dict[str, torch.Tensor]]:
    module.zero_grad()
    loss = module.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_a_prompts_answers_and_its_mismatched_one_share_a_tree(
    engine: LocalEngine, prompts: list[Prompt], answers: list[LabelledAnswer]
) -> None:
    batch = batch_of(engine, prompts, answers)
    assert batch.is_mismatched.tolist() == [False, False, True] * 2
    assert batch.is_desirable.tolist() == [*LABELS]
    assert batch.weights.tolist() == [2.0, 1.0, 1.0, 2.0]
    own = [len(one.token_ids) for one in answers]
    assert batch.trees.branch_lengths == (own[0], own[1], own[2], own[2], own[3], own[0])
    for k, one in enumerate(answers):
        assert one.mismatched_token_ids == answers[2 if k < 2 else 0].token_ids
        assert one.prompt_tokens == engine.num_tokens(prompts[k // 2]) + len(one.mismatched_token_ids)


def test_stored_log_probs_are_the_policys_at_the_first_step(
    engine: LocalEngine, prompts: list[Prompt], answers: list[LabelledAnswer], logged: dict[str, float]
) -> None:
    """All rewards are 0, so each answer's loss is half of its weight: (2 + 1 + 1 + 2) / 8."""
    loss, _ = step(KTOModule(engine.model, SGD), batch_of(engine, prompts, answers))
    assert loss == pytest.approx(0.75, abs=1e-5)
    assert list(logged.values()) == pytest.approx([0.0, 0.0, 0.0], abs=1e-4)


def test_the_reference_point_is_of_the_batchs_mismatched_answers(
    engine: LocalEngine, prompts: list[Prompt], answers: list[LabelledAnswer], logged: dict[str, float]
) -> None:
    step(KTOModule(engine.model, SGD), batch_of(engine, prompts, moved(answers, 0.0, 0.2)))
    lengths = [len(answers[k].token_ids) for k in (0, 2)]
    assert logged["kto/reference_point"] == pytest.approx(0.2 * sum(lengths) / 2, abs=1e-4)
    step(KTOModule(engine.model, SGD), batch_of(engine, prompts, moved(answers, 0.0, -0.2)))
    assert logged["kto/reference_point"] == 0.0


@pytest.mark.parametrize("other", [-0.1, 0.1])
def test_a_tree_equals_separate_rows_in_loss_and_gradient(
    engine: LocalEngine, prompts: list[Prompt], answers: list[LabelledAnswer], other: float
) -> None:
    """The slow twin makes every branch a row of its own, prefix and image included."""
    module = KTOModule(engine.model, SGD, beta=0.5)
    some = moved(answers, 0.1, other)
    loss, gradients = step(module, batch_of(engine, prompts, some))
    engine.packer.separately = True
    expected, apart = step(module, batch_of(engine, prompts, some))
    assert loss == pytest.approx(expected, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, apart[name], atol=1e-5, rtol=1e-3)
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients.values())


def test_mismatched_answers_get_no_gradient(
    engine: LocalEngine, prompts: list[Prompt], answers: list[LabelledAnswer]
) -> None:
    """With a reference point of 0, gradients are those without mismatched answers."""
    module = KTOModule(engine.model, SGD)
    _, gradients = step(module, batch_of(engine, prompts, moved(answers, 0.0, -0.1)))
    alone = [replace(one, mismatched_token_ids=(), mismatched_reference_logps=()) for one in answers]
    _, expected = step(module, batch_of(engine, prompts, alone))
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-3)


def test_a_step_makes_desirable_answers_likelier_than_the_others(
    engine: LocalEngine, prompts: list[Prompt], answers: list[LabelledAnswer]
) -> None:
    module = KTOModule(engine.model, SGD, beta=0.5)
    step(module, batch_of(engine, prompts, answers))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    after = engine.completion_logps(
        [(prompts[k], [one.token_ids for one in answers[2 * k : 2 * k + 2]]) for k in range(2)]
    )
    now = [sum(values) for some in after for values in some]
    gains = [value - sum(one.reference_logps) for value, one in zip(now, answers, strict=True)]
    assert gains[0] > gains[1]
    assert gains[3] > gains[2]


def test_a_mismatched_answer_without_room_is_left_out(
    engine: LocalEngine, prompts: list[Prompt], answers: list[LabelledAnswer], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = engine.num_tokens(prompts[0]) + len(answers[0].token_ids)
    longer = [replace(one, mismatched_token_ids=(5,) * (len(answers[0].token_ids) + 99)) for one in answers[:1]]
    monkeypatch.setattr(LocalEngine, "max_positions", property(lambda self: room))
    (found,) = AnswerReferenceLogps(engine)(Task(), prompts[:1], longer).records
    assert (found.mismatched_token_ids, found.mismatched_reference_logps) == ((), ())
    assert found.reference_logps == pytest.approx(answers[0].reference_logps, abs=1e-4)


def test_what_cannot_be_trained_on_is_refused(
    engine: LocalEngine, prompts: list[Prompt], answers: list[LabelledAnswer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("reference_logps", "mismatched_reference_logps"):
        wrong = replace(answers[0], **{name: getattr(answers[0], name)[1:]})
        with pytest.raises(ValueError, match=r"does not hold one reference log-prob for each of its tokens"):
            LabelledCollator.check_record(wrong)
    with pytest.raises(ValueError, match=r"beta must be above 0, but it is 0"):
        KTOModule(engine.model, SGD, beta=0.0)
    monkeypatch.setattr(KTOModule, "global_step", 7)
    module = KTOModule(engine.model, SGD)
    with pytest.raises(NonFiniteLoss, match=r"in optimizer step 7, in a batch of 4 labelled answers"):
        step(module, batch_of(engine, prompts, moved(answers, float("nan"), 0.0)))
