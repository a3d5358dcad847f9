"""A policy over the tiny model, and a real Trainer for it.

The tiny model has random weights. Its answers are made up, and their reference log-probs come from the same weights.
"""

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

from rlaifv.callbacks.iteration import IterationCallback
from rlaifv.data.datamodule import IterationDataModule
from rlaifv.engines.local import LocalEngine
from rlaifv.learners.dpo.batch import PreferenceCollator
from rlaifv.learners.dpo.module import DPOModule
from rlaifv.models.prompting import Prompter
from rlaifv.records import Pair, Prompt

QUIET = [
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


class Trusting(IterationCallback):
    """Takes every iteration for the policy's own."""

    def _check_policy(self, iteration: int, digest: str) -> None: ...


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

    def data(self, batch_size: int = 4, num_iterations: int = 1, epochs: int = 1) -> IterationDataModule:
        manifest = SimpleNamespace(records=lambda stage: {"prompts": self.prompts, "pairs": self.pairs}[stage])
        collator = PreferenceCollator(self.engine)
        return IterationDataModule(lambda k: manifest, collator, batch_size, num_iterations, epochs, seed=0)  # type: ignore[arg-type, return-value]

    def fit(self, module: DPOModule, data: IterationDataModule, *callbacks: Callback, **options: Any) -> L.Trainer:
        iterations = Trusting(options.pop("run_dir", Path("nowhere")), lambda num_iterations: None)
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
            callbacks=[iterations, *callbacks],
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


ADAMW = partial(torch.optim.AdamW, lr=1e-3)
