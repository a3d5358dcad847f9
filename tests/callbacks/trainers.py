"""Trainers as train.py makes them, without anything to look at."""

from typing import Any

import lightning as L


def quiet_trainer(**options: Any) -> L.Trainer:
    """A trainer of four epochs, each with a loader of its own."""
    return L.Trainer(
        accelerator="cpu",
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=1,
        **{"max_epochs": 4, **options},
    )
