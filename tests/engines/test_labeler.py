"""The labeler as a module of its own: same judgements by call and by `Trainer.predict`, each question once."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from rlaifv.engines.labeler import ClaimBatch, LabelerModule
from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.models.prompting import Prompter
from rlaifv.records import Claim, Judgement, Prompt, Response
from rlaifv.stages.dividers.rules import RulesDivider
from rlaifv.stages.score import Wording

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")

ANSWER = "There is a red circle at the top. There is a blue star at the left. There is a red circle at the top."


class FakeEngine:
    """No model at all: "red" is true, "blue" is not, and what else there is has no number."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        self.asked += [(prompt.id, question) for prompt, questions in asked for question in questions]
        return [[self._answer(question) for question in questions] for _, questions in asked]

    def _answer(self, question: str) -> tuple[float, float]:
        if "red" in question:
            return 0.8, 0.1
        return (0.1, 0.8) if "blue" in question else (float("nan"), 0.5)


def claims_of(prompts: Sequence[Prompt], text: str = ANSWER) -> list[Claim]:
    divider = RulesDivider()
    responses = [Response(f"{prompt.id}/{k}", prompt.id, text, (3,), True, 0) for prompt in prompts for k in range(2)]
    by_id = {prompt.id: prompt for prompt in prompts}
    return [claim for response in responses for claim in divider.divide(by_id[response.prompt_id], response)]


@pytest.fixture
def labeler(model: Any, prompter: Prompter) -> LabelerModule:
    return LabelerModule(LocalEngine(model, prompter))


def predict(labeler: LabelerModule, batches: Sequence[Any], **options: Any) -> list[list[Judgement]]:
    options |= {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", **options)
    loader: DataLoader[Any] = DataLoader(list(batches), batch_size=None, collate_fn=lambda batch: batch)
    return trainer.predict(labeler, loader)  # type: ignore[return-value]


def test_verdicts_with_a_fake_engine(prompts: list[Prompt]) -> None:
    engine = FakeEngine()
    judgements = LabelerModule(engine)(
        prompts[:1], claims_of(prompts[:1], ANSWER + " There is a green ring at the left.")
    )
    assert [judgement.verdict for judgement in judgements] == ["accepted", "rejected", "accepted", "unknown"] * 2
    assert [(judgement.p_yes, judgement.p_no) for judgement in judgements[-2:]] == [(0.8, 0.1), (0.0, 0.5)]
    assert engine.asked == [
        (prompts[0].id, f"Is there a {thing}? Please answer yes or no.")
        for thing in ("red circle at the top", "blue star at the left", "green ring at the left")
    ]


def test_the_question_suffix_is_the_one_given(prompts: list[Prompt]) -> None:
    engine = FakeEngine()
    LabelerModule(engine, Wording(" Yes?"))(prompts[:1], claims_of(prompts[:1], "There is a star."))
    assert engine.asked == [(prompts[0].id, "Is there a star? Yes?")]


def test_predict_judges_as_a_call_does(labeler: LabelerModule, prompts: list[Prompt]) -> None:
    batches = [ClaimBatch(prompts[k : k + 2], claims_of(prompts[k : k + 2])) for k in (0, 2)]
    called = [labeler(batch.prompts, batch.claims) for batch in batches]
    assert predict(labeler, batches) == called
    assert [len(judgements) for judgements in called] == [12, 12]
    for judgement in called[0]:
        assert 0 < judgement.p_yes + judgement.p_no < 1


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_predict_in_every_format(labeler: LabelerModule, prompts: list[Prompt], precision: str) -> None:
    """Lightning's own plugins, as someone who uses the module alone would choose them."""
    batch = ClaimBatch(prompts[:2], claims_of(prompts[:2]))
    called = labeler(batch.prompts, batch.claims)
    (predicted,) = predict(labeler, [batch], precision=precision)
    for one, other in zip(called, predicted, strict=True):
        assert one.claim_id == other.claim_id
        assert (one.p_yes, one.p_no) == pytest.approx((other.p_yes, other.p_no), rel=0.1)


def test_identical_questions_have_identical_answers(labeler: LabelerModule, prompts: list[Prompt]) -> None:
    claims = claims_of(prompts[:2])
    judgements = labeler(prompts[:2], claims)
    answers: dict[tuple[str, str], set[tuple[float, float]]] = {}
    for claim, judgement in zip(claims, judgements, strict=True):
        answers.setdefault((claim.prompt_id, claim.question), set()).add((judgement.p_yes, judgement.p_no))
    assert len(answers) == 4
    assert {len(found) for found in answers.values()} == {1}
    # Another image is another answer.
    assert len({found for some in answers.values() for found in some}) == 4


def test_all_questions_at_once_are_answered_as_one_by_one(labeler: LabelerModule, prompts: list[Prompt]) -> None:
    claims = claims_of(prompts[:3])
    together = labeler(prompts[:3], claims)
    alone = [judgement for claim in claims for judgement in labeler(prompts[:3], [claim])]
    assert [judgement.claim_id for judgement in together] == [judgement.claim_id for judgement in alone]
    for one, other in zip(together, alone, strict=True):
        assert (one.p_yes, one.p_no) == pytest.approx((other.p_yes, other.p_no), rel=1e-4)


def test_labeling_leaves_the_policy_as_it_was(labeler: LabelerModule, prompts: list[Prompt], model: Any) -> None:
    """A model that labels itself is in the middle of its training."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    labeler(prompts[:1], claims_of(prompts[:1]))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_model_belongs_to_the_module(labeler: LabelerModule, model: Any) -> None:
    """So that a trainer moves it to its device; an engine without a model in this process has none."""
    assert labeler.model is model
    assert {id(parameter) for parameter in labeler.parameters()} == {id(parameter) for parameter in model.parameters()}
    assert list(LabelerModule(FakeEngine()).parameters()) == []


def test_a_tokenizer_that_cannot_tell_yes_from_no_is_refused(model: Any, processor: Any) -> None:
    class SamePrompter(Prompter):
        def _tokenize(self, rendered: str, token_counts: Sequence[int]) -> tuple[int, ...]:
            return super()._tokenize(rendered.replace("Yes", "No"), token_counts)

    with pytest.raises(ValueError, match="must start with four distinct tokens"):
        LabelerModule(LocalEngine(model, SamePrompter(processor)))
