"""The learner under every precision plugin: batches arrive as they were collated, and what has to be float32 is."""

import copy
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision

from rlaifv.engines.local import LocalEngine
from rlaifv.learners.dpo.batch import PreferenceBatch
from rlaifv.learners.dpo.module import DPOModule
from rlaifv.learners.optimizer import MasterAdamW
from rlaifv.learners.precision import WeightsAsLoaded, prepare_trained
from rlaifv.models.loading import select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from tests.learners.dpo_run import QUIET, Run

pytestmark = QUIET
# The trainer's arguments, the type of the weights before it, and that of the weights while they train.
FORMATS: dict[str, tuple[dict[str, Any], torch.dtype, torch.dtype]] = {
    "32-true": ({"precision": "32-true"}, torch.float32, torch.float32),
    "bf16-mixed": ({"precision": "bf16-mixed"}, torch.bfloat16, torch.float32),
    "bf16-true": ({"plugins": [WeightsAsLoaded()]}, torch.bfloat16, torch.bfloat16),
    "bf16-true of Lightning": ({"precision": "bf16-true"}, torch.float32, torch.bfloat16),
    "16-mixed": ({"plugins": [MixedPrecision("16-mixed", "cpu")]}, torch.float32, torch.float32),
}


class Seen(Callback):
    """What the first step reads, and what is logged."""

    def __init__(self) -> None:
        self.batch: PreferenceBatch | None = None
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batch = self.batch or batch

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(trainer.callback_metrics["loss"]))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("lora", [None, {"r": 4, "lora_alpha": 8}])
def test_trains_in_every_format(
    model: Any, prompter: Prompter, prompts: list[Prompt], name: str, lora: dict[str, Any] | None
) -> None:
    options, loaded, trains = FORMATS[name]
    precision = name.partition(" ")[0]
    run = Run(copy.deepcopy(model), prompter, prompts)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(loaded)
    policy = select_trainable(model, ["projector", "language_model"], lora)
    prepare_trained(policy, precision)
    run.engine = LocalEngine(policy, prompter, autocast=torch.bfloat16 if "mixed" in name else None)
    run.pairs = run.with_reference_logps(run.pairs)
    seen = Seen()
    module = DPOModule(policy, partial(MasterAdamW, lr=1e-3 if lora is None else 1e-2), warmup_ratio=0.0)
    run.fit(module, run.data(batch_size=2, epochs=3), seen, gradient_clip_val=1.0, **options)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    if lora is None:
        assert {parameter.dtype for parameter in trained} == {trains}
    elif "Lightning" not in name:
        assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert seen.batch is not None
    assert seen.batch.reference_logps.dtype == seen.batch.token_weights.dtype == torch.float32
    expected = run.data(batch_size=2).collator(run.items())
    assert {*seen.batch.reference_logps.tolist()} <= {*expected.reference_logps.tolist()}
    # The reference is the policy: nothing is won or lost before the first step, up to rounding.
    assert seen.losses[0] == pytest.approx(0.693, abs=0.02)
    assert seen.losses[-1] < seen.losses[0] - 0.05
    # Rotary frequencies in 16 bits would shift positions.
    assert {buffer.dtype for key, buffer in policy.named_buffers() if "inv_freq" in key} == {torch.float32}


def test_float16_weights_without_scaling_are_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="trains float16 weights without loss scaling"):
        prepare_trained(model.half(), "32-true")
