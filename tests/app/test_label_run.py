"""A run that only labels goes through every iteration once, with its models where the trainer wants them."""

from types import SimpleNamespace
from typing import Any

import lightning as L
import torch

from rlaifv.app.label_run import LabelRun


class FakeLoop:
    """Stands for `FeedbackLoop`; notes in which mode its policy is when an iteration is made."""

    def __init__(self) -> None:
        self.policy = SimpleNamespace(model=torch.nn.Linear(2, 2))
        self.labeler = torch.nn.Linear(2, 2)
        self.chosen_from = SimpleNamespace(model=torch.nn.Linear(3, 3))
        self.prepared: list[tuple[int, bool, bool]] = []

    def prepare(self, iteration: int) -> Any:
        self.prepared.append((iteration, torch.is_grad_enabled(), self.policy.model.weight.dtype == torch.bfloat16))
        return SimpleNamespace(stages={"pairs": 1})


def test_every_iteration_is_made_once_without_gradients() -> None:
    loop = FakeLoop()
    options: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = L.Trainer(accelerator="cpu", precision="bf16-true", **options)
    models = [loop.policy.model, loop.labeler, loop.chosen_from.model]
    trainer.predict(LabelRun(loop.prepare, 3, models), return_predictions=False)
    assert loop.prepared == [(k, False, True) for k in range(3)]
    assert loop.labeler.weight.dtype == torch.bfloat16
    assert loop.chosen_from.model.weight.dtype == torch.bfloat16
