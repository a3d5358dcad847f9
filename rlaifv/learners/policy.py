"""The part of every learner that is not its loss: one policy that trains, its optimizer, schedule and checkpoints."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from rlaifv.models.digests import tensors_digest

Schedule = Literal["cosine", "linear", "constant"]


class NonFiniteLoss(ValueError):
    """A step that would have made weights non-finite; it was not made.

    `found` holds what was met, and the records of the batch.
    """

    def __init__(self, message: str, found: dict[str, Any]) -> None:
        super().__init__(message)
        self.found = found


class PolicyModule(LightningModule):
    """A policy that trains on the records of one iteration after another. Subclasses define `training_step`.

    The loss of a batch is a mean over its units, times `batch_weight`, which the trainer's callback sets for each batch so
    that a step does not depend on how its records are shared out among batches and ranks.

    Args:
        policy: the model that trains; its frozen parts have `requires_grad` off.
        optimizer: takes the trainable parameters.
        schedule: of the learning rate, over the steps of one iteration.
        warmup_ratio: share of an iteration's steps in which the learning rate rises from 0.
        reset_optimizer: whether each iteration starts with fresh optimizer states, as separate runs would.
    """

    record_name = "pairs"  # what messages call its records

    def __init__(
        self,
        policy: torch.nn.Module,
        optimizer: Callable[..., Optimizer],
        schedule: Schedule = "cosine",
        warmup_ratio: float = 0.05,
        reset_optimizer: bool = True,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints hold only what trains; `on_load_checkpoint` is strict about that
        self.policy = policy.train()
        self.make_optimizer = optimizer
        self.schedule: Schedule = schedule
        self.warmup_ratio = warmup_ratio
        self.reset_optimizer = reset_optimizer
        self.iteration = -1
        self.first_step = 0
        self.num_steps = 1
        self.policy_digest = ""
        self.batch_weight = 1.0
        self._loaded_buffers = {
            name: buffer.clone() for name, buffer in policy.named_buffers() if buffer.is_floating_point()
        }
        self._record_ids: list[str] = []

    def on_fit_start(self) -> None:
        """Restore buffers to their loaded type: rotary frequencies rounded to 16 bits would be others."""
        for name, buffer in self.policy.named_buffers():
            loaded = self._loaded_buffers.get(name)
            if loaded is not None and loaded.dtype != buffer.dtype:
                buffer.data = loaded.to(buffer.device)

    def begin_iteration(self, iteration: int, num_steps: int) -> None:
        """Take the current policy as the start of `iteration`, which has `num_steps` optimizer steps.

        Does nothing where this iteration has begun already, so that a resumed run may call it again.
        """
        if iteration == self.iteration:
            return
        self.iteration, self.first_step, self.num_steps = iteration, self.global_step, num_steps
        optimizer: Any = self.optimizers(use_pl_optimizer=False)  # DeepSpeed's is no torch.optim.Optimizer
        if self.reset_optimizer:
            getattr(optimizer, "reset", optimizer.state.clear)()  # masters of 16-bit weights are no state to forget
        for group in optimizer.param_groups:  # the scheduler wrote the rate of the old iteration's end
            group["lr"] = group["initial_lr"] * self.learning_rate_factor(self.first_step)

    def units(self, record: Any) -> int:
        """Return over how many terms the loss averages for a record; by default it averages over records."""
        return 1

    def reaching_all_parameters(self, loss: Tensor) -> Tensor:
        """Return the loss with a gradient of 0 for all that trains, for a batch of text alone.

        It gives the projector and vision tower no gradient, but ranks wait for all gradients.
        """
        return loss + sum(parameter.sum() for parameter in self.policy.parameters() if parameter.requires_grad) * 0.0

    def refuse_non_finite_loss(self, loss: Tensor, record_ids: Sequence[str]) -> None:
        """Raise NonFiniteLoss before a loss that is NaN or infinite reaches a gradient.

        Args:
            loss: of the batch.
            record_ids: ids of its records, also reported if the gradient turns out non-finite.
        """
        self._record_ids += record_ids
        self._refuse_non_finite("loss", loss.item(), record_ids)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Refuse non-finite gradients, which a finite loss can have. In 16-mixed, the gradient scaler handles them."""
        if str(self.trainer.precision) != "16-mixed":
            gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
            self._refuse_non_finite("norm of the gradient", norm, self._record_ids)
        self._record_ids = []

    def _refuse_non_finite(self, name: str, value: float, record_ids: Sequence[str]) -> None:
        if not math.isfinite(value):
            shown = ", ".join(record_ids[:4]) + (", …" if len(record_ids) > 4 else "")
            met = f"in optimizer step {self.global_step}, in a batch of {len(record_ids)} {self.record_name}: {shown}."
            found = {"what": name, "value": str(value), "record_ids": list(record_ids)}
            raise NonFiniteLoss(f"The {name} is {value} {met}", found)

    def learning_rate_factor(self, step: int) -> float:
        """Return the learning rate's multiplier at a step: warm-up, then the schedule down to 0 at the iteration's end."""
        done = step - self.first_step
        warmup = self.warmup_ratio * self.num_steps
        if done < warmup:
            return (done + 1) / (math.floor(warmup) + 1)
        if self.schedule == "constant":
            return 1.0
        left = 1 - min(1.0, (done - warmup) / max(1.0, self.num_steps - warmup))
        return left if self.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what trains, in groups as optimizers take them."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def export_beside(self, directory: Path) -> None:
        """Write what this learner has beside the policy's weights, which are in the directory already; by default nothing."""
        return

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameter_groups())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out frozen weights: they are the base model's, which their digest names."""
        if "state_dict" in checkpoint:  # sharded strategies keep weights elsewhere
            trained = self._trained_names()
            checkpoint["state_dict"] = {name: t for name, t in checkpoint["state_dict"].items() if name in trained}
        checkpoint["frozen_digest"] = self._digest_of_frozen()
        checkpoint["iteration"] = {
            "iteration": self.iteration,
            "first_step": self.first_step,
            "num_steps": self.num_steps,
            "policy_digest": self.policy_digest,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the iteration's counters, and check that the checkpoint fits.

        Raises:
            ValueError: it belongs to another base model, or lacks weights that train.
        """
        recorded, found = checkpoint["frozen_digest"], self._digest_of_frozen()
        if recorded != found:
            raise ValueError(
                f"The checkpoint belongs to another base model: the weights that stay frozen had SHA-256 {recorded}, but "
                f"those of model.path have {found}."
            )
        if "state_dict" in checkpoint:
            names, stored = self._trained_names(), checkpoint["state_dict"]
            trained = {name: tensor for name, tensor in self.state_dict().items() if name in names}
            for name in sorted({*trained, *stored}):
                shapes = [tuple(some[name].shape) if name in some else "missing" for some in (stored, trained)]
                if shapes[0] != shapes[1]:
                    raise ValueError(f"{name} is {shapes[0]} in the checkpoint, but {shapes[1]} in what trains here.")
        state = checkpoint["iteration"]
        self.iteration, self.first_step, self.num_steps, self.policy_digest = (
            state[name] for name in ("iteration", "first_step", "num_steps", "policy_digest")
        )

    def _trained_names(self) -> set[str]:
        """Return names of trainable parameters and of buffers. The rest never changes, such as the scales of 4-bit weights."""
        named = self.named_parameters(remove_duplicate=False)  # tied weights have two names
        return {name for name, parameter in named if parameter.requires_grad} | {
            name for name, _ in self.named_buffers()
        }

    def _digest_of_frozen(self) -> str:
        trained, tensors = self._trained_names(), self.state_dict(keep_vars=True)
        return tensors_digest({name: t for name, t in tensors.items() if name not in trained}, is_cached=True)
