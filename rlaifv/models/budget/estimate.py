"""What a run will cost: tokens, FLOPs and device memory of each stage, and disk, from configs alone.

`stages` and `memory` hold the formulas. Nothing is downloaded or allocated, so this can be shown first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from transformers import PretrainedConfig

from rlaifv.learners.optimizer import CHUNK_ELEMENTS
from rlaifv.models.budget import costs as stage
from rlaifv.models.budget.architecture import PartSize, build_on_meta, parameter_table
from rlaifv.models.budget.flops import model_cost
from rlaifv.models.budget.layout import ImageLayout, image_layout
from rlaifv.models.budget.memory import dtype_bytes
from rlaifv.models.budget.workload import Setup, StageName, Workload
from rlaifv.models.families import family_of

# Parquet before compression: text at five bytes a token, token ids and log-probs at eight; names, scores, claims' text.
ANSWER_TOKEN_BYTES, NUMBER_BYTES = 13, 8
# Of a weight, scales included, which are quantized themselves; embeddings, a hundredth of the weights, stay as they are.
NF4_BYTES = 0.516
RECORD_BYTES, CLAIM_BYTES, JUDGEMENT_BYTES = 200, 350, 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Models that a run has beside the policy and the labeler.

    chosen_from: gives the chosen answers, in its checkpoint's dtype
    reward_models: score the answers
    critic: has a backbone of its own, and trains as the policy does; None where its head reads the policy's states
    """

    chosen_from: PretrainedConfig | None = None
    reward_models: tuple[PretrainedConfig, ...] = ()
    critic: PretrainedConfig | None = None


ALONE = Beside()


@dataclass(frozen=True, slots=True)
class StageBudget:
    """One stage of an iteration: tokens through the language model, FLOPs, and the peak on a device while it runs.

    `critic` is that of a critic with a backbone of its own, which trains in the policy's steps.
    """

    name: StageName | Literal["critic"]
    num_tokens: int
    flops: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes of one device's memory. Weights of all models and optimizer states stay; the rest comes and goes.

    weights: of the policy
    optimizer: AdamW's two moments of every trained weight, and its float32 master where the weight has 16 bits
    gradients: of the critic's backbone too, as optimizer, activations and update
    activations: of the longest training batch, the head's logits and autocast's 16-bit weights included
    update: what AdamW's step takes, once the activations are gone: a copy of all trained weights, or a chunk of gradients
    kv_cache: while sampling
    chosen_from: weights of the model that gives the chosen answers, 0 where there is none
    reward_models: weights of all
    base: weights of the model that the run began with, where the policy is held to it
    critic: weights of its backbone
    """

    weights: int
    labeler: int
    optimizer: int
    gradients: int
    activations: int
    update: int
    kv_cache: int
    chosen_from: int = 0
    reward_models: int = 0
    base: int = 0
    critic: int = 0

    @property
    def held(self) -> int:
        """Memory occupied during every stage, from the second iteration on."""
        beside = self.labeler + self.chosen_from + self.reward_models + self.base + self.critic
        return self.weights + beside + self.optimizer

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
    """The estimate. Stages are those of one iteration, in order.

    parts: of the policy
    beside: of the other models that the method has: their parameters, and how many of them train
    prefix_tokens, labeler_prefix_tokens: a prompt, and what all questions about its image share, image tokens included
    """

    workload: Workload
    setup: Setup
    parts: tuple[PartSize, ...]
    beside: tuple[PartSize, ...]
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


@dataclass(frozen=True, slots=True)
class _Trainee:
    """A model that trains: the policy, or a critic with a backbone of its own; `cost` is that of training it."""

    config: PretrainedConfig
    worker: stage.Worker
    parts: tuple[PartSize, ...]
    cost: stage.StageCost
    setup: Setup

    @property
    def num_trained(self) -> int:
        """Parameters that train."""
        return sum(part.trainable for part in self.parts)

    @property
    def trained_bytes(self) -> int:
        """Bytes of the weights that train, and of their gradients."""
        return self.num_trained * self.setup.trained_bytes(self.config)

    @property
    def optimizer_bytes(self) -> int:
        """Bytes that the optimizer holds."""
        return self.num_trained * self.setup.optimizer_bytes(self.config)

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights."""
        frozen = (part._replace(total=part.total - part.trainable) for part in self.parts)
        return _frozen_bytes(frozen, self.config, self.setup) + self.trained_bytes

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations; autocast keeps what it casts until the step ends."""
        cast = self.num_trained // self.setup.num_shards * self.setup.element_bytes(self.config)
        return self.cost.working_bytes + self.setup.is_mixed * cast


def estimate(
    policy: PretrainedConfig,
    workload: Workload,
    setup: Setup,
    labeler: PretrainedConfig | None = None,
    *,
    image_px: tuple[int, int] | None = None,
    beside: Beside = ALONE,
) -> RunBudget:
    """Estimate a run.

    Args:
        policy: config of the model that is trained.
        workload: what an iteration does.
        setup: how the run is set up.
        labeler: None where the policy is its own labeler. Its weights count as held all the time.
        image_px: height and width of a typical image; the largest possible one by default.
        beside: further models.

    Raises:
        ValueError: the family or the dtype of a model is unknown.
    """
    trained = _trainee(policy, workload, setup, image_px)
    trainees = [trained]
    if beside.critic:
        critic_work, critic_setup = replace(workload, reads_words=False), replace(setup, is_quantized=False)
        trainees.append(_trainee(beside.critic, critic_work, critic_setup, image_px))
    asked = _worker(labeler or policy, workload.question_prefix_tokens, setup, image_px)
    if labeler:
        asked = replace(asked, num_adapters=0)
    scorers = [_scorer(config, workload, setup, image_px) for config in beside.reward_models]
    costs = _costs(trainees, asked, scorers, workload, setup)
    num_labeler = _num_parameters(labeler)
    # With adapters, the model that the run began with is the policy without them.
    base = trained.parts if "base" in costs and not setup.lora_rank else ()
    memory = MemoryBudget(
        weights=trained.weights_bytes // setup.num_shards,
        labeler=num_labeler * setup.weight_bytes(labeler) if labeler else 0,
        kv_cache=stage.sampling_cache_bytes(trained.worker, workload, setup) if "generate" in costs else 0,
        chosen_from=_other_bytes(beside.chosen_from, setup),
        reward_models=sum(_num_parameters(one) * dtype_bytes(setup.dtype, one) for one in beside.reward_models),
        base=_frozen_bytes(base, policy, setup),
        critic=sum(one.weights_bytes for one in trainees[1:]) // setup.num_shards,
        **_training_memory(trainees if "train" in costs else [], setup),
    )
    return RunBudget(
        workload=workload,
        setup=setup,
        parts=trained.parts,
        beside=_sizes(beside, base, trainees[1:]),
        num_labeler_parameters=num_labeler,
        image=trained.worker.cost.image,
        prefix_tokens=trained.worker.prefix_tokens,
        labeler_prefix_tokens=asked.prefix_tokens,
        stages=_stages(costs, memory),
        memory=memory,
        disk=_disk(trainees, labeler, num_labeler, workload, len(scorers)),
    )


def _costs(
    trainees: Sequence[_Trainee],
    asked: stage.Worker,
    scorers: Sequence[stage.Worker],
    workload: Workload,
    setup: Setup,
) -> dict[StageName | Literal["critic"], stage.StageCost]:
    """Return the cost of each stage that the method has."""
    policy, critic = trainees[0], trainees[-1]  # the policy's states serve where the critic has no backbone
    costs: dict[StageName | Literal["critic"], stage.StageCost] = {
        "generate": stage.generate(policy.worker, workload, setup),
        "score": stage.score(asked, workload, setup),
        "rewards": stage.together([stage.rewards(scorer, workload, setup) for scorer in scorers]),
        "reference": stage.logps(policy.worker, workload, setup),
        "logps": stage.logps(policy.worker, workload, setup),
        "values": stage.values(critic.worker, workload, setup),
        "base": stage.logps(replace(policy.worker, num_adapters=0), workload, setup),
        "train": policy.cost,
        "critic": critic.cost,
    }
    wanted = [*workload.stages, *(["critic"] if len(trainees) > 1 and "train" in workload.stages else [])]
    return {name: cost for name, cost in costs.items() if name in wanted}


def _stages(
    costs: dict[StageName | Literal["critic"], stage.StageCost], memory: MemoryBudget
) -> tuple[StageBudget, ...]:
    training = dict.fromkeys(("train", "critic"), memory.training)
    return tuple(
        StageBudget(name, cost.num_tokens, cost.flops, memory.held + training.get(name, cost.working_bytes))
        for name, cost in costs.items()
    )


def _trainee(config: PretrainedConfig, workload: Workload, setup: Setup, image_px: tuple[int, int] | None) -> _Trainee:
    worker = _worker(config, workload.prompt_tokens, setup, image_px)
    cost = stage.train(worker, workload, setup, setup.trained_bytes(config))
    return _Trainee(config, worker, _parts(config, setup, worker.num_adapters), cost, setup)


def _worker(config: PretrainedConfig, text_tokens: int, setup: Setup, image_px: tuple[int, int] | None) -> stage.Worker:
    """Build the cost model for prompts of one image and `text_tokens` text tokens."""
    cost = model_cost(config, image_layout(config, image_px=image_px))
    adapters = cost.adapter_weights(setup.lora_rank)
    return stage.Worker(cost, cost.image.num_tokens + text_tokens, setup.element_bytes(config), adapters)


def _scorer(
    config: PretrainedConfig, workload: Workload, setup: Setup, image_px: tuple[int, int] | None
) -> stage.Worker:
    """Build the cost model of a reward model, which computes in the type of its weights."""
    worker = _worker(config, workload.prompt_tokens, setup, image_px)
    return replace(worker, element_bytes=dtype_bytes(setup.dtype, config), num_adapters=0)


def _parts(config: PretrainedConfig, setup: Setup, num_adapters: int) -> tuple[PartSize, ...]:
    family = family_of(config)
    table = parameter_table(build_on_meta(config), lambda name: setup.trains(family.part_of(name)))
    return (*table, PartSize("adapters", num_adapters, num_adapters)) if num_adapters else tuple(table)


def _sizes(beside: Beside, base: Sequence[PartSize], critics: Sequence[_Trainee]) -> tuple[PartSize, ...]:
    chosen_from = [beside.chosen_from] if beside.chosen_from else []
    sizes = [PartSize("chosen answers", _num_parameters(config), 0) for config in chosen_from]
    sizes += [PartSize("reward model", _num_parameters(config), 0) for config in beside.reward_models]
    sizes += [PartSize("base model", sum(part.total for part in base), 0)] if base else []
    return (*sizes, *(PartSize("critic", sum(p.total for p in one.parts), one.num_trained) for one in critics))


def _num_parameters(config: PretrainedConfig | None) -> int:
    return 0 if config is None else sum(part.total for part in parameter_table(build_on_meta(config)))


def _other_bytes(config: PretrainedConfig | None, setup: Setup) -> int:
    return 0 if config is None else _num_parameters(config) * replace(setup, dtype="auto").weight_bytes(config)


def _frozen_bytes(parts: Iterable[PartSize], config: PretrainedConfig, setup: Setup) -> int:
    """Return bytes of weights that do not train, of which the language model's may be in 4 bits."""
    language, whole = NF4_BYTES if setup.is_quantized else setup.weight_bytes(config), setup.weight_bytes(config)
    return round(sum(part.total * (language if part.name == "language_model" else whole) for part in parts))


def _training_memory(trainees: Sequence[_Trainee], setup: Setup) -> dict[str, int]:
    num_trained = sum(one.num_trained for one in trainees) // setup.num_shards
    gradients = sum(one.trained_bytes for one in trainees) // setup.num_shards
    has_masters = any(setup.has_masters(one.config) for one in trainees)
    return {
        "optimizer": sum(one.optimizer_bytes for one in trainees) // setup.num_shards,
        "gradients": gradients,
        "update": 4 * min(num_trained, CHUNK_ELEMENTS) if has_masters else gradients,
        "activations": sum(one.activation_bytes for one in trainees),
    }


def _disk(
    trainees: Sequence[_Trainee],
    labeler: PretrainedConfig | None,
    num_labeler: int,
    workload: Workload,
    num_reward_models: int,
) -> DiskBudget:
    policy, setup = trainees[0], trainees[0].setup
    base = sum(part.total for part in policy.parts if part.name != "adapters")
    trains = "train" in workload.stages
    candidates = setup.candidates_per_epoch + 4 if setup.candidates_per_epoch else 0
    return DiskBudget(
        policy_weights=base * dtype_bytes("auto", policy.config),
        labeler_weights=num_labeler * dtype_bytes("auto", labeler) if labeler else 0,
        shards=workload.num_iterations * _shard_bytes(workload, num_reward_models),
        checkpoints=trains
        * (setup.kept_checkpoints + 1)
        * sum(one.trained_bytes + one.optimizer_bytes for one in trainees),
        candidates=trains * candidates * 4 * policy.num_trained,
        export=trains * base * setup.weight_bytes(policy.config),
    )


def _shard_bytes(workload: Workload, num_reward_models: int) -> int:
    """Return bytes of an iteration's tables: answers, claims, scores, and what trains."""
    answer = RECORD_BYTES + workload.average_tokens * ANSWER_TOKEN_BYTES
    numbers = workload.average_tokens * NUMBER_BYTES
    size = workload.num_answers * (answer + num_reward_models * RECORD_BYTES)
    if "score" in workload.stages:
        size += workload.num_prompts * workload.questions_per_prompt * (CLAIM_BYTES + JUDGEMENT_BYTES)
    if workload.record == "pairs":
        return size + workload.num_records * 2 * (answer + numbers)
    columns = 2  # ids of two answers, or ids and log-probs
    if "values" in workload.stages:  # two tables, of five and seven numbers for each token
        columns = 12
    return size + workload.num_records * (RECORD_BYTES + columns * numbers)
