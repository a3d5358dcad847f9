"""A loss or a gradient that is no number, under a real Trainer."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from rlaifv.learners.dpo.module import DPOModule
from rlaifv.learners.policy import NonFiniteLoss
from tests.learners.dpo_run import ADAMW, QUIET, Run

pytestmark = QUIET


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
        "record_ids": ["pair-2"],
    }
    assert f"named in {tmp_path / 'nonfinite.json'}" in str(met.value)


def test_a_gradient_that_is_no_number_stops_the_step_too(run: Run, tmp_path: Path) -> None:
    before = weights(run)
    next(p for p in run.model.parameters() if p.requires_grad).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLoss, match=r"The norm of the gradient is (inf|nan) in optimizer step 0"):
        run.fit(DPOModule(run.model, ADAMW), run.data(batch_size=2), run_dir=tmp_path, accumulate_grad_batches=2)
    assert not [name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert sorted(json.loads((tmp_path / "nonfinite.json").read_text())["record_ids"]) == [
        f"pair-{k}" for k in range(4)
    ]


def test_without_the_stop_the_weights_would_be_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DPOModule, "_refuse_non_finite", lambda *arguments: None)
    run.fit(DPOModule(poisoned(run, 2).model, ADAMW), run.data(batch_size=1))
    assert any(tensor.isnan().any() for tensor in run.model.state_dict().values())
