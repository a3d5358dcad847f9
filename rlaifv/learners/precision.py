"""Number formats of training: supported precisions, the type of loaded weights, and a plugin that does not convert them.

    32-true      computes in the type of the weights, model.dtype
    bf16-true    loads the weights in bfloat16 and computes in it
    bf16-mixed   trains float32 weights, computes in bfloat16 (autocast); frozen weights stay as loaded
    16-mixed     the same in float16 with loss scaling; GPUs only

Whatever trains keeps its updates: weights of 16 bits have float32 masters (`learners.optimizer`), adapters are float32.
"""

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import nn

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class WeightsAsLoaded(Precision):
    """bf16-true without conversions by the trainer.

    Lightning's own plugin casts the whole module. That rounds adapters, which train in float32, and the frequencies of
    rotary positions, which a model loaded in bfloat16 keeps in float32; and it makes bfloat16 the default type of tensors.
    """

    precision = "bf16-true"


def dtype_of_weights(precision: str, dtype: str) -> str:
    """Return the type to load the policy in: `dtype`, unless the precision decides."""
    return "bfloat16" if precision == "bf16-true" else dtype


def prepare_trained(policy: nn.Module, precision: str) -> None:
    """Convert trainable parameters to float32 if the precision is mixed.

    Raises:
        ValueError: weights of float16 would train without loss scaling, which loses small gradients.
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
