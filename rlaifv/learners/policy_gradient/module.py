"""The policy as a LightningModule: policy gradients on trees, all answers to a prompt as branches of one prefix."""

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlaifv.engines.reward import RewardEngine
from rlaifv.learners.policy import PolicyModule, Schedule
from rlaifv.learners.policy_gradient.batch import RolloutBatch
from rlaifv.learners.policy_gradient.losses import Aggregation, surrogate_loss, value_loss
from rlaifv.models.loading import backbone
from rlaifv.models.tree.packing import hidden_states, target_logps
from rlaifv.records import Rollout


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

    def units(self, record: Rollout) -> int:
        return len(record.token_ids) if self.aggregation == "token" else 1

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Raises:
            NonFiniteLoss: the loss is NaN or infinite; it has not reached a gradient.
            TooFarFromReference: the policy has left the iteration's start further than `max_kl`.
        """
        policy = backbone(self.policy)
        hidden = hidden_states(policy, batch.trees, batch.images, batch.trees.score_index)
        logps = target_logps(policy, hidden, batch.trees.targets)
        terms = surrogate_loss(
            logps,
            batch.old_logps,
            batch.advantages,
            batch.trees.branch_lengths,
            self.clip,
            self.kl_weight,
            self.aggregation,
        )
        loss, figures = self.with_critic(terms.loss, batch, hidden)
        loss = loss if batch.images else self.reaching_all_parameters(loss)
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
                **figures,
            },
            batch_size=num_answers,
            sync_dist=True,
        )
        return loss * self.batch_weight

    def with_critic(self, loss: Tensor, batch: RolloutBatch, hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss with what a critic adds, and its figures; here there is none.

        Args:
            loss: of the policy.
            batch: it belongs to.
            hidden: float[S, D], the policy's states before each token.
        """
        return loss, {}


class ActorCriticModule(PolicyGradientModule):
    """PPO with a critic (arXiv 1707.06347): the policy's clipped loss, and the critic's.

    Args:
        policy: see `PolicyGradientModule`, as all that is not named here.
        critic: what is expected before each token; its head reads a backbone of its own, or the policy's states.
        optimizer: takes the trainable parameters.
        value_weight: weight of the critic's loss.
        value_clip: see `value_loss`.
        critic_lr: peak learning rate of the critic's head, which starts at zero; a backbone of its own has the policy's.
        critic_is_detached: whether the critic's loss does not reach the policy, where it reads the policy's states.
        clip: range of the ratio.
        kl_weight: weight of a KL penalty in the loss; PPO has it in the reward.
        max_kl: alarm.
        aggregation: of token losses.
        schedule: of the learning rate.
        warmup_ratio: of the learning rate.
        reset_optimizer: at the start of each iteration.

    Raises:
        ValueError: as `PolicyGradientModule`.
    """

    def __init__(
        self,
        policy: torch.nn.Module,
        critic: RewardEngine,
        optimizer: Callable[..., Optimizer],
        value_weight: float = 0.1,
        value_clip: float = 0.2,
        critic_lr: float = 1e-3,
        critic_is_detached: bool = True,
        clip: float = 0.2,
        kl_weight: float = 0.0,
        max_kl: float = 0.0,
        aggregation: Aggregation = "token",
        schedule: Schedule = "cosine",
        warmup_ratio: float = 0.05,
        reset_optimizer: bool = True,
    ) -> None:
        super().__init__(
            policy, optimizer, clip, kl_weight, max_kl, aggregation, schedule, warmup_ratio, reset_optimizer
        )
        if not (value_weight >= 0 and value_clip >= 0 and critic_lr > 0):
            raise ValueError("value_weight and value_clip must be 0 or more, and critic_lr above 0.")
        self.value_head = critic.head
        self.critic = None if critic.engine.model is policy else critic.engine.model.train()
        self.value_weight, self.value_clip = value_weight, value_clip
        self.critic_lr, self.critic_is_detached = critic_lr, critic_is_detached

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = super().parameter_groups()
        head = [*self.value_head.parameters()]
        mine = {id(parameter) for parameter in head}
        groups[0]["params"] = [parameter for parameter in groups[0]["params"] if id(parameter) not in mine]
        return [*groups, {"params": head, "lr": self.critic_lr, "weight_decay": 0.0}]

    def with_critic(self, loss: Tensor, batch: RolloutBatch, hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.values is not None
        assert batch.returns is not None
        if self.critic is not None:
            states = hidden_states(backbone(self.critic), batch.trees, batch.images, batch.trees.score_index)
        else:
            states = hidden.detach() if self.critic_is_detached else hidden
        values = self.value_head(states)[:, 0]
        lengths = batch.trees.branch_lengths
        error = value_loss(values, batch.values, batch.returns, lengths, self.value_clip, self.aggregation)
        spread = batch.returns.var(correction=0)
        unexplained = (batch.returns - values.detach()).var(correction=0) / spread.clamp(min=1e-8)
        if self.critic is not None:  # its output embeddings have no part in the loss, and ranks wait for all gradients
            error = error + sum(p.sum() for p in self.critic.parameters() if p.requires_grad) * 0.0
        figures = {"critic/loss": error.detach(), "critic/explained": 1 - unexplained}
        return loss + self.value_weight * error, figures
