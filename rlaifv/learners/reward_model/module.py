"""A reward model as a LightningModule: a backbone with a head, trained on trees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlaifv.learners.policy import PolicyModule, Schedule
from rlaifv.learners.reward_model.batch import ComparisonBatch, SegmentBatch
from rlaifv.learners.reward_model.losses import comparison_loss, segment_loss
from rlaifv.models.loading import backbone
from rlaifv.models.reward_head import RewardHead, RewardSpec, save_head
from rlaifv.models.tree.packing import hidden_states
from rlaifv.records import Comparison, LabelledSegments


class RewardModelModule(PolicyModule):
    """Train the policy's weights, and a head, to score answers or to classify their segments.

    The policy samples and its labeler judges before the first step, so its weights may become those of the reward model.

    Args:
        policy: see `PolicyModule`, as `optimizer`, `schedule`, `warmup_ratio` and `reset_optimizer`.
        head: reads the policy's hidden states.
        spec: what it scores.
        optimizer: takes the trainable parameters.
        head_lr: peak learning rate of the head, which starts at zero.
        margin: weight of the comparisons' margins in the loss, see `comparison_loss`; 0 takes none.
        centring: weight of the term that keeps scores around 0.
        schedule: of the learning rate.
        warmup_ratio: of the learning rate.
        reset_optimizer: at the start of each iteration.

    Raises:
        ValueError: a negative weight, or weights of comparisons for a model of segments.
    """

    record_name = "records"

    def __init__(
        self,
        policy: torch.nn.Module,
        head: RewardHead,
        spec: RewardSpec,
        optimizer: Callable[..., Optimizer],
        head_lr: float = 1e-3,
        margin: float = 0.0,
        centring: float = 0.0,
        schedule: Schedule = "cosine",
        warmup_ratio: float = 0.05,
        reset_optimizer: bool = True,
    ) -> None:
        super().__init__(policy, optimizer, schedule, warmup_ratio, reset_optimizer)
        if not (margin >= 0 and centring >= 0):
            raise ValueError(f"margin and centring must be 0 or more, but they are {margin} and {centring}.")
        if spec.num_classes > 1 and (margin or centring):
            raise ValueError(
                "margin and centring are of comparisons; a reward model of segments has neither: set both to 0."
            )
        self.head = head
        self.spec, self.head_lr, self.margin, self.centring = spec, head_lr, margin, centring

    def parameter_groups(self) -> list[dict[str, Any]]:
        policy = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        return [{"params": policy}, {"params": [*self.head.parameters()], "lr": self.head_lr, "weight_decay": 0.0}]

    def units(self, record: Comparison | LabelledSegments) -> int:
        if isinstance(record, LabelledSegments):
            return len(record.labels)
        return sum(preference >= 0 for preference in record.preferences)

    def training_step(self, batch: ComparisonBatch | SegmentBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch. Raises NonFiniteLoss instead of letting NaN or infinity reach a gradient."""
        found = self.head(hidden_states(backbone(self.policy), batch.trees, batch.images, batch.places))
        if isinstance(batch, SegmentBatch):
            loss = segment_loss(found, batch.labels)
            right = (found.detach().argmax(2) == batch.labels).float().mean()
            figures = {"reward_model/accuracy": right}
        else:
            first, second = found[::2], found[1::2]
            loss = comparison_loss(first, second, batch.preferences, self.margin * batch.margins, self.centring)
            known, ahead = batch.preferences >= 0, (first - second).detach()
            right = ((ahead > 0) == (batch.preferences > 0.5))[known].float().mean()
            figures = {"reward_model/accuracy": right, "reward_model/margin": ahead.abs().mean()}
        loss = self.reaching_all_parameters(loss)  # the output embeddings have no part in it
        self.refuse_non_finite_loss(loss, batch.record_ids)
        size = len(batch.record_ids)
        self.log("loss", loss, batch_size=size, sync_dist=True)
        self.log_dict(figures, batch_size=size, sync_dist=True)
        return loss * self.batch_weight

    def export_beside(self, directory: Path) -> None:
        """Write the head and what it scores."""
        save_head(self.head, self.spec, directory)
