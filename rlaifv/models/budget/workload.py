"""The numbers that determine a run's cost: the workload of an iteration, and the setup of the run."""

from dataclasses import dataclass, fields
from math import ceil, lcm
from typing import Literal

from transformers import PretrainedConfig

from rlaifv.models.budget.memory import dtype_bytes
from rlaifv.models.families import Part

# Rows of the estimate: sampling, the labeler's questions, reward models, DPO's reference, the log-probs of the policy that
# sampled, the critic's values, the base model's log-probs, and training.
StageName = Literal["generate", "score", "rewards", "reference", "logps", "values", "base", "train"]
# What trains.
Record = Literal["pairs", "comparisons", "answers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The numbers of one iteration. Every prompt has one image.

    stages: those of the method
    record: what trains: pairs, comparisons (two answers each, which a prompt's comparisons share) or answers

    response_tokens: average length of an answer, which `max_new_tokens` bounds
    prompt_tokens: text in a prompt, the image's tokens excluded (template and question)
    claims_per_response: questions asked about an answer; identical questions are asked once, so this is an upper bound
    questions: about an image, where two answers are compared; None asks about claims
    question_prefix_tokens: text that all questions about an image share
    question_tokens: text of a question after that
    num_records: that train, in all
    records_per_tree: of one prompt, whose prefix they share unless a batch holds fewer
    reads_words: whether the log-probs of words are trained; a reward model's or critic's head costs next to nothing
    """

    num_prompts: int
    num_responses: int
    num_records: int
    epochs: int
    max_new_tokens: int
    stages: tuple[StageName, ...] = ("generate", "score", "reference", "train")
    record: Record = "pairs"
    response_tokens: int = 110
    prompt_tokens: int = 36
    claims_per_response: int = 6
    question_prefix_tokens: int = 35
    question_tokens: int = 25
    records_per_tree: int = 1
    num_iterations: int = 1
    reads_words: bool = True
    questions: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type is int and getattr(self, field.name) < 1:
                raise ValueError(f"The workload's {field.name} is {getattr(self, field.name)}, but must be at least 1.")

    @property
    def average_tokens(self) -> int:
        """Average length of an answer."""
        return min(self.response_tokens, self.max_new_tokens)

    @property
    def questions_per_prompt(self) -> int:
        """Questions about one image."""
        return self.questions or self.num_responses * self.claims_per_response

    @property
    def num_answers(self) -> int:
        """Sampled answers."""
        return self.num_prompts * self.num_responses

    @property
    def num_trees(self) -> int:
        """Trees of all records, those of a prompt together."""
        return ceil(self.num_records / self.records_per_tree)

    @property
    def answers_per_tree(self) -> int:
        """Branches of such a tree."""
        return self.answers_of(self.records_per_tree)

    def answers_of(self, num_records: int, num_trees: int = 1) -> int:
        """Return the branches of records in so many trees; an answer of several records of a tree is one branch."""
        return min(num_records * (1 if self.record == "answers" else 2), num_trees * self.num_responses)

    def num_batch_trees(self, batch_records: int) -> int:
        """Return the trees of an epoch in batches of so many records, which part some prompts' records; 0 parts none.

        >>> work = Workload(num_prompts=3, num_responses=4, num_records=12, records_per_tree=4, epochs=1, max_new_tokens=9)
        >>> [work.num_batch_trees(size) for size in (0, 1, 3, 4, 6)]
        [3, 12, 6, 3, 4]
        """
        if not batch_records:
            return self.num_trees
        in_both = (self.num_records - 1) // lcm(batch_records, self.records_per_tree)
        return self.num_trees + ceil(self.num_records / batch_records) - 1 - in_both


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
    train_tokens: bound of the tokens in one training batch; 0 goes by `train_records`
    train_records: in one training batch; 0 is one tree
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
    train_records: int = 0
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
