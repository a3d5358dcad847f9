"""Estimate the cost of a run from its composed settings and print it before the run starts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PretrainedConfig

from rlaifv.app.data_sizes import max_pairs_per_prompt, num_rows
from rlaifv.models.budget.architecture import architecture_config
from rlaifv.models.budget.estimate import Beside, estimate
from rlaifv.models.budget.layout import has_layout
from rlaifv.models.budget.workload import Record, Setup, StageName, Workload
from rlaifv.models.families import missing_architecture
from rlaifv.report.preflight import look_around, preflight_table
from rlaifv.runtime.console import console
from rlaifv.runtime.ranks import rank
from rlaifv.worlds.shapes_source import PROMPTS_PER_ITERATION

# Height and width of a typical photograph, for model families whose number of image tokens depends on the image size.
TYPICAL_IMAGE_PX = (480, 640)
# What the stages of methods cost; all others run no model, or a divider's.
STAGES: dict[str, tuple[StageName, ...]] = {
    "generate.Generate": ("generate",),
    "score.Score": ("score",),
    "comparisons.CompareByLabeler": ("score",),
    "rate.RateAnswers": ("score",),
    "routes.RouteByLabeler": ("score",),
    "scores.ScoreAnswers": ("rewards",),
    "reference.ReferenceLogps": ("reference",),
    "reference.AnswerReferenceLogps": ("reference",),
    "rollout_logps.RolloutLogps": ("logps",),
    "rollout_logps.RolloutValues": ("logps", "values", "base"),
}
# Text of a question that compares two answers, those left out.
COMPARING_TOKENS = 60
# What collators' records are; those of all others are pairs.
RECORDS: dict[str, Record] = {
    "RolloutCollator": "answers",
    "LabelledCollator": "answers",
    "SegmentCollator": "answers",
    "TargetCollator": "answers",
    "ComparisonCollator": "comparisons",
}


def print_preflight(cfg: DictConfig, run_dir: Path, name: str = "") -> None:
    """Print what is trained, the cost of every stage, whether the run fits this machine, and where it is written.

    Args:
        cfg: of the run.
        run_dir: where it is written; need not exist yet.
        name: of a run that comes before another one.

    Raises:
        ValueError: the architecture of a model is unknown.
    """
    paths = [(cfg[name].path, cfg[name].revision) for name in ("model", "labeler") if cfg[name].path is not None]
    if cfg.iteration.chosen_from is not None:
        paths.append((cfg.iteration.chosen_from, None))
    if foreign := [sentence for path, _ in paths if (sentence := missing_architecture(path))]:
        unknown = foreign[0]
    else:
        policy, *others = (architecture_config(path, revision) for path, revision in paths)
        labeler = others.pop(0) if cfg.labeler.path is not None else None
        critic = OmegaConf.select(cfg, "method.critic.path")
        beside = Beside(
            chosen_from=others[0] if others else None,
            reward_models=tuple(_architecture_of(path, policy) for path in cfg.method.reward_models.values()),
            critic=None if critic is None else _architecture_of(critic, policy),
        )
        models = (policy, labeler, beside.chosen_from, *beside.reward_models, beside.critic)
        types = [config.model_type for config in models if config is not None and not has_layout(config)]
        unknown = (
            f"What a run costs is not known for models of type {types[0]!r}; it is not estimated." if types else ""
        )
    if not unknown:
        _print_budget(cfg, run_dir, name, policy, labeler, beside)
    elif rank() == 0:  # print once
        console.print(unknown)


def _architecture_of(path: str, policy: PretrainedConfig) -> PretrainedConfig:
    """Return a reward model's or critic's config; the policy's where there is none yet, as an earlier run trains its model."""
    try:
        return architecture_config(path)
    except ValueError:
        return policy


def _print_budget(
    cfg: DictConfig,
    run_dir: Path,
    name: str,
    policy: PretrainedConfig,
    labeler: PretrainedConfig | None,
    beside: Beside,
) -> None:
    budget = estimate(policy, _workload(cfg), _setup(cfg), labeler, image_px=TYPICAL_IMAGE_PX, beside=beside)
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
        console.print(preflight_table(budget, place, name))


def _workload(cfg: DictConfig) -> Workload:
    num_prompts = cfg.iteration.num_prompts or _prompts_per_iteration(cfg)
    record = RECORDS.get(str(cfg.method.learner.collator._target_).rpartition(".")[2], "pairs")
    per_prompt = _records_per_prompt(cfg, record)
    work = Workload(
        num_prompts=num_prompts,
        num_responses=cfg.iteration.num_responses,
        num_records=num_prompts * per_prompt,
        epochs=cfg.iteration.epochs,
        max_new_tokens=cfg.iteration.decoding.max_new_tokens,
        stages=_stages(cfg),
        record=record,
        records_per_tree=per_prompt,
        num_iterations=cfg.iteration.num_iterations,
        reads_words=cfg.method.reward_model is None,
    )
    return _with_questions(work, {_name(node): node for node in cfg.method.stages.values() if node}, per_prompt)


def _with_questions(work: Workload, nodes: Mapping[str, DictConfig], per_prompt: int) -> Workload:
    """Return the workload with questions about whole answers, beside those about claims."""
    if not {"CompareByLabeler", "RateAnswers", "RouteByLabeler"} & {*nodes}:
        return work
    found = []  # (number, tokens of each) about an image
    if "Score" in nodes:
        found.append((work.questions_per_prompt, work.question_tokens))
    if (node := nodes.get("CompareByLabeler")) is not None:  # in both orders
        found.append((2 * per_prompt * len(node.criteria), 2 * work.average_tokens + COMPARING_TOKENS))
    if (node := nodes.get("RateAnswers")) is not None:
        found.append((work.num_responses * len(node.questions), work.average_tokens + COMPARING_TOKENS))
    if "RouteByLabeler" in nodes:
        found.append((1, COMPARING_TOKENS))
    number = sum(num for num, _ in found)
    return replace(work, questions=number, question_tokens=round(sum(num * size for num, size in found) / number))


def _name(node: DictConfig) -> str:
    return str(node._target_).rpartition(".")[2]


def _records_per_prompt(cfg: DictConfig, record: Record) -> int:
    """Return the most records of a prompt that train; data sets that contain pairs have about one of each."""
    answers = int(cfg.iteration.num_responses)
    wanted = [node.per_prompt for node in cfg.method.stages.values() if node and "per_prompt" in node]
    if record == "answers":
        samples = any(_name(node) == "Generate" for node in cfg.method.stages.values() if node)
        return (max(1, int(wanted[0])) if wanted else answers) if samples else 1
    if record == "comparisons":
        every = answers * (answers - 1) // 2
        return min(every, *wanted) if wanted and wanted[0] else every
    sets = [len(node.sets) for node in cfg.method.stages.values() if node and _name(node) == "BuildPairSets"]
    most = sets[0] if sets else max_pairs_per_prompt(cfg)  # a set has one pair of a prompt
    return 1 if cfg.run == "train" else max(1, most)  # fewer are refused where the stage is built


def _stages(cfg: DictConfig) -> tuple[StageName, ...]:
    """Return the stages of the method that cost something; a run that only labels does not train."""
    nodes = [node for node in cfg.method.stages.values() if node is not None]
    found = [name for node in nodes for name in STAGES.get(str(node._target_).removeprefix("rlaifv.stages."), ())]
    stages = list(dict.fromkeys(found))  # several may ask the labeler
    if not any(node.get("reference") == "base" for node in nodes):
        stages = [name for name in stages if name != "base"]
    return (*stages, *(() if cfg.run == "label" else ("train",)))


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
        train_records=cfg.learner.batch_size,
        num_shards=max(1, torch.cuda.device_count()) if sharded else 1,
        kept_checkpoints=OmegaConf.select(cfg, "callbacks.checkpoint.num_kept") or 0,
        candidates_per_epoch=cfg.iteration.selection.per_epoch,
    )
