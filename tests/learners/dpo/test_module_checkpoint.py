"""What a checkpoint of the policy holds, which it continues, and which it refuses."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from rlaifv.data.datamodule import IterationDataModule
from rlaifv.learners.dpo.module import DPOModule
from rlaifv.models.loading import select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from tests.learners.dpo_run import ADAMW, QUIET, Run

pytestmark = QUIET


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

    def fresh() -> tuple[Run, DPOModule, IterationDataModule]:
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
