"""`run=label`: make the pairs of all iterations with one policy, and train nothing."""

from collections.abc import Callable, Sequence

import torch
from lightning import LightningModule
from torch.utils.data import DataLoader

from rlaifv.store.manifest import Manifest


class LabelRun(LightningModule):
    """Make the data of every iteration, as predictions over their numbers.

    `Trainer.predict` moves the models to its device, sets the precision, and starts the ranks. Each rank goes through all
    iterations and makes its shards.

    Args:
        prepare: makes and commits an iteration.
        num_iterations: how many.
        models: that make it. Registered as submodules so the Trainer moves them.
    """

    def __init__(
        self, prepare: Callable[[int], Manifest], num_iterations: int, models: Sequence[torch.nn.Module]
    ) -> None:
        super().__init__()
        self.prepare = prepare
        self.num_iterations = num_iterations
        self.models = torch.nn.ModuleList(models)

    def predict_dataloader(self) -> DataLoader[int]:
        return DataLoader(range(self.num_iterations), batch_size=None)  # type: ignore[arg-type]

    def predict_step(self, batch: int, batch_idx: int) -> int:
        """Commit one iteration, or find it done. Returns the number of shards of its last table."""
        return [*self.prepare(int(batch)).stages.values()][-1]
