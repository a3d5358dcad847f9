"""Training precisions, the dtype in which each loads the weights, and a plugin that leaves the loaded dtypes unchanged.

    32-true      computes in the dtype of the weights, model.dtype
    bf16-true    loads the weights in bfloat16 and computes in it
    bf16-mixed   trains float32 weights, computes in bfloat16 (autocast); frozen weights stay as loaded
    16-mixed     the same in float16 with loss scaling; GPUs only

No trained weight loses small updates: 16-bit weights have float32 masters (`learners.optimizer`), adapters are float32.
"""

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import nn

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class WeightsAsLoaded(Precision):
    """bf16-true without conversions by the trainer.

    Lightning's own plugin casts the whole module. That would round adapters, which train in float32, and rotary
    position frequencies, which a model loaded in bfloat16 keeps in float32; it also makes bfloat16 the default tensor
    dtype.
    """

    precision = "bf16-true"


def dtype_of_weights(precision: str, dtype: str) -> str:
    """Return the dtype in which to load the policy: `dtype`, unless the precision determines it."""
    return "bfloat16" if precision == "bf16-true" else dtype


def prepare_trained(policy: nn.Module, precision: str) -> None:
    """Cast trained parameters to float32 if the precision is mixed.

    Raises:
        ValueError: float16 weights would train without loss scaling, which loses small gradients.
    """
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    if precision in AUTOCAST:
        for parameter in trained:
            parameter.data = parameter.data.float()
    elif any(parameter.dtype == torch.float16 for parameter in policy.parameters()):
        raise ValueError(
            f"trainer.precision={precision} trains float16 weights without loss scaling, which loses small gradients; set "
            "model.dtype=bfloat16 or float32, or trainer.precision=bf16-true, or 16-mixed on a GPU."
        )
