"""The policy and its reference as a LightningModule: KTO on trees, with stored reference log-probs."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from rlaifv.learners.dpo.losses import reduce_logps
from rlaifv.learners.kto.batch import LabelledBatch
from rlaifv.learners.kto.losses import kto_loss, reference_point
from rlaifv.learners.policy import PolicyModule, Schedule
from rlaifv.models.loading import backbone
from rlaifv.models.tree.packing import branch_logps
from rlaifv.runtime.ranks import world_size


class KTOModule(PolicyModule):
    """Kahneman-Tversky optimization (arXiv 2402.01306) of one policy, from answers that are good or bad by themselves.

    The reference is the policy as it was when the iteration began. The reference point z0 is estimated anew for each batch,
    over those that all ranks run at the same time, as the paper's and TRL's code do. So a step depends on how its records are
    shared out among the batches of `trainer.accumulate_grad_batches`, and is the step of one large batch only where z0 is the
    same in all of them, such as 0. A batch without mismatched answers, as in an iteration of one prompt, has z0 = 0.

    Args:
        policy: see `PolicyModule`, as `optimizer`, `schedule`, `warmup_ratio` and `reset_optimizer`.
        optimizer: takes the trainable parameters.
        beta: strength of the pull towards the reference.
        schedule: of the learning rate.
        warmup_ratio: of the learning rate.
        reset_optimizer: at the start of each iteration.

    Raises:
        ValueError: a beta that is not above 0.
    """

    record_name = "labelled answers"

    def __init__(
        self,
        policy: torch.nn.Module,
        optimizer: Callable[..., Optimizer],
        beta: float = 0.1,
        schedule: Schedule = "cosine",
        warmup_ratio: float = 0.05,
        reset_optimizer: bool = True,
    ) -> None:
        super().__init__(policy, optimizer, schedule, warmup_ratio, reset_optimizer)
        if not beta > 0:
            raise ValueError(f"beta must be above 0, but it is {beta}.")
        self.beta = beta

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch. Raises NonFiniteLoss instead of letting NaN or infinity reach a gradient."""
        token_logps = branch_logps(backbone(self.policy), batch.trees, batch.images)
        policy_logps, reference_logps = (
            reduce_logps(logps, batch.trees.branch_lengths, "sum") for logps in (token_logps, batch.reference_logps)
        )
        other = batch.is_mismatched
        point = reference_point(policy_logps[other], reference_logps[other], sum_over_ranks)
        terms = kto_loss(
            policy_logps[~other], reference_logps[~other], batch.is_desirable, batch.weights, point, self.beta
        )
        loss = terms.loss if batch.images else self.reaching_all_parameters(terms.loss)
        self.refuse_non_finite_loss(loss, batch.record_ids)
        num_answers = len(batch.record_ids)
        self.log("loss", loss, batch_size=num_answers, sync_dist=True)
        self.log_dict(
            {
                "kto/reference_point": point,
                # NaN, which no chart shows, where a batch has no answer of the kind.
                "rewards/desirable": terms.rewards[batch.is_desirable].mean(),
                "rewards/undesirable": terms.rewards[~batch.is_desirable].mean(),
            },
            batch_size=num_answers,
            sync_dist=True,
        )
        return loss * self.batch_weight


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks, which call this together."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values
