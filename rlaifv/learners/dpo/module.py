"""The policy and its reference as a LightningModule: DPO on trees, with stored reference log-probs.

The reference is the policy as it was when the iteration began. Its log-probs are computed once, with the pairs, so training
holds one model in memory and runs one forward pass per step.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlaifv.learners.dpo.batch import PreferenceBatch
from rlaifv.learners.dpo.losses import Loss, Reduction, dpo_loss, reduce_logps
from rlaifv.learners.policy import PolicyModule, Schedule
from rlaifv.models.loading import backbone
from rlaifv.models.tree.packing import branch_logps


class DPOModule(PolicyModule):
    """Direct preference optimization (arXiv 2305.18290, equation 7) of one policy.

    Args:
        policy: see `PolicyModule`, as `optimizer`, `schedule`, `warmup_ratio` and `reset_optimizer`.
        optimizer: takes the trainable parameters.
        beta: strength of the pull towards the reference.
        reduction: how token log-probs become a sequence's: summed, averaged, or weighted by the batch's token weights.
        normalize_weights: whether the weighted sum is divided by the sum of the weights.
        loss: member of the DPO family, see `dpo_loss`.
        label_smoothing: assumed share of pairs with swapped sides.
        nll_weight: weight of the chosen answers' negative log-likelihood per token, added to the loss (arXiv 2404.19733,
            equation 1).
        schedule: of the learning rate.
        warmup_ratio: of the learning rate.
        reset_optimizer: at the start of each iteration.
    """

    def __init__(
        self,
        policy: torch.nn.Module,
        optimizer: Callable[..., Optimizer],
        beta: float = 0.1,
        reduction: Reduction = "sum",
        normalize_weights: bool = True,
        loss: Loss = "sigmoid",
        label_smoothing: float = 0.0,
        nll_weight: float = 0.0,
        schedule: Schedule = "cosine",
        warmup_ratio: float = 0.05,
        reset_optimizer: bool = True,
    ) -> None:
        super().__init__(policy, optimizer, schedule, warmup_ratio, reset_optimizer)
        self.beta = beta
        self.reduction: Reduction = reduction
        self.normalize_weights = normalize_weights
        self.loss: Loss = loss
        self.label_smoothing = label_smoothing
        self.nll_weight = nll_weight

    def training_step(self, batch: PreferenceBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch. Raises NonFiniteLoss instead of letting NaN or infinity reach a gradient."""
        token_logps = batch.of_sides(branch_logps(backbone(self.policy), batch.trees, batch.images))
        lengths = batch.lengths
        weights = batch.token_weights if self.reduction == "weighted" else None
        policy_logps, reference_logps = (
            reduce_logps(logps, lengths, self.reduction, weights, self.normalize_weights)
            for logps in (token_logps, batch.reference_logps)
        )
        chosen, rejected = policy_logps[::2], policy_logps[1::2]
        terms = dpo_loss(
            chosen, rejected, reference_logps[::2], reference_logps[1::2], self.beta, self.label_smoothing, self.loss
        )
        loss = terms.loss
        if self.nll_weight:
            nll = -reduce_logps(token_logps, lengths, "mean")[::2].mean()
            loss = loss + self.nll_weight * nll
            self.log("nll", nll.detach(), batch_size=len(chosen), sync_dist=True)
        if not batch.images:
            loss = self.reaching_all_parameters(loss)
        self.refuse_non_finite_loss(loss, batch.record_ids)
        margins = terms.chosen_rewards - terms.rejected_rewards
        self.log("loss", loss, batch_size=len(chosen), sync_dist=True)
        self.log_dict(
            {
                "rewards/chosen": terms.chosen_rewards.mean(),
                "rewards/rejected": terms.rejected_rewards.mean(),
                "rewards/accuracies": (margins > 0).float().mean(),
                "rewards/margins": margins.mean(),
                "logps/chosen": chosen.detach().mean(),
                "logps/rejected": rejected.detach().mean(),
            },
            batch_size=len(chosen),
            sync_dist=True,
        )
        return loss * self.batch_weight
