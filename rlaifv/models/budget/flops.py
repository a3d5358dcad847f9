"""Floating-point operations of a model's parts on trees; a multiply-add counts as two.

Matrix products and attention count; norms, activations and softmax, below one percent together, do not. For scale,
LLaVA-1.5-7B: 12.95 GFLOP a token in the layers, 0.26 a token in the vocabulary projection, 0.41 TFLOP an image.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from rlaifv.models.budget.architecture import build_on_meta
from rlaifv.models.budget.layout import ImageLayout
from rlaifv.models.families import family_of


@dataclass(frozen=True, slots=True)
class ModelCost:
    """The sizes of a model that its cost depends on; `*_weights` are numbers of entries of weight matrices.

    attention_width, kv_width: query heads, key heads times the size of a head
    adapter_width: inputs plus outputs of the language model's linear layers; adapters have rank times as many weights
    adapter_inputs: inputs of the linear layers of one transformer layer
    has_qk_norm: whether queries and keys are normalized per head
    """

    num_layers: int
    hidden_size: int
    mlp_width: int
    attention_width: int
    kv_width: int
    vocab_size: int
    has_qk_norm: bool
    linear_weights: int
    adapter_width: int
    adapter_inputs: int
    vision_layers: int
    vision_width: int
    vision_mlp_width: int
    vision_weights: int
    projector_weights: int
    image: ImageLayout

    @property
    def token_flops(self) -> int:
        """FLOPs of one token in the language model's linear layers."""
        return 2 * self.linear_weights

    def attention_flops(self, num_queries: int, num_keys: int) -> int:
        """Return FLOPs of queries that all attend to the same keys: scores and weighted values, 2 * width each."""
        return 4 * self.num_layers * self.attention_width * num_queries * num_keys

    def language_flops(self, prefix_tokens: int, num_branches: int = 0, branch_tokens: int = 0) -> int:
        """Return FLOPs of the language model on one tree, without its head; causal attention costs half of the full square.

        Running the prefix costs the same whether its branches follow in one packed row or from a cache.
        """
        num_in_branches = num_branches * branch_tokens
        causal = self.attention_flops(prefix_tokens, prefix_tokens) // 2
        causal += num_branches * self.attention_flops(branch_tokens, branch_tokens) // 2
        above = self.attention_flops(num_in_branches, prefix_tokens)
        return (prefix_tokens + num_in_branches) * self.token_flops + causal + above

    def head_flops(self, num_scored: int) -> int:
        """Return FLOPs of the vocabulary projection of `num_scored` tokens."""
        return 2 * self.hidden_size * self.vocab_size * num_scored

    @property
    def vision_flops(self) -> int:
        """FLOPs of the vision tower on one image; transformers runs the layers after the selected one too."""
        positions = self.image.tile_positions
        attention = 4 * self.vision_layers * self.vision_width * positions**2
        return self.image.num_tiles * (2 * self.vision_weights * positions + attention)

    @property
    def projector_flops(self) -> int:
        """FLOPs of the projector on one image."""
        return 2 * self.projector_weights * self.image.num_projected

    def adapter_weights(self, rank: int) -> int:
        """Return parameters of LoRA adapters on every linear layer of the language model."""
        return rank * self.adapter_width

    @property
    def kv_elements(self) -> int:
        """Elements of one token's keys and values, all layers together."""
        return 2 * self.num_layers * self.kv_width


def model_cost(config: PretrainedConfig, image: ImageLayout) -> ModelCost:
    """Read a model's sizes off its config and its modules, for images of this layout.

    Raises:
        ValueError: the family is unknown.
    """
    family, model = family_of(config), build_on_meta(config)
    text: Any = config.get_text_config()
    vision: Any = config.vision_config
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    weighted = nn.Linear | nn.Conv2d | nn.Conv3d
    modules = {name + ".": module for name, module in model.named_modules() if isinstance(module, weighted)}

    def inside(prefixes: tuple[str, ...]) -> list[Any]:
        return [module for name, module in modules.items() if name.startswith(prefixes)]

    linears = inside(family.language_model)
    return ModelCost(
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        mlp_width=text.intermediate_size,
        attention_width=text.num_attention_heads * head_size,
        kv_width=text.num_key_value_heads * head_size,
        vocab_size=text.vocab_size,
        has_qk_norm=any(name.endswith(".q_norm") for name, _ in model.named_modules()),
        linear_weights=sum(linear.weight.numel() for linear in linears),
        adapter_width=sum(linear.in_features + linear.out_features for linear in linears),
        adapter_inputs=sum(linear.in_features for linear in linears) // text.num_hidden_layers,
        vision_layers=vision.num_hidden_layers,
        vision_width=vision.hidden_size,
        vision_mlp_width=vision.intermediate_size,
        vision_weights=sum(module.weight.numel() for module in inside(family.vision)),
        projector_weights=sum(module.weight.numel() for module in inside(family.projector)),
        image=image,
    )
