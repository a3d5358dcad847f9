"""What a run will cost: tokens, FLOPs and device memory of each stage, and disk, from configs alone.

`stages` and `memory` hold the formulas. Nothing is downloaded or allocated, so this can be shown first.
"""

from dataclasses import dataclass, replace

from transformers import PretrainedConfig

from rlaifv.learners.optimizer import CHUNK_ELEMENTS
from rlaifv.models.budget import costs as stage
from rlaifv.models.budget.architecture import PartSize, build_on_meta, parameter_table
from rlaifv.models.budget.flops import model_cost
from rlaifv.models.budget.layout import ImageLayout, image_layout
from rlaifv.models.budget.memory import dtype_bytes
from rlaifv.models.budget.workload import Setup, Workload
from rlaifv.models.families import family_of

# Parquet before compression: text at five bytes a token, token ids and log-probs at eight; names, scores, claims' text.
ANSWER_TOKEN_BYTES, LOGP_BYTES = 13, 8
# Of a weight, scales included, which are quantized themselves; embeddings, a hundredth of the weights, stay as they are.
NF4_BYTES = 0.516
RECORD_BYTES, CLAIM_BYTES, JUDGEMENT_BYTES = 200, 350, 150


@dataclass(frozen=True, slots=True)
class StageBudget:
    """One stage of an iteration: tokens through the language model, FLOPs, and the peak on a device while it runs."""

    name: str
    num_tokens: int
    flops: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes of one device's memory. Weights, labeler, other model and optimizer states stay; the rest comes and goes.

    optimizer: AdamW's two moments of every trained weight, and its float32 master where the weight has 16 bits
    activations: of the longest training batch, the head's logits and autocast's 16-bit weights included
    update: what AdamW's step takes, once the activations are gone: a copy of all trained weights, or a chunk of gradients
    kv_cache: while sampling
    other: weights of the model that gives the chosen answers, 0 where there is none
    """

    weights: int
    labeler: int
    optimizer: int
    gradients: int
    activations: int
    update: int
    kv_cache: int
    other: int = 0

    @property
    def held(self) -> int:
        """Memory occupied during every stage, from the second iteration on."""
        return self.weights + self.labeler + self.other + self.optimizer

    @property
    def training(self) -> int:
        """Further memory that training needs."""
        return self.gradients + max(self.activations, self.update)


@dataclass(frozen=True, slots=True)
class DiskBudget:
    """Bytes on disk. Weights are downloaded unless they are there already; the rest goes to the run directory.

    checkpoints: weights and optimizer states; one more than are kept, as a new one is complete before the oldest goes
    candidates: those of a pass, the best of the passes before, the iteration's start, and the last one's start and choice
    """

    policy_weights: int
    labeler_weights: int
    shards: int
    checkpoints: int
    candidates: int
    export: int

    @property
    def run_dir(self) -> int:
        """Final size of the run directory."""
        return self.shards + self.checkpoints + self.candidates + self.export


@dataclass(frozen=True, slots=True)
class RunBudget:
    """The estimate. Stages are those of one iteration, in order, without scoring where the labeler runs elsewhere.

    prefix_tokens, labeler_prefix_tokens: a prompt, and what all questions about its image share, image tokens included
    """

    workload: Workload
    setup: Setup
    parts: tuple[PartSize, ...]
    num_labeler_parameters: int
    image: ImageLayout
    prefix_tokens: int
    labeler_prefix_tokens: int
    stages: tuple[StageBudget, ...]
    memory: MemoryBudget
    disk: DiskBudget

    @property
    def flops(self) -> int:
        """FLOPs of all iterations."""
        return self.workload.num_iterations * sum(cost.flops for cost in self.stages)

    @property
    def peak_bytes(self) -> int:
        """Peak device memory: that of the stage that needs most."""
        return max(cost.memory_bytes for cost in self.stages)


def estimate(
    policy: PretrainedConfig,
    workload: Workload,
    setup: Setup,
    labeler: PretrainedConfig | None = None,
    *,
    policy_image: ImageLayout | None = None,
    labeler_image: ImageLayout | None = None,
    labeler_is_served: bool = False,
    other: PretrainedConfig | None = None,
) -> RunBudget:
    """Estimate a run.

    Args:
        policy: config of the model that is trained.
        workload: what an iteration does.
        setup: how the run is set up.
        labeler: None where the policy is its own labeler. Its weights count as held all the time.
        policy_image: `image_layout(...)` of a typical image; of the largest possible one by default.
        labeler_image: the same for the labeler, whose processor may be another.
        labeler_is_served: the labeler runs elsewhere, so that scoring costs nothing here.
        other: gives the chosen answers, in its checkpoint's dtype; None where the policy does. Only its weights are counted.

    Raises:
        ValueError: the family or the dtype of a model is unknown.
    """
    here = None if labeler_is_served else labeler
    worker = _worker(policy, policy_image, workload.prompt_tokens, setup)
    if here:
        asked = replace(_worker(here, labeler_image, workload.question_prefix_tokens, setup), num_adapters=0)
    else:
        asked = _worker(policy, policy_image, workload.question_prefix_tokens, setup)
    num_labeler = _num_parameters(here)
    parts = _parts(policy, setup, worker.num_adapters)
    costs = {
        "generate": stage.generate(worker, workload, setup),
        "score": stage.score(asked, workload, setup),
        "reference": stage.reference(worker, workload, setup),
        "train": stage.train(worker, workload, setup, setup.trained_bytes(policy)),
    }
    memory = MemoryBudget(
        labeler=num_labeler * setup.weight_bytes(here) // setup.num_shards if here else 0,
        other=_other_bytes(other, setup),
        kv_cache=stage.sampling_cache_bytes(worker, workload, setup),
        **_policy_memory(policy, parts, costs["train"].working_bytes, setup),
    )
    if labeler_is_served:
        del costs["score"]
    return RunBudget(
        workload=workload,
        setup=setup,
        parts=parts,
        num_labeler_parameters=num_labeler,
        image=worker.cost.image,
        prefix_tokens=worker.prefix_tokens,
        labeler_prefix_tokens=asked.prefix_tokens,
        stages=_stages(costs, memory),
        memory=memory,
        disk=_disk(policy, here, num_labeler, parts, workload, setup),
    )


def _num_parameters(config: PretrainedConfig | None) -> int:
    return 0 if config is None else sum(part.total for part in parameter_table(build_on_meta(config)))


def _stages(costs: dict[str, stage.StageCost], memory: MemoryBudget) -> tuple[StageBudget, ...]:
    working = {name: memory.training if name == "train" else cost.working_bytes for name, cost in costs.items()}
    return tuple(
        StageBudget(name, cost.num_tokens, cost.flops, memory.held + working[name]) for name, cost in costs.items()
    )


def _other_bytes(config: PretrainedConfig | None, setup: Setup) -> int:
    return 0 if config is None else _num_parameters(config) * replace(setup, dtype="auto").weight_bytes(config)


def _worker(config: PretrainedConfig, image: ImageLayout | None, text_tokens: int, setup: Setup) -> stage.Worker:
    """Build the cost model for prompts of one image and `text_tokens` text tokens."""
    cost = model_cost(config, image or image_layout(config))
    adapters = cost.adapter_weights(setup.lora_rank)
    return stage.Worker(cost, cost.image.num_tokens + text_tokens, setup.element_bytes(config), adapters)


def _parts(policy: PretrainedConfig, setup: Setup, num_adapters: int) -> tuple[PartSize, ...]:
    family = family_of(policy)
    table = parameter_table(build_on_meta(policy), lambda name: setup.trains(family.part_of(name)))
    return (*table, PartSize("adapters", num_adapters, num_adapters)) if num_adapters else tuple(table)


def _weights(policy: PretrainedConfig, parts: tuple[PartSize, ...], setup: Setup) -> tuple[int, int]:
    """Return bytes of all of the policy's weights, and of those that train."""
    trained = sum(part.trainable for part in parts) * setup.trained_bytes(policy)
    frozen = sum((part.total - part.trainable) * _frozen_bytes(part, policy, setup) for part in parts)
    return round(frozen) + trained, trained


def _frozen_bytes(part: PartSize, policy: PretrainedConfig, setup: Setup) -> float:
    return NF4_BYTES if setup.is_quantized and part.name == "language_model" else setup.weight_bytes(policy)


def _policy_memory(
    policy: PretrainedConfig, parts: tuple[PartSize, ...], activation_bytes: int, setup: Setup
) -> dict[str, int]:
    weights, trained = (size // setup.num_shards for size in _weights(policy, parts, setup))
    num_trained = trained // setup.trained_bytes(policy)
    if setup.is_mixed:  # autocast keeps what it casts until the step ends
        activation_bytes += num_trained * setup.element_bytes(policy)
    return {
        "weights": weights,
        "optimizer": num_trained * setup.optimizer_bytes(policy),
        "gradients": trained,
        "update": 4 * min(num_trained, CHUNK_ELEMENTS) if setup.has_masters(policy) else trained,
        "activations": activation_bytes,
    }


def _disk(
    policy: PretrainedConfig,
    labeler: PretrainedConfig | None,
    num_labeler: int,
    parts: tuple[PartSize, ...],
    workload: Workload,
    setup: Setup,
) -> DiskBudget:
    base = sum(part.total for part in parts if part.name != "adapters")
    _, trained = _weights(policy, parts, setup)
    num_trained = trained // setup.trained_bytes(policy)
    answer = RECORD_BYTES + workload.average_tokens * ANSWER_TOKEN_BYTES
    of_prompt = workload.num_responses * answer + workload.questions_per_prompt * (CLAIM_BYTES + JUDGEMENT_BYTES)
    of_pair = 2 * (answer + workload.average_tokens * LOGP_BYTES)
    shards = workload.num_prompts * of_prompt + workload.num_pairs * of_pair
    return DiskBudget(
        policy_weights=base * dtype_bytes("auto", policy),
        labeler_weights=num_labeler * dtype_bytes("auto", labeler) if labeler else 0,
        shards=workload.num_iterations * shards,
        checkpoints=(setup.kept_checkpoints + 1) * (trained + num_trained * setup.optimizer_bytes(policy)),
        candidates=(setup.candidates_per_epoch + 4) * 4 * num_trained if setup.candidates_per_epoch else 0,
        export=base * setup.weight_bytes(policy),
    )
