"""From composed settings to objects; the last place that sees a configuration."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from omegaconf import DictConfig, OmegaConf

from rlaifv.data.datamodule import PreferenceDataModule
from rlaifv.data.sources import SharedPrompts
from rlaifv.engines.erring import ErringLabeler
from rlaifv.engines.labeler import LabelerModule
from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Labeler
from rlaifv.learners.dpo.batch import PreferenceCollator
from rlaifv.learners.dpo.module import DPOModule
from rlaifv.learners.optimizer import MasterAdamW
from rlaifv.learners.precision import AUTOCAST, WeightsAsLoaded, dtype_of_weights, prepare_trained
from rlaifv.loop import FeedbackLoop, IterationSettings, Measurement
from rlaifv.metrics.truth import Truth
from rlaifv.models.loading import load_model, select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.models.vision import FeatureStore, keep_features
from rlaifv.observers.canaries import CanarySet, HasCanaries, drawn_canaries
from rlaifv.observers.selection import SelectionRules
from rlaifv.stages.given_pairs import GivenPairs, PairSource
from rlaifv.stages.pair import PairingRules


def build(cfg: DictConfig, run_dir: Path) -> tuple[FeedbackLoop, DPOModule, PreferenceDataModule]:
    """The loop, the policy in its module, and the data that the loop regenerates.

    Raises:
        ValueError: weights cannot be loaded, or the data cannot be read; the message names the key, file or row.
    """
    source, benchmarks = instantiate(cfg.data), _benchmarks(cfg)
    learner: dict[str, Any] = OmegaConf.to_container(cfg.learner, resolve=True)  # type: ignore[assignment]
    if isinstance(source, SharedPrompts):
        # A list that is too short, and one without answers, is refused before weights are loaded.
        first = source.prompts(0, cfg.iteration.num_prompts)
        if cfg.run == "train" and isinstance(source, PairSource):
            source.answers(first[0])
    precision = str(cfg.trainer.precision)
    model, processor = load_model(**{**cfg.model, "dtype": dtype_of_weights(precision, cfg.model.dtype)})
    policy = select_trainable(model, learner["train_parts"], learner["lora"])
    if cfg.run != "label":
        prepare_trained(policy, precision)
    if learner["recompute"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    if cfg.engine.feature_store_bytes:
        keep_features(model, FeatureStore(run_dir / "features", cfg.engine.feature_store_bytes))
    engine = LocalEngine(policy, _prompter(cfg, processor), cfg.engine.batch_tokens, AUTOCAST.get(precision))
    loop = _loop(cfg, run_dir, source, engine, benchmarks)
    module = DPOModule(
        policy,
        optimizer=partial(MasterAdamW, lr=learner["lr"], weight_decay=learner["weight_decay"]),
        **{name: learner[name] for name in ("beta", "reduction", "normalize_weights")},
        **{name: learner[name] for name in ("loss", "label_smoothing", "nll_weight")},
        **{name: learner[name] for name in ("schedule", "warmup_ratio", "reset_optimizer")},
    )
    data = PreferenceDataModule(
        loop.prepare,
        PreferenceCollator(engine.prompter, learner["row_tokens"], learner["changed_weight"], engine.packer),
        batch_size=learner["batch_size"],
        batch_tokens=learner["batch_tokens"],
        num_iterations=cfg.iteration.num_iterations,
        epochs=cfg.iteration.epochs,
        seed=cfg.seed,
        finish=loop.measure,
    )
    return loop, module, data


def _loop(
    cfg: DictConfig, run_dir: Path, source: Any, engine: LocalEngine, benchmarks: Sequence[Measurement]
) -> FeedbackLoop:
    """The loop around a policy's engine."""
    iteration: dict[str, Any] = OmegaConf.to_container(cfg.iteration, resolve=True)  # type: ignore[assignment]
    for name in ("num_iterations", "epochs"):  # the data module's
        del iteration[name]
    other, selection = iteration.pop("chosen_from"), iteration.pop("selection")
    return (GivenPairs if cfg.run == "train" else FeedbackLoop)(
        run_dir=run_dir,
        source=source,
        policy=engine,
        labeler=_labeler(cfg, engine),
        divider=instantiate(cfg.divider),
        settings=IterationSettings(
            decoding=Decoding(**iteration.pop("decoding")),
            rules=PairingRules(**iteration.pop("pairing")),
            **iteration,
        ),
        seed=cfg.seed,
        truth=source if isinstance(source, Truth) else None,
        num_examples=None if cfg.evaluation is None else cfg.evaluation.num_examples,
        canaries=_canaries(cfg, source, run_dir),
        min_free_bytes=cfg.min_free_bytes,
        chosen_from=None if other is None else _engine(cfg, *load_model(other, attention=cfg.model.attention)),
        selection=_selection(selection, source),
        measurements=benchmarks,
    )


def _selection(settings: dict[str, Any], source: Any) -> SelectionRules:
    """Raises ValueError where the truth is to choose, but is not known."""
    if settings["by"] == "truth" and not isinstance(source, Truth):
        raise ValueError(
            f"iteration.selection.by=truth needs data whose truth is known; {type(source).__name__} knows none."
        )
    return SelectionRules(**settings)


def _benchmarks(cfg: DictConfig) -> list[Any]:
    found = OmegaConf.select(cfg, "evaluation.benchmarks")
    return [] if found is None else [instantiate(found)]


def made(group: DictConfig | None) -> list[Any]:
    """What a group of classes builds; null stands for none, of the group or of one of them."""
    return [] if group is None else [one for one in instantiate(group).values() if one is not None]


def _canaries(cfg: DictConfig, source: Any, run_dir: Path) -> CanarySet | None:
    """The source's own canaries where it has some; drawn ones lie in the run directory."""
    if cfg.labeler.min_canary_accuracy is None:
        return None
    known = source.canaries() if isinstance(source, HasCanaries) else drawn_canaries(run_dir / "canaries")
    return CanarySet(known, cfg.labeler.min_canary_accuracy)


def precision_arguments(cfg: DictConfig) -> dict[str, Any]:
    """Return arguments that keep the trainer from converting bfloat16 weights; sharding strategies have own plugins."""
    strategy = str(cfg.trainer.strategy)
    if str(cfg.trainer.precision) != "bf16-true" or strategy.startswith(("deepspeed", "fsdp")):
        return {}
    return {"precision": None, "plugins": [WeightsAsLoaded()]}


def set_rank_timeout(seconds: int) -> None:
    """How long a process that trains with others waits for them before it gives up."""
    timeout = timedelta(seconds=seconds)
    StrategyRegistry.register("ddp", DDPStrategy, override=True, start_method="popen", timeout=timeout)


def build_labeler(cfg: DictConfig) -> LabelerModule:
    """The labeler on its own: where it has no weights of its own, those of the policy.

    Raises:
        ValueError: weights cannot be loaded; the message names the key.
    """
    return _labeler(cfg, None)


def _labeler(cfg: DictConfig, policy: LocalEngine | None) -> LabelerModule:
    """A labeler with weights of its own where it has a path, else on the policy's engine, or on one with its weights."""
    labeler = cfg.labeler
    engine: Labeler
    if labeler.path is not None:
        weights = (labeler.path, labeler.revision, labeler.dtype, cfg.model.attention, labeler.trust_remote_code)
        engine = _engine(cfg, *load_model(*weights))
    else:
        engine = policy or _engine(cfg, *load_model(**cfg.model))
    if labeler.error_rate:
        engine = ErringLabeler(engine, labeler.error_rate)
    return LabelerModule(engine, labeler.question_suffix, list(labeler.other_forms))


def _engine(cfg: DictConfig, model: torch.nn.Module, processor: Any) -> LocalEngine:
    """For a model that is not trained."""
    return LocalEngine(model.requires_grad_(False), _prompter(cfg, processor), cfg.engine.batch_tokens)


def _prompter(cfg: DictConfig, processor: Any) -> Prompter:
    limits = {name: cfg.data[name] for name in ("max_pixels", "max_bytes") if name in cfg.data}
    return Prompter(processor, **limits)
