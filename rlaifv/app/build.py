"""Build a run's objects from composed settings. Nothing below this module sees a configuration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from omegaconf import DictConfig, OmegaConf

from rlaifv.app.label_run import LabelRun
from rlaifv.callbacks.candidates import CandidateCallback
from rlaifv.callbacks.iteration import IterationCallback
from rlaifv.callbacks.phases import PhaseCallback
from rlaifv.data.datamodule import IterationDataModule
from rlaifv.data.sources import SharedPrompts
from rlaifv.engines.erring import ErringLabeler
from rlaifv.engines.labeler import LabelerModule
from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Labeler
from rlaifv.engines.reward import RewardEngine
from rlaifv.learners.policy import PolicyModule
from rlaifv.learners.precision import AUTOCAST, WeightsAsLoaded, dtype_of_weights, prepare_trained
from rlaifv.loop import FeedbackLoop
from rlaifv.metrics.truth import Truth
from rlaifv.models.loading import backbone, load_model, select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.models.reward_head import RewardSpec, load_head, new_head, read_spec
from rlaifv.models.vision import FeatureStore, keep_features
from rlaifv.observers.candidates import Candidates
from rlaifv.observers.held_out import Evaluator, HeldOut
from rlaifv.observers.reward_model import RewardModelHeldOut
from rlaifv.observers.selection import SelectionRules
from rlaifv.records import Prompt
from rlaifv.stages.given_pairs import PairSource
from rlaifv.stages.score import Wording


@dataclass(frozen=True, slots=True)
class Run:
    """The objects of a run.

    Attributes:
        loop: makes the data of iterations.
        module: the learner's LightningModule, which holds the policy.
        data: serves the loop's data to it.
        policy: engine of the policy.
        held_out: measures the policy.
        candidates: weights within an iteration, of which the best goes on.
        frozen: models beside the policy: the labeler, and another model that gives chosen answers.
    """

    loop: FeedbackLoop
    module: PolicyModule
    data: IterationDataModule
    policy: LocalEngine
    held_out: HeldOut
    candidates: Candidates
    frozen: list[torch.nn.Module]

    @property
    def callbacks(self) -> list[Callback]:
        """The callbacks that the run needs, in their order."""
        iteration = IterationCallback(self.loop.run_dir, self.held_out.measure, self.frozen)
        benchmarks: Any = self.held_out.measurements
        return [iteration, PhaseCallback(), CandidateCallback(self.candidates), *benchmarks]

    @property
    def label_run(self) -> LabelRun:
        """The module that only makes data, for `Trainer.predict`."""
        return LabelRun(self.loop.prepare, self.data.num_iterations, [self.policy.model, *self.frozen])


def build(cfg: DictConfig, run_dir: Path) -> Run:
    """Build a run: the stages and the learner that `method` names, around the models and the data of the settings.

    Raises:
        ValueError: weights cannot be loaded, or the data cannot be read; the message names the key, file or row.
    """
    source, benchmarks = instantiate(cfg.data), OmegaConf.select(cfg, "evaluation.benchmarks")
    if isinstance(source, SharedPrompts):
        # A list that is too short, and one without answers, is refused before weights are loaded.
        first = source.prompts(0, cfg.iteration.num_prompts)
        if cfg.run == "train" and isinstance(source, PairSource):
            source.answers(first[0])
        _require_facts(cfg, first)
    measurements = [] if benchmarks is None else [instantiate(benchmarks)]  # their files, too
    policy = _policy(cfg, run_dir)
    parts = _parts(cfg, run_dir, source, policy)
    labeler, truth = parts["labeler"], parts["truth"]
    num_examples = None if cfg.evaluation is None else cfg.evaluation.num_examples
    max_new_tokens = cfg.iteration.decoding.max_new_tokens
    held_out = _held_out_of(parts)(
        run_dir,
        source,
        labeler.engine,
        Evaluator(policy, parts["divider"], max_new_tokens, truth, num_examples or 0, labeler.wording),
        is_measured=num_examples is not None,
        selection=_selection(cfg, truth, source),
        measurements=measurements,
    )
    stages = [_made_of(node, parts) for node in cfg.method.stages.values() if node is not None]
    loop = FeedbackLoop(
        run_dir=run_dir,
        stages=stages,
        seed=cfg.seed,
        shard_prompts=cfg.iteration.shard_prompts,
        min_pairs=cfg.iteration.min_pairs,
        observers=[
            held_out,
            *(
                _made_of(node, {**parts, "stages": stages})
                for node in cfg.method.observers.values()
                if node is not None
            ),
        ],
        min_free_bytes=cfg.min_free_bytes,
    )
    module = _made_of(cfg.method.learner.module, {**parts, "policy": policy.model})
    data = IterationDataModule(
        loop.prepare,
        _made_of(cfg.method.learner.collator, parts),
        batch_size=cfg.learner.batch_size,
        batch_tokens=cfg.learner.batch_tokens,
        num_iterations=cfg.iteration.num_iterations,
        epochs=cfg.iteration.epochs,
        seed=cfg.seed,
        finish=held_out.measure,
    )
    frozen = [labeler, *(model for stage in stages for model in stage.models)]
    if parts["chosen_from"] is not None:
        frozen.append(parts["chosen_from"].model)
    return Run(loop, module, data, policy, held_out, Candidates(held_out, cfg.min_free_bytes), frozen)


def _parts(cfg: DictConfig, run_dir: Path, source: Any, policy: LocalEngine) -> dict[str, Any]:
    """Return what stages, learners and observers may name in their constructors."""
    other = cfg.iteration.chosen_from
    return {
        "run_dir": run_dir,
        "source": source,
        "policy": policy,
        "labeler": _labeler(cfg, policy),
        "divider": instantiate(cfg.divider),
        "truth": source if isinstance(source, Truth) else None,
        "chosen_from": None if other is None else _engine(cfg, *load_model(other, attention=cfg.model.attention)),
        **_reward_model(cfg, policy),
        "reward_models": {name: _scorer(cfg, name, path) for name, path in cfg.method.reward_models.items()},
        "critic": _critic(cfg, policy),
        "load_base": partial(_base, cfg, policy),
    }


def _require_facts(cfg: DictConfig, prompts: Sequence[Prompt]) -> None:
    """Raise ValueError if a reward model reads facts that a prompt lacks."""
    paths = [Path(path) for path in cfg.method.reward_models.values()]
    specs = [read_spec(path) for path in paths if path.is_dir()]
    if cfg.method.reward_model is not None:
        specs.append(_made_of(cfg.method.reward_model, {}))
    for spec, prompt in product((spec for spec in specs if spec.facts), prompts):
        spec.asked(prompt)


def _held_out_of(parts: Mapping[str, Any]) -> Callable[..., HeldOut]:
    """Return what measures the model that trains: as a policy, or as a reward model."""
    return partial(RewardModelHeldOut, head=parts["head"], spec=parts["spec"]) if "head" in parts else HeldOut


def _reward_model(cfg: DictConfig, policy: LocalEngine) -> dict[str, Any]:
    """Build the head and the description of the reward model that the run trains, if it does."""
    if cfg.method.reward_model is None:
        return {}
    spec: RewardSpec = _made_of(cfg.method.reward_model, {})
    spec = replace(spec, heads=tuple(spec.heads))
    return {"spec": spec, "head": new_head(policy.model, len(spec.heads), spec.num_classes)}


def _scorer(cfg: DictConfig, name: str, path: str) -> RewardEngine:
    """Load a reward model, which is frozen.

    Raises:
        ValueError: the directory holds none; the message names the key.
    """
    where = Path(path)
    try:
        read_spec(where)  # before gigabytes are read
        model, processor = load_model(path, dtype=cfg.model.dtype, attention=cfg.model.attention)
        head, spec = load_head(where, model)
    except ValueError as error:
        raise ValueError(f"method.reward_models.{name}: {error}") from error
    return RewardEngine(_engine(cfg, model, processor), head, spec)


def _critic(cfg: DictConfig, policy: LocalEngine) -> RewardEngine | None:
    """Build the critic of PPO: a head on the policy's own states, or on a backbone of its own that trains as the policy does.

    Raises:
        ValueError: the backbone is no model of the policy's family and tokenizer.
    """
    critic = cfg.method.critic
    if critic is None:
        return None
    spec = RewardSpec(("value",))
    if critic.path is None:
        return RewardEngine(policy, new_head(policy.model), spec)
    precision = str(cfg.trainer.precision)
    dtype = dtype_of_weights(precision, cfg.model.dtype)
    model, processor = load_model(**{"path": critic.path, "dtype": dtype, "attention": cfg.model.attention})
    own, theirs = backbone(policy.model).config, backbone(model).config
    same_words = processor.tokenizer.get_vocab() == policy.prompter.tokenizer.get_vocab()
    if own.model_type != theirs.model_type or not same_words:
        raise ValueError(
            f"method.critic.path={critic.path} is a {theirs.model_type} model with "
            f"{'the same' if same_words else 'another'} tokenizer; a critic reads the policy's tokens and has to be of its "
            f"family, {own.model_type}."
        )
    trained = _selected(cfg, model)
    prepare_trained(trained, precision)
    if cfg.learner.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    engine = LocalEngine(trained, _prompter(cfg, processor), cfg.engine.batch_tokens, AUTOCAST.get(precision))
    return RewardEngine(engine, new_head(trained), spec)


def _base(cfg: DictConfig, policy: LocalEngine) -> LocalEngine:
    """Return the model that the run began with, in the arithmetic of training: the policy without its adapters, or a copy."""
    if cfg.learner.lora is not None:
        return LocalEngine(
            policy.model, policy.prompter, cfg.engine.batch_tokens, policy.autocast, without_adapters=True
        )
    precision = str(cfg.trainer.precision)
    model, processor = load_model(**{**_start(cfg), "dtype": dtype_of_weights(precision, cfg.model.dtype)})
    prompter, autocast = _prompter(cfg, processor), AUTOCAST.get(precision)
    return LocalEngine(model.requires_grad_(False), prompter, cfg.engine.batch_tokens, autocast)


def _made_of(node: DictConfig, parts: Mapping[str, Any]) -> Any:
    """Build a node's class from its settings, and from those parts of the run that its constructor names.

    Raises:
        ValueError: the class has no such setting.
    """
    make = instantiate(node, _partial_=True, _convert_="all")
    wanted = signature(make.func).parameters
    if unknown := sorted({*make.keywords} - {*wanted}):
        raise ValueError(f"{node._get_full_key(unknown[0])} is no setting of {node._target_}.")
    return make(**{name: part for name, part in parts.items() if name in wanted})


def _policy(cfg: DictConfig, run_dir: Path) -> LocalEngine:
    """Load the policy, select what trains, and build its engine."""
    precision = str(cfg.trainer.precision)
    model, processor = load_model(**{**_start(cfg), "dtype": dtype_of_weights(precision, cfg.model.dtype)})
    policy = _selected(cfg, model)
    if cfg.run != "label":
        prepare_trained(policy, precision)
    if cfg.learner.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    if cfg.engine.feature_store_bytes:
        keep_features(model, FeatureStore(run_dir / "features", cfg.engine.feature_store_bytes))
    return LocalEngine(policy, _prompter(cfg, processor), cfg.engine.batch_tokens, AUTOCAST.get(precision))


def _start(cfg: DictConfig) -> dict[str, Any]:
    """Return what loads the weights that the run starts from: the model's, or an export in their place."""
    own = dict(cfg.model)
    return own if cfg.start_from is None else {**own, "path": cfg.start_from, "revision": None}


def _selected(cfg: DictConfig, model: torch.nn.Module) -> torch.nn.Module:
    """Select what trains of a model, as `learner` says."""
    lora = cfg.learner.lora
    adapters: Any = None if lora is None else OmegaConf.to_container(lora, resolve=True)
    return select_trainable(model, list(cfg.learner.train_parts), adapters)


def _selection(cfg: DictConfig, truth: Truth | None, source: object) -> SelectionRules:
    """Raise ValueError if the truth is to choose, but is not known."""
    if cfg.iteration.selection.by == "truth" and truth is None:
        raise ValueError(
            f"iteration.selection.by=truth needs data whose truth is known; {type(source).__name__} knows none."
        )
    rules: SelectionRules = instantiate(cfg.iteration.selection)
    return rules


def made(group: DictConfig | None) -> list[Any]:
    """Build the members of a group. A group or a member that is null builds nothing."""
    return [] if group is None else [one for one in instantiate(group).values() if one is not None]


def precision_arguments(cfg: DictConfig) -> dict[str, Any]:
    """Return arguments that keep the trainer from converting bfloat16 weights; sharding strategies have own plugins."""
    strategy = str(cfg.trainer.strategy)
    if str(cfg.trainer.precision) != "bf16-true" or strategy.startswith(("deepspeed", "fsdp")):
        return {}
    return {"precision": None, "plugins": [WeightsAsLoaded()]}


def set_rank_timeout(seconds: int) -> None:
    """Set the collective timeout of the `ddp` strategy."""
    timeout = timedelta(seconds=seconds)
    StrategyRegistry.register("ddp", DDPStrategy, override=True, start_method="popen", timeout=timeout)


def build_labeler(cfg: DictConfig) -> LabelerModule:
    """Build the labeler alone; without weights of its own it gets the policy's.

    Raises:
        ValueError: weights cannot be loaded; the message names the key.
    """
    return _labeler(cfg, None)


def _labeler(cfg: DictConfig, policy: LocalEngine | None) -> LabelerModule:
    """Build a labeler on its own weights if it has a path, else on the policy's engine, else on the policy's weights."""
    labeler = cfg.labeler
    engine: Labeler
    if labeler.path is not None:
        weights = (labeler.path, labeler.revision, labeler.dtype, cfg.model.attention, labeler.trust_remote_code)
        engine = _engine(cfg, *load_model(*weights))
    else:
        engine = policy or _engine(cfg, *load_model(**_start(cfg)))
    if labeler.error_rate:
        engine = ErringLabeler(engine, labeler.error_rate)
    return LabelerModule(engine, Wording(labeler.question_suffix, tuple(labeler.other_forms)))


def _engine(cfg: DictConfig, model: torch.nn.Module, processor: Any) -> LocalEngine:
    """Build an inference engine around a frozen model."""
    return LocalEngine(model.requires_grad_(False), _prompter(cfg, processor), cfg.engine.batch_tokens)


def _prompter(cfg: DictConfig, processor: Any) -> Prompter:
    limits = {name: cfg.data[name] for name in ("max_pixels", "max_bytes") if name in cfg.data}
    return Prompter(processor, **limits)
