"""Random states survive a checkpoint, which holds plain types only."""

import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rlaifv.callbacks.rng import RandomStateCallback

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def draw() -> tuple[list[float], ...]:
    """A few numbers from each generator; the normal ones keep a spare in the generator's state."""
    return (
        [random.random(), random.gauss(0, 1), random.random()],
        [float(np.random.rand()), float(np.random.standard_normal()), float(np.random.randint(1000))],
        [*torch.rand(2).tolist(), *torch.randn(3).tolist()],
    )


@pytest.fixture(autouse=True)
def _restore_generators() -> Any:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.mark.parametrize("num_draws_before", [0, 1])
def test_a_round_trip_through_a_file(tmp_path: Path, num_draws_before: int) -> None:
    """Also in the middle of a pair of normal numbers, where Python and NumPy hold the second one back."""
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    for _ in range(num_draws_before):
        random.gauss(0, 1)
        np.random.standard_normal()
    callback = RandomStateCallback()
    checkpoint: dict[str, Any] = {}
    callback.on_save_checkpoint(None, None, checkpoint)  # type: ignore[arg-type]
    expected = draw()
    assert draw() != expected
    torch.save(checkpoint, tmp_path / "state.ckpt")
    loaded = torch.load(tmp_path / "state.ckpt", weights_only=True)
    callback.on_load_checkpoint(None, None, loaded)  # type: ignore[arg-type]
    assert draw() == expected


def test_saving_draws_nothing() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    expected = draw()
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    RandomStateCallback().on_save_checkpoint(None, None, {})  # type: ignore[arg-type]
    assert draw() == expected


class DrawingModule(L.LightningModule):
    """A step of it draws, as dropout does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.drawn: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.drawn.append(random.random() + float(np.random.rand()) + float(torch.rand(1)))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(run_dir: Path, max_epochs: int, ckpt_path: Path | None = None) -> list[float]:
    module = DrawingModule()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RandomStateCallback()],
    )
    trainer.fit(module, DataLoader([0.0, 0.0]), ckpt_path=ckpt_path)
    trainer.save_checkpoint(run_dir / f"{max_epochs}.ckpt")
    return module.drawn


def test_a_resumed_run_draws_what_the_whole_one_did(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    whole = fit(tmp_path, 4)
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    first = fit(tmp_path, 2)
    draw()
    second = fit(tmp_path, 4, tmp_path / "2.ckpt")
    assert first + second == whole
    torch.load(tmp_path / "4.ckpt", weights_only=True)
