"""The numbers that determine a run's cost: the workload of an iteration, and the setup of the run."""

from dataclasses import dataclass, fields
from math import ceil

from transformers import PretrainedConfig

from rlaifv.models.budget.memory import dtype_bytes
from rlaifv.models.families import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The numbers of one iteration. Every prompt has one image.

    response_tokens: average length of an answer, which `max_new_tokens` bounds
    prompt_tokens: text in a prompt, the image's tokens excluded (template and question)
    claims_per_response: questions asked about an answer; identical questions are asked once, so this is an upper bound
    question_prefix_tokens: text that all questions about an image share
    question_tokens: text of a question after that
    num_pairs: in all; `pairs_per_tree` of them share a prompt's prefix in training
    """

    num_prompts: int
    num_responses: int
    num_pairs: int
    epochs: int
    max_new_tokens: int
    response_tokens: int = 110
    prompt_tokens: int = 36
    claims_per_response: int = 6
    question_prefix_tokens: int = 35
    question_tokens: int = 25
    pairs_per_tree: int = 1
    num_iterations: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"The workload's {field.name} is {getattr(self, field.name)}, but must be at least 1.")

    @property
    def average_tokens(self) -> int:
        """Average length of an answer."""
        return min(self.response_tokens, self.max_new_tokens)

    @property
    def questions_per_prompt(self) -> int:
        """Questions about one image."""
        return self.num_responses * self.claims_per_response

    @property
    def num_trees(self) -> int:
        """Trees of pairs in one epoch."""
        return ceil(self.num_pairs / self.pairs_per_tree)

    @property
    def answers_per_tree(self) -> int:
        """Branches of such a tree."""
        return 2 * self.pairs_per_tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How the run is set up, as far as it changes its cost.

    train_parts: what trains in full, ignored where `lora_rank` is set: adapters then train alone
    dtype: of the loaded weights, "float32", "bfloat16", "float16", or "auto" for the checkpoint's
    is_quantized: whether the language model's frozen weights are in 4 bits
    precision: Lightning's, e.g. "bf16-true", "bf16-mixed", "32-true"
    recompute: gradient checkpointing of every layer
    features_are_cached: whether a frozen vision tower sees an image once an iteration in training, not once an epoch
    batch_tokens: bound of the tokens that inference runs at a time
    train_tokens: bound of the tokens in one training batch; 0 is one tree
    num_shards: devices over which weights, gradients and optimizer states are split; 1 is a whole copy on each
    kept_checkpoints: how many checkpoints stay on disk
    candidates_per_epoch: how often in a pass what trains is stored, to be chosen from
    """

    train_parts: tuple[Part, ...] = ("language_model", "projector")
    lora_rank: int = 0
    dtype: str = "auto"
    is_quantized: bool = False
    precision: str = "bf16-true"
    recompute: bool = False
    features_are_cached: bool = True
    batch_tokens: int = 16_384
    train_tokens: int = 0
    num_shards: int = 1
    kept_checkpoints: int = 1
    candidates_per_epoch: int = 0

    def trains(self, part: Part) -> bool:
        """Return whether a part's own weights change; the head goes with the language model."""
        return not self.lora_rank and ("language_model" if part == "head" else part) in self.train_parts

    @property
    def is_mixed(self) -> bool:
        """Whether weights that train are float32 and computed in 16 bits."""
        return self.precision.endswith("-mixed")

    def weight_bytes(self, config: PretrainedConfig) -> int:
        """Return bytes of a loaded weight."""
        return 2 if self.precision == "bf16-true" else dtype_bytes(self.dtype, config)

    def trained_bytes(self, config: PretrainedConfig) -> int:
        """Return bytes of a weight that trains, and of its gradient: 4 for adapters and in mixed precision."""
        return 4 if self.lora_rank or self.is_mixed else self.weight_bytes(config)

    def has_masters(self, config: PretrainedConfig) -> bool:
        """Return whether the optimizer holds float32 masters of the weights that train, which have 16 bits."""
        return self.trained_bytes(config) < 4

    def optimizer_bytes(self, config: PretrainedConfig) -> int:
        """Bytes that the optimizer holds for a weight that trains: two float32 moments, and the master if there is one."""
        return 12 if self.has_masters(config) else 8

    def element_bytes(self, config: PretrainedConfig) -> int:
        """Return bytes of an activation."""
        return 2 if "16" in self.precision else self.weight_bytes(config)
