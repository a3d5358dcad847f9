"""A run that stops at its pairs: all iterations are labelled with one policy, and nothing trains."""

from lightning import LightningModule
from torch.utils.data import DataLoader

from rlaifv.loop import FeedbackLoop


class LabelRun(LightningModule):
    """Makes the pairs of every iteration, as predictions over their numbers.

    A trainer's `predict` puts policy and labeler on its devices, in its precision, and starts its ranks; each of them goes
    through all iterations, whose shards they share out among themselves.
    """

    def __init__(self, loop: FeedbackLoop, num_iterations: int) -> None:
        super().__init__()
        self.loop = loop
        self.num_iterations = num_iterations
        self.policy, self.labeler = loop.policy.model, loop.labeler  # registered, so that they are moved
        self.chosen_from = None if loop.chosen_from is None else loop.chosen_from.model

    def predict_dataloader(self) -> DataLoader[int]:
        return DataLoader(range(self.num_iterations), batch_size=None)  # type: ignore[arg-type]

    def predict_step(self, batch: int, batch_idx: int) -> int:
        """Commit one iteration, or find it done. Returns its number of shards of pairs."""
        return self.loop.prepare(int(batch)).stages["pairs"]
