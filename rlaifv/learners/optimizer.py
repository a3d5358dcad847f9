"""AdamW that does not lose small updates to 16-bit weights.

bfloat16 has 8 significant bits. Around 0.02, where most weights of a 7B model lie, neighbouring values are 1.2e-4
apart, so adding an update of 5e-7 leaves the weight unchanged. 16-bit weights therefore get float32 masters: updates
are added to the master, and the weight is the rounded master (mixed-precision training, arXiv 1710.03740, section 3.1).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

# Number of elements updated at a time: their gradients are converted to float32, which takes 256 MiB.
CHUNK_ELEMENTS = 1 << 26


class MasterAdamW(torch.optim.AdamW):
    """AdamW (arXiv 1711.05101) with float32 moments, and float32 masters for 16-bit parameters.

    For float32 parameters it is bitwise equal to `torch.optim.AdamW(fused=True)`. For 16-bit parameters the state takes
    12 bytes per element: the master and two moments; gradients keep the dtype of their parameter.

    Parameter groups hold the model's own parameters, so gradient clipping, scaling and zeroing work as usual. Code that
    changes parameters other than by `step` must also call `load_masters`, or the next step reverts the change.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled weight decay, multiplied by the learning rate.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        # Not fused=True: a gradient scaler would then leave unscaling to the step, preventing gradient clipping.
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. Returns the result of `closure`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for some in _chunks([parameter for parameter in group["params"] if parameter.grad is not None]):
                self._update(some, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state_of(parameter) for parameter in parameters]
        weights = [state.get("master", parameter) for state, parameter in zip(states, parameters, strict=True)]
        gradients = [parameter.grad.to(weight.dtype) for parameter, weight in zip(parameters, weights, strict=True)]  # type: ignore[union-attr]
        beta1, beta2 = group["betas"]
        adamw(
            weights,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        for parameter, weight in zip(parameters, weights, strict=True):
            if weight is not parameter:
                parameter.copy_(weight)

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if _is_rounded(parameter) and "master" not in state:
            state["master"] = parameter.float()
        if "step" not in state:
            like = state.get("master", parameter)
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(like), torch.zeros_like(like)
        return state

    def reset(self) -> None:
        """Reset the moments and the step count, as in a new optimizer; masters are kept."""
        for parameter, state in self.state.items():
            self.state[parameter] = {"master": state["master"]} if "master" in state else {}

    def masters(self) -> dict[Tensor, Tensor]:
        """Return the float32 masters, keyed by parameter, of the 16-bit parameters updated so far."""
        return {parameter: state["master"] for parameter, state in self.state.items() if "master" in state}

    def load_masters(self, values: Mapping[Tensor, Tensor]) -> None:
        """Replace masters, keyed by parameter; the caller must change the parameters themselves."""
        for parameter, master in self.masters().items():
            if parameter in values:
                master.copy_(values[parameter])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state unrounded; `torch.optim` would cast it to the parameters' dtype and require moments."""
        super().load_state_dict(state_dict | {"state": {}})
        saved = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(saved, parameters, strict=True):
            if number in state_dict["state"]:
                found = state_dict["state"][number]
                self.state[parameter] = {name: t.to(parameter.device, copy=True) for name, t in found.items()}


def _is_rounded(parameter: Tensor) -> bool:
    return parameter.dtype in (torch.bfloat16, torch.float16)


def _chunks(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Split parameters into lists of at most `CHUNK_ELEMENTS` elements, but at least one parameter."""
    some: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if some and size + parameter.numel() > CHUNK_ELEMENTS:
            yield some
            some, size = [], 0
        some.append(parameter)
        size += parameter.numel()
    if some:
        yield some


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """Settings of `MasterAdamW`, of which a module makes its optimizer.

    Attributes:
        lr: peak learning rate.
        weight_decay: L2 decay of the weights.
    """

    lr: float
    weight_decay: float

    def __call__(self, parameters: Iterable[nn.Parameter]) -> MasterAdamW:
        """Build the optimizer of these parameters."""
        return MasterAdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
