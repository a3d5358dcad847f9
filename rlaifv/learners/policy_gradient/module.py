"""The policy as a LightningModule: policy gradients on trees, all answers to a prompt as branches of one prefix."""

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlaifv.learners.policy import PolicyModule, Schedule
from rlaifv.learners.policy_gradient.batch import RolloutBatch
from rlaifv.learners.policy_gradient.losses import Aggregation, surrogate_loss
from rlaifv.models.loading import backbone
from rlaifv.models.tree.packing import branch_logps


class TooFarFromReference(ValueError):
    """Raised when the KL divergence to the iteration's start passes `max_kl`."""


class PolicyGradientModule(PolicyModule):
    """Clipped policy gradient of one policy; advantages come with the rollouts.

    Args:
        policy: see `PolicyModule`, as `optimizer`, `schedule`, `warmup_ratio` and `reset_optimizer`.
        optimizer: takes the trainable parameters.
        clip: range of the ratio, see `surrogate_loss`.
        kl_weight: weight of the KL penalty to the iteration's start.
        max_kl: KL per token, averaged over a batch, above which the run stops; 0 never stops it.
        aggregation: of token losses: sequence or token.
        schedule: of the learning rate.
        warmup_ratio: of the learning rate.
        reset_optimizer: at the start of each iteration.

    Raises:
        ValueError: a clip range outside of (0, 1), a negative weight or bound, or an unknown aggregation.
    """

    record_name = "answers"

    def __init__(
        self,
        policy: torch.nn.Module,
        optimizer: Callable[..., Optimizer],
        clip: float = 0.2,
        kl_weight: float = 0.04,
        max_kl: float = 0.0,
        aggregation: Aggregation = "sequence",
        schedule: Schedule = "cosine",
        warmup_ratio: float = 0.05,
        reset_optimizer: bool = True,
    ) -> None:
        super().__init__(policy, optimizer, schedule, warmup_ratio, reset_optimizer)
        if not 0 < clip < 1:
            raise ValueError(f"The clip range must be between 0 and 1, but it is {clip}.")
        if not (kl_weight >= 0 and max_kl >= 0):
            raise ValueError(f"kl_weight and max_kl must be 0 or more, but they are {kl_weight} and {max_kl}.")
        if aggregation not in get_args(Aggregation):
            raise ValueError(f"The aggregation must be sequence or token, but it is {aggregation!r}.")
        self.clip = clip
        self.kl_weight = kl_weight
        self.max_kl = max_kl
        self.aggregation: Aggregation = aggregation

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Raises:
            NonFiniteLoss: the loss is NaN or infinite; it has not reached a gradient.
            TooFarFromReference: the policy has left the iteration's start further than `max_kl`.
        """
        logps = branch_logps(backbone(self.policy), batch.trees, batch.images)
        terms = surrogate_loss(
            logps,
            batch.old_logps,
            batch.advantages,
            batch.trees.branch_lengths,
            self.clip,
            self.kl_weight,
            self.aggregation,
        )
        loss = terms.loss if batch.images else self.reaching_all_parameters(terms.loss)
        self.refuse_non_finite_loss(loss, batch.record_ids)
        if self.max_kl and terms.kl.item() > self.max_kl:
            raise TooFarFromReference(
                f"In optimizer step {self.global_step}, the KL to the iteration's start is {terms.kl.item():.3g} per "
                f"token, above max_kl={self.max_kl}. Lower learner.lr, or raise method.learner.module.kl_weight."
            )
        num_answers = len(batch.record_ids)
        self.log("loss", loss, batch_size=num_answers, sync_dist=True)
        self.log_dict(
            {
                "policy/kl": terms.kl,
                "policy/clipped": terms.clipped,
                "policy/ratio": terms.ratio,
                "policy/logps": logps.detach().mean(),
            },
            batch_size=num_answers,
            sync_dist=True,
        )
        return loss
