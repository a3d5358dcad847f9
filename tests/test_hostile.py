"""A checkpoint and a whole run made of what nobody vouches for."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rlaifv.learners.dpo import DPOModule


class OneWeight(DPOModule):
    """The learner, with a step that costs microseconds."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(1, 1, bias=False), partial(torch.optim.SGD, lr=0.1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.policy(batch).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_what_hyper_parameters_of_a_checkpoint_name_is_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's command line stores a function's name there, and calls it where a module is made from a checkpoint."""
    monkeypatch.setattr("os.system", lambda command: pytest.fail(command))

    def fit(max_epochs: int, path: Path | None = None) -> L.Trainer:
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=max_epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(OneWeight(), DataLoader(torch.ones(2, 1)), ckpt_path=path, weights_only=True)
        return trainer

    path = tmp_path / "hostile.ckpt"
    fit(1).save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    evil = {"_target_": "os.system", "command": "false", "_args_": ["false"]}
    checkpoint["hyper_parameters"] = {**evil, "_instantiator": "os.system", "_class_path": "os.system", "inner": evil}
    checkpoint["datamodule_hyper_parameters"] = checkpoint["hyper_parameters"]
    torch.save(checkpoint, path)
    assert fit(2, path).current_epoch == 2
