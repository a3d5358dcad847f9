"""Estimate the cost of a run from its composed settings and print it before the run starts."""

from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PretrainedConfig

from rlaifv.app.data_sizes import num_rows
from rlaifv.models.budget.architecture import architecture_config
from rlaifv.models.budget.estimate import RunBudget, estimate
from rlaifv.models.budget.layout import has_layout, image_layout
from rlaifv.models.budget.workload import Setup, Workload
from rlaifv.models.families import missing_architecture
from rlaifv.report.preflight import look_around, preflight_table
from rlaifv.runtime.console import console
from rlaifv.runtime.ranks import rank
from rlaifv.worlds.shapes_source import PROMPTS_PER_ITERATION

# Height and width of a typical photograph, for model families whose number of image tokens depends on the image size.
TYPICAL_IMAGE_PX = (480, 640)


def print_preflight(cfg: DictConfig, run_dir: Path) -> None:
    """Print what is trained, the cost of every stage, whether the run fits this machine, and where it is written.

    Raises:
        ValueError: the architecture of a model is unknown.
    """
    paths = [(cfg[name].path, cfg[name].revision) for name in ("model", "labeler") if cfg[name].path is not None]
    has_labeler = cfg.labeler.path is not None
    if cfg.iteration.chosen_from is not None:
        paths.append((cfg.iteration.chosen_from, None))
    if foreign := [sentence for path, _ in paths if (sentence := missing_architecture(path))]:
        unknown = foreign[0]
    else:
        policy, *others = (architecture_config(path, revision) for path, revision in paths)
        types = [config.model_type for config in (policy, *others) if not has_layout(config)]
        unknown = (
            f"What a run costs is not known for models of type {types[0]!r}; it is not estimated." if types else ""
        )
    if not unknown:
        labeler = others.pop(0) if has_labeler else None
        _print_budget(cfg, run_dir, policy, labeler, others[0] if others else None)
    elif rank() == 0:  # print once
        console.print(unknown)


def _print_budget(
    cfg: DictConfig,
    run_dir: Path,
    policy: PretrainedConfig,
    labeler: PretrainedConfig | None,
    other: PretrainedConfig | None,
) -> None:
    budget = estimate(
        policy,
        _workload(cfg),
        _setup(cfg),
        labeler,
        policy_image=image_layout(policy, image_px=TYPICAL_IMAGE_PX),
        labeler_image=None if labeler is None else image_layout(labeler, image_px=TYPICAL_IMAGE_PX),
        other=other,
    )
    budget = _for_run(budget, cfg.run)
    wants_gpu = cfg.trainer.accelerator == "gpu"
    place = look_around(
        budget,
        policy=cfg.model.path,
        labeler=cfg.labeler.path,
        run_dir=run_dir,
        device=torch.device("cuda" if wants_gpu and torch.cuda.is_available() else "cpu"),
        revision=cfg.model.revision,
        labeler_revision=cfg.labeler.revision,
    )
    if rank() == 0:  # print once
        console.print(preflight_table(budget, place))


def _for_run(budget: RunBudget, run: str) -> RunBudget:
    """Drop the stages that `run` skips; a label-only run also has no optimizer state and saves no weights."""
    skipped = {"full": (), "label": ("train",), "train": ("generate", "score")}[run]
    stages = tuple(stage for stage in budget.stages if stage.name not in skipped)
    if run != "label":
        return replace(budget, stages=stages)
    held = budget.memory.optimizer
    return replace(
        budget,
        stages=tuple(replace(stage, memory_bytes=stage.memory_bytes - held) for stage in stages),
        memory=replace(budget.memory, optimizer=0, gradients=0, activations=0, update=0),
        disk=replace(budget.disk, checkpoints=0, candidates=0, export=0),
    )


def _workload(cfg: DictConfig) -> Workload:
    num_prompts = cfg.iteration.num_prompts or _prompts_per_iteration(cfg)
    if _trains_on_single_answers(cfg):  # two answers are the work of a pair
        pairs_per_prompt = -(-cfg.iteration.num_responses // 2)
    else:  # data sets that contain pairs have about one per prompt
        pairs_per_prompt = 1 if cfg.run == "train" else cfg.iteration.pairing.max_pairs_per_prompt
    return Workload(
        num_prompts=num_prompts,
        num_responses=cfg.iteration.num_responses,
        num_pairs=num_prompts * pairs_per_prompt,
        epochs=cfg.iteration.epochs,
        max_new_tokens=cfg.iteration.decoding.max_new_tokens,
        pairs_per_tree=pairs_per_prompt,
        num_iterations=cfg.iteration.num_iterations,
    )


def _trains_on_single_answers(cfg: DictConfig) -> bool:
    return str(cfg.method.learner.collator._target_).endswith(".RolloutCollator")


def _prompts_per_iteration(cfg: DictConfig) -> int:
    rows = num_rows(cfg)
    return PROMPTS_PER_ITERATION if rows is None else max(1, rows // cfg.iteration.num_iterations)


def _setup(cfg: DictConfig) -> Setup:
    lora = cfg.learner.lora
    sharded = str(OmegaConf.select(cfg, "trainer.strategy")).startswith(("deepspeed", "fsdp"))
    return Setup(
        train_parts=tuple(cfg.learner.train_parts),
        lora_rank=0 if lora is None else lora.r,
        dtype=cfg.model.dtype,
        is_quantized=cfg.model.quantization != "none",
        precision=str(cfg.trainer.precision),
        recompute=cfg.learner.recompute,
        features_are_cached=False,
        batch_tokens=cfg.engine.batch_tokens,
        train_tokens=cfg.learner.batch_tokens,
        num_shards=max(1, torch.cuda.device_count()) if sharded else 1,
        kept_checkpoints=OmegaConf.select(cfg, "callbacks.checkpoint.num_kept") or 0,
        candidates_per_epoch=cfg.iteration.selection.per_epoch,
    )
