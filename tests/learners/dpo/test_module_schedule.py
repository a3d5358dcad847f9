"""The policy under a real Trainer: at which learning rate, in how many steps, with which state of the optimizer."""

import math
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from rlaifv.learners.dpo.module import DPOModule
from rlaifv.models.loading import select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from tests.learners.dpo_run import ADAMW, QUIET, RecordingSGD, Run, recorded

pytestmark = QUIET


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
