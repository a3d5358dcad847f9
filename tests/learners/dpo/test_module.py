"""The policy under a real Trainer: what moves, and what it costs."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlaifv.learners.dpo.batch import PreferenceCollator
from rlaifv.learners.dpo.module import DPOModule
from rlaifv.learners.dpo.token_weights import changed_token_weights
from rlaifv.models.loading import select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from tests.learners.dpo_run import ADAMW, QUIET, RecordingSGD, Run, recorded

pytestmark = QUIET


@pytest.mark.parametrize(
    "parts", [("projector", "language_model"), ("vision", "projector", "language_model"), ("projector",)]
)
def test_every_trainable_parameter_moves_and_no_frozen_one_does(
    model: Any, prompter: Prompter, prompts: list[Prompt], parts: Sequence[Any]
) -> None:
    run = Run(select_trainable(model, parts), prompter, prompts)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    run.fit(DPOModule(model, ADAMW, schedule="constant"), run.data(batch_size=2))
    still = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    # What comes after the features that LLaVA takes from its tower has no influence, whatever is trained.
    unused = {name for name in before if "vision_tower" in name and "post_layernorm" in name}
    assert len(frozen) < len(before)
    assert still == frozen | unused


def test_adapters_train_alone(model: Any, prompter: Prompter, prompts: list[Prompt]) -> None:
    policy = select_trainable(model, [], {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0})
    run = Run(policy, prompter, prompts)
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    run.fit(DPOModule(policy, ADAMW, schedule="constant"), run.data(batch_size=2))
    moved = {name for name, parameter in policy.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if "lora_" in name}


@pytest.mark.parametrize("reduction", ["sum", "mean", "weighted"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_first_step_costs_log_2(run: Run, reduction: Any, label_smoothing: float) -> None:
    """Policy and reference agree: the margin is 0, and -(1-e) log 1/2 - e log 1/2 = log 2 for every e."""
    module = DPOModule(run.model, ADAMW, reduction=reduction, label_smoothing=label_smoothing)
    batch = PreferenceCollator(run.engine, changed_weight=5.0)(run.items())
    assert module.training_step(batch, 0).item() == pytest.approx(math.log(2), abs=1e-5)


def test_the_first_logged_values_of_a_fit(run: Run) -> None:
    seen: list[dict[str, float]] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *others: Any) -> None:
            seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    run.fit(DPOModule(run.model, ADAMW, schedule="constant"), run.data(epochs=2), Look())
    first, second = seen
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert first[name] == pytest.approx(0.0, abs=1e-5)
    assert first["logps/chosen"] == pytest.approx(sum(sum(p.chosen_reference_logps) for p in run.pairs) / 4, rel=1e-5)
    assert first["logps/rejected"] == pytest.approx(
        sum(sum(p.rejected_reference_logps) for p in run.pairs) / 4, rel=1e-5
    )
    assert first["iteration"] == 1.0
    # A step in the right direction.
    assert second["loss"] < first["loss"]
    assert second["rewards/margins"] > 0
    assert second["rewards/margins"] == pytest.approx(second["rewards/chosen"] - second["rewards/rejected"], abs=1e-6)


def sequence_logps(run: Run, prompt: Prompt, ids: Sequence[int]) -> Tensor:
    """Log-probs of an answer's tokens the conventional way: prompt and answer as one sequence of its own."""
    encoded = run.prompter.encode(prompt)
    whole = torch.tensor([[*encoded.ids, *ids]])
    logits = run.model(input_ids=whole, **encoded.images).logits[0, len(encoded.ids) - 1 : -1]
    return logits.log_softmax(1).gather(1, torch.tensor(ids)[:, None]).squeeze(1)


@pytest.mark.parametrize(
    ("reduction", "row_tokens", "recompute"),
    [("sum", 0, False), ("mean", 0, False), ("weighted", 0, False), ("sum", 400, False), ("sum", 0, True)],
)
def test_loss_and_gradient_equal_the_conventional_computation(
    run: Run, reduction: str, row_tokens: int, recompute: bool
) -> None:
    """DPO written out over separate sequences, after the weights have left the reference."""
    pairs = [run.pair(k) for k in range(8)]  # two of the prompts have two pairs
    first, second = (pair for pair in pairs if pair.prompt_id == pairs[0].prompt_id)
    names = ("rejected", "rejected_token_ids")
    shared = replace(first, id="shared", **{name: getattr(second, name) for name in names})
    run.pairs = run.with_reference_logps([*pairs, shared])  # and one of them a third, of answers in the other two
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    module = DPOModule(run.model, ADAMW, beta=3.0, reduction=reduction)  # type: ignore[arg-type]
    if recompute:
        run.model.gradient_checkpointing_enable({"use_reentrant": False})
    loss = module.training_step(PreferenceCollator(run.engine, row_tokens, changed_weight=5.0)(run.items()), 0)
    loss.backward()
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    gradients = [parameter.grad.clone() for parameter in parameters]
    run.model.gradient_checkpointing_disable()
    losses = []
    for prompt, pair in run.items():
        ids = pair.chosen_token_ids, pair.rejected_token_ids
        ratios = []
        for side, reference, weights in zip(
            ids,
            (pair.chosen_reference_logps, pair.rejected_reference_logps),
            changed_token_weights(*ids, 5.0),
            strict=True,
        ):
            per_token = sequence_logps(run, prompt, side) - torch.tensor(reference)
            weight = torch.tensor(weights)
            ratios.append(
                {
                    "sum": per_token.sum(),
                    "mean": per_token.mean(),
                    "weighted": (weight * per_token).sum() / weight.sum(),
                }[reduction]
            )
        losses.append(-logsigmoid(3.0 * (ratios[0] - ratios[1])))
    expected = torch.stack(losses).mean()
    assert abs(expected.item() - math.log(2)) > 1e-3
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    run.model.zero_grad()
    expected.backward()
    largest = max(gradient.abs().max().item() for gradient in gradients)
    for gradient, parameter in zip(gradients, parameters, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5 * largest)


def test_likelihood_of_the_chosen_adds_to_the_loss(run: Run) -> None:
    batch = PreferenceCollator(run.engine)(run.items())
    plain, with_nll = (DPOModule(run.model, ADAMW, nll_weight=weight).training_step(batch, 0) for weight in (0.0, 0.5))
    means = [sequence_logps(run, prompt, pair.chosen_token_ids).mean() for prompt, pair in run.items()]
    torch.testing.assert_close(with_nll - plain, -0.5 * torch.stack(means).mean(), rtol=1e-5, atol=1e-5)


def test_weighted_sums_that_stay_sums(run: Run) -> None:
    """As in RLHF-V's script: weights of 1 make it the plain sum, whatever the lengths."""
    batch = PreferenceCollator(run.engine)(run.items())
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.mul_(1.1)
    plain = DPOModule(run.model, ADAMW).training_step(batch, 0)
    weighted = DPOModule(run.model, ADAMW, reduction="weighted", normalize_weights=False).training_step(batch, 0)
    averaged = DPOModule(run.model, ADAMW, reduction="weighted").training_step(batch, 0)
    torch.testing.assert_close(weighted, plain)
    assert abs(averaged.item() - plain.item()) > 1e-4


def test_four_pairs_at_once_or_two_by_two_are_one_step(prompter: Prompter, prompts: list[Prompt], model: Any) -> None:
    """Batch 4 without accumulation and batch 2 with two accumulated: the same gradient, the same weights."""
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    select_trainable(model, ["projector", "language_model"])
    results = []
    for batch_size, accumulate in ((4, 1), (2, 2)):
        model.load_state_dict(start)
        run = Run(model, prompter, prompts, num_pairs=4)
        module = DPOModule(model, partial(RecordingSGD, lr=0.05), schedule="constant")
        run.fit(module, run.data(batch_size, epochs=2), accumulate_grad_batches=accumulate)
        assert len(recorded(module).rates) == module.global_step == 2
        results.append((recorded(module).gradients, [p.detach().clone() for p in model.parameters()]))
    (gradients, weights), (other_gradients, other_weights) = results
    assert max(gradient.abs().max() for gradient in gradients[1]) > 1e-3
    for step in range(2):
        for one, other in zip(gradients[step], other_gradients[step], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    for one, other in zip(weights, other_weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
