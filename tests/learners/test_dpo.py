"""The policy under a real Trainer: what moves, what it costs, and at which learning rate.

The tiny model has random weights. Its answers are made up, and their reference log-probs come from the same weights.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlaifv.callbacks.iteration import IterationCallback
from rlaifv.data.collate import PreferenceCollator
from rlaifv.data.datamodule import PreferenceDataModule
from rlaifv.engines.local import LocalEngine
from rlaifv.learners.dpo import DPOModule, NonFiniteLoss
from rlaifv.learners.token_weights import changed_token_weights
from rlaifv.models.loading import select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.records import Pair, Prompt

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*`self.trainer` reference is not registered"),
]

ANSWERS = (
    "There is a red circle at the top.",
    "There is a blue star at the left.",
    "A ring.",
    "Nothing.",
    "A red star.",
)


class Run:
    """A module over the tiny model, with data that one `fit` reads; iteration k always has the same pairs."""

    def __init__(self, model: Any, prompter: Prompter, prompts: Sequence[Prompt], num_pairs: int = 4) -> None:
        self.model = model
        self.prompter = prompter
        self.prompts = list(prompts)
        self.engine = LocalEngine(model, prompter)
        self.pairs = self.with_reference_logps([self.pair(k) for k in range(num_pairs)])

    def pair(self, k: int) -> Pair:
        prompt = self.prompts[k % len(self.prompts)]
        chosen, rejected = ANSWERS[k % len(ANSWERS)], ANSWERS[(k + 1 + k // len(ANSWERS)) % len(ANSWERS)]
        ids = [self.prompter.completion_ids(prompt, answer) for answer in (chosen, rejected)]
        return Pair(f"pair-{k}", prompt.id, f"{k}+", f"{k}-", chosen, rejected, *ids, 0.0, -1.0)

    def with_reference_logps(self, pairs: Sequence[Pair]) -> list[Pair]:
        by_id = {prompt.id: prompt for prompt in self.prompts}
        logps = self.engine.completion_logps(
            [(by_id[pair.prompt_id], (pair.chosen_token_ids, pair.rejected_token_ids)) for pair in pairs]
        )
        return [
            replace(pair, chosen_reference_logps=tuple(chosen), rejected_reference_logps=tuple(rejected))
            for pair, (chosen, rejected) in zip(pairs, logps, strict=True)
        ]

    def items(self) -> list[tuple[Prompt, Pair]]:
        by_id = {prompt.id: prompt for prompt in self.prompts}
        return [(by_id[pair.prompt_id], pair) for pair in self.pairs]

    def data(self, batch_size: int = 4, num_iterations: int = 1, epochs: int = 1) -> PreferenceDataModule:
        manifest = SimpleNamespace(records=lambda stage: {"prompts": self.prompts, "pairs": self.pairs}[stage])
        collator = PreferenceCollator(self.prompter)
        return PreferenceDataModule(lambda k: manifest, collator, batch_size, num_iterations, epochs, seed=0)  # type: ignore[arg-type, return-value]

    def fit(self, module: DPOModule, data: PreferenceDataModule, *callbacks: Callback, **options: Any) -> L.Trainer:
        loop = SimpleNamespace(
            labeler=torch.nn.Module(),
            measure=lambda num_iterations: None,
            check_policy=lambda iteration, digest: None,
            evaluation_path=lambda num_iterations: Path("nowhere"),
            statistics_path=lambda iteration: Path("nowhere"),
            run_dir=options.pop("run_dir", None),
        )
        ckpt_path = options.pop("ckpt_path", None)
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=data.num_iterations * data.epochs,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            logger=False,
            deterministic=True,
            callbacks=[IterationCallback(loop), *callbacks],  # type: ignore[arg-type]
            **options,
        )
        try:
            trainer.fit(module, data, ckpt_path=ckpt_path)
        finally:
            torch.use_deterministic_algorithms(False)  # the trainer leaves them on for the whole process
        return trainer


class RecordingSGD(torch.optim.SGD):
    """Notes learning rate and gradients of every step."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self.rates: list[float] = []
        self.gradients: list[list[Tensor]] = []

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)  # the closure computes the gradients
        self.rates.append(self.param_groups[0]["lr"])
        self.gradients.append([p.grad.clone() for p in self.param_groups[0]["params"] if p.grad is not None])
        return result


def recorded(module: DPOModule) -> RecordingSGD:
    optimizer = module.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, RecordingSGD)
    return optimizer


@pytest.fixture
def run(model: Any, prompter: Prompter, prompts: list[Prompt]) -> Run:
    return Run(select_trainable(model, ["projector", "language_model"]), prompter, prompts)


ADAMW = partial(torch.optim.AdamW, lr=1e-3)


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
    batch = PreferenceCollator(run.prompter, changed_weight=5.0)(run.items())
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
    loss = module.training_step(PreferenceCollator(run.prompter, row_tokens, changed_weight=5.0)(run.items()), 0)
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
    batch = PreferenceCollator(run.prompter)(run.items())
    plain, with_nll = (DPOModule(run.model, ADAMW, nll_weight=weight).training_step(batch, 0) for weight in (0.0, 0.5))
    means = [sequence_logps(run, prompt, pair.chosen_token_ids).mean() for prompt, pair in run.items()]
    torch.testing.assert_close(with_nll - plain, -0.5 * torch.stack(means).mean(), rtol=1e-5, atol=1e-5)


def test_weighted_sums_that_stay_sums(run: Run) -> None:
    """As in RLHF-V's script: weights of 1 make it the plain sum, whatever the lengths."""
    batch = PreferenceCollator(run.prompter)(run.items())
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


LINEAR = [1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
COSINE = [1 / 3, 2 / 3, *(0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(6))]


@pytest.mark.parametrize(
    ("schedule", "factors"), [("linear", LINEAR), ("cosine", COSINE), ("constant", [1 / 3, 2 / 3, *[1.0] * 6])]
)
def test_the_learning_rate_by_hand(run: Run, schedule: Any, factors: list[float]) -> None:
    """8 steps an iteration, a quarter of them warm-up: 2 steps up in thirds, then 6 steps down from 1.

    The second iteration starts over at its very first step, whatever rate the first one ended with.
    """
    module = DPOModule(run.model, partial(RecordingSGD, lr=0.01), schedule=schedule, warmup_ratio=0.25)
    run.fit(module, run.data(batch_size=1, num_iterations=2, epochs=2))
    assert recorded(module).rates == pytest.approx([0.01 * factor for factor in factors * 2])


@pytest.mark.parametrize(
    ("num_pairs", "epochs", "accumulate", "num_steps"),
    [(4, 2, 2, 4), (5, 2, 2, 6), (5, 1, 4, 2), (3, 3, 8, 3)],
)
def test_an_iteration_has_as_many_steps_as_the_trainer_takes(
    prompter: Prompter, prompts: list[Prompt], model: Any, num_pairs: int, epochs: int, accumulate: int, num_steps: int
) -> None:
    """The last batches of an epoch make a step of their own: 5 batches in twos are 3 steps an epoch, not 2.5."""
    run = Run(select_trainable(model, ["projector"]), prompter, prompts, num_pairs)
    module = DPOModule(model, partial(RecordingSGD, lr=0.01), schedule="linear", warmup_ratio=0.0)
    run.fit(module, run.data(batch_size=1, epochs=epochs), accumulate_grad_batches=accumulate)
    assert module.global_step == num_steps
    assert module.num_steps == num_steps
    assert recorded(module).rates == pytest.approx([0.01 * (1 - k / num_steps) for k in range(num_steps)])


@pytest.mark.parametrize("reset_optimizer", [True, False])
def test_optimizer_states_at_the_start_of_an_iteration(run: Run, reset_optimizer: bool) -> None:
    """AdamW counts its steps: 2 in each iteration where it starts afresh, else on to 4."""
    counts: list[float] = []

    class Look(Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: torch.optim.Optimizer) -> None:
            counts.append(max((float(state["step"]) for state in optimizer.state.values()), default=0.0))

    module = DPOModule(run.model, ADAMW, reset_optimizer=reset_optimizer)
    run.fit(module, run.data(num_iterations=2, epochs=2), Look())
    assert counts == ([0, 1, 0, 1] if reset_optimizer else [0, 1, 2, 3])


def test_beginning_an_iteration_twice_changes_nothing(run: Run) -> None:
    """A resumed run begins the iteration of its checkpoint again, in the middle of it."""
    factors: list[float] = []

    class Again(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, *others: Any) -> None:
            module.begin_iteration(module.iteration, 99)
            factors.append(module.learning_rate_factor(module.global_step))
            if trainer.global_step > 0:
                assert len(trainer.optimizers[0].state) > 0

    module = DPOModule(run.model, ADAMW, schedule="linear", warmup_ratio=0.0)
    run.fit(module, run.data(batch_size=1), Again())
    assert (module.iteration, module.first_step, module.num_steps) == (0, 0, 4)
    assert factors == pytest.approx([1.0, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("num_epochs_before", [1, 2, 3])
def test_a_checkpoint_continues_the_run(
    processor: Any, prompts: list[Prompt], model: Any, tmp_path: Path, num_epochs_before: int
) -> None:
    """Two iterations of two epochs, stopped after any epoch: weights and rates end as in the uninterrupted run."""

    class StopAfter(Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
            if trainer.current_epoch + 1 == num_epochs_before:
                trainer.save_checkpoint(tmp_path / "stop.ckpt")
                raise KeyError("stopped")

    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    select_trainable(model, ["projector"])

    def fresh() -> tuple[Run, DPOModule, PreferenceDataModule]:
        model.load_state_dict(start)
        run = Run(model, Prompter(processor), prompts)
        module = DPOModule(run.model, partial(torch.optim.AdamW, lr=1e-2), schedule="linear", warmup_ratio=0.25)
        return run, module, run.data(batch_size=2, num_iterations=2, epochs=2)

    run, module, data = fresh()
    run.fit(module, data)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run, module, data = fresh()
    with pytest.raises(KeyError):
        run.fit(module, data, StopAfter())
    run, module, data = fresh()
    run.fit(module, data, ckpt_path=tmp_path / "stop.ckpt")
    assert (module.iteration, module.first_step, module.num_steps) == (1, 4, 4)
    assert module.global_step == 8
    assert {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, expected[name])} == set()
    assert not torch.equal(
        expected["model.multi_modal_projector.linear_1.weight"], start["model.multi_modal_projector.linear_1.weight"]
    )


def test_the_state_in_a_checkpoint(run: Run) -> None:
    module = DPOModule(run.model, ADAMW)
    module.iteration, module.first_step, module.num_steps, module.policy_digest = 3, 120, 40, "abc"
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    other = DPOModule(run.model, ADAMW)
    assert (other.iteration, other.first_step, other.num_steps, other.policy_digest) == (-1, 0, 1, "")
    other.on_load_checkpoint(checkpoint)
    assert (other.iteration, other.first_step, other.num_steps, other.policy_digest) == (3, 120, 40, "abc")


def stored(model: Any) -> dict[str, Any]:
    module = DPOModule(model, ADAMW)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


def test_only_what_trains_is_stored(model: Any) -> None:
    """A run with adapters does not write the base model again and again; what is left out is there."""
    select_trainable(model, ["projector"])
    checkpoint = stored(model)
    names = {name for name in checkpoint["state_dict"]}
    assert names
    assert all("multi_modal_projector" in name for name in names)
    module = DPOModule(model, ADAMW)
    module.on_load_checkpoint(checkpoint)
    assert not module.strict_loading
    adapted = select_trainable(model, [], {"r": 2, "lora_alpha": 2})
    assert all("lora_" in name for name in stored(adapted)["state_dict"])


def test_another_base_model_is_refused_with_both_digests(model: Any) -> None:
    select_trainable(model, ["projector"])
    checkpoint = stored(model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    other = DPOModule(model, ADAMW)
    message = (
        f"another base model: .* SHA-256 {checkpoint['frozen_digest']}, but those of model.path have [0-9a-f]{{64}}"
    )
    with pytest.raises(ValueError, match=message):
        other.on_load_checkpoint(checkpoint)


def test_weights_that_are_missing_or_of_another_shape_are_named(model: Any) -> None:
    select_trainable(model, ["projector"])
    name = "policy.model.multi_modal_projector.linear_1.bias"
    checkpoint = stored(model)
    tensor = checkpoint["state_dict"].pop(name)
    with pytest.raises(ValueError, match=f"{name} is missing in the checkpoint, but .* in what trains here"):
        DPOModule(model, ADAMW).on_load_checkpoint(checkpoint)
    checkpoint["state_dict"][name] = tensor[:3]
    with pytest.raises(ValueError, match=rf"{name} is \(3,\) in the checkpoint"):
        DPOModule(model, ADAMW).on_load_checkpoint(checkpoint)


def poisoned(run: Run, k: int) -> Run:
    """A reference log-prob that is no number, as overflow in a stage before would leave it."""
    pair = run.pairs[k]
    run.pairs[k] = replace(pair, chosen_reference_logps=(math.nan, *pair.chosen_reference_logps[1:]))
    return run


def weights(run: Run) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def test_a_loss_that_is_no_number_stops_the_step_that_meets_it(run: Run, tmp_path: Path) -> None:
    """Before the weights are touched; the pairs, and where they were met, are written down."""
    poisoned(run, 2)
    module, data = DPOModule(run.model, ADAMW), run.data(batch_size=1, epochs=2)
    steps: list[dict[str, Any]] = []

    class Look(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *others: Any) -> None:
            steps.append(weights(run))

    with pytest.raises(
        NonFiniteLoss, match=r"The loss is nan in optimizer step \d, in a batch of 1 pairs: pair-2\."
    ) as met:
        run.fit(module, data, Look(), run_dir=tmp_path)
    assert not [name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, steps[-1][name])]
    written = json.loads((tmp_path / "nonfinite.json").read_text())
    done = len(steps) - 1
    assert written == {
        "iteration": 0,
        "epoch": 0,
        "batch": done,
        "step": done,
        "rank": 0,
        "what": "loss",
        "value": "nan",
        "pair_ids": ["pair-2"],
    }
    assert f"named in {tmp_path / 'nonfinite.json'}" in str(met.value)


def test_a_gradient_that_is_no_number_stops_the_step_too(run: Run, tmp_path: Path) -> None:
    before = weights(run)
    next(p for p in run.model.parameters() if p.requires_grad).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLoss, match=r"The norm of the gradient is (inf|nan) in optimizer step 0"):
        run.fit(DPOModule(run.model, ADAMW), run.data(batch_size=2), run_dir=tmp_path, accumulate_grad_batches=2)
    assert not [name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert sorted(json.loads((tmp_path / "nonfinite.json").read_text())["pair_ids"]) == [f"pair-{k}" for k in range(4)]


def test_without_the_stop_the_weights_would_be_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DPOModule, "_refuse_non_finite", lambda *arguments: None)
    run.fit(DPOModule(poisoned(run, 2).model, ADAMW), run.data(batch_size=1))
    assert any(tensor.isnan().any() for tensor in run.model.state_dict().values())
