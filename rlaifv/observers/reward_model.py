"""Measure a reward model on the records that its training left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from rlaifv.engines.protocol import Advance
from rlaifv.engines.reward import RewardEngine, Scored
from rlaifv.metrics.reward_model import comparison_metrics, named, segment_metrics
from rlaifv.models.reward_head import RewardHead, RewardSpec
from rlaifv.observers.held_out import HeldOut, evaluation_path
from rlaifv.records import Comparison, LabelledSegments, Prompt
from rlaifv.runtime.console import StageBars
from rlaifv.runtime.phases import timed
from rlaifv.runtime.ranks import rank
from rlaifv.runtime.stopping import or_stop, wait_until
from rlaifv.store.atomic import failpoint, make_directory, write_json
from rlaifv.store.manifest import Manifest, iteration_directory


@dataclass
class RewardModelHeldOut(HeldOut):
    """Measure the model that trains as a reward model, where `HeldOut` would let it answer prompts.

    Attributes:
        head: of the reward model.
        spec: what it scores.
    """

    head: RewardHead = field(kw_only=True)
    spec: RewardSpec = field(kw_only=True)

    @timed("measure")
    def measure(self, iteration: int) -> None:
        """Measure the model after `iteration` iterations, unless that was done before; not before the first one."""
        path = evaluation_path(self.run_dir, iteration)
        if not self.is_measured or path.exists() or iteration == 0:
            return
        if rank() > 0:
            wait_until(path.exists)
            return
        failpoint("loop.measure")
        manifest = Manifest(iteration_directory(self.run_dir, iteration - 1))
        table = "comparisons" if self.spec.num_classes == 1 else "segments"
        records = [record for record in manifest.records(table) if record.is_held_out]
        prompts = {prompt.id: prompt for prompt in manifest.records("prompts")}
        engine = RewardEngine(self.policy, self.head, self.spec)
        measured = measure_comparisons if self.spec.num_classes == 1 else measure_segments
        num_prompts = len({record.prompt_id for record in records})
        with StageBars(f"iteration {iteration}") as bars, bars.stage("measure", num_prompts) as advance:
            metrics = measured(engine, prompts, records, or_stop(advance))
        make_directory(path.parent)
        write_json(path, {"num_iterations": iteration, "metrics": metrics, "examples": []})


def measure_comparisons(
    engine: RewardEngine, prompts: dict[str, Prompt], records: Sequence[Comparison], advance: Advance
) -> dict[str, float]:
    """Return the figures of every criterion on comparisons, see `comparison_metrics`; all answers to a prompt are one tree."""
    answers: dict[str, dict[tuple[int, ...], Scored]] = {}
    for record in records:
        for ids in (record.first_token_ids, record.second_token_ids):
            answers.setdefault(record.prompt_id, {})[ids] = (ids, [len(ids) - 1])
    found = engine.scores([(prompts[name], list(some.values())) for name, some in answers.items()], advance)
    scores = {
        (name, ids): score[0]
        for (name, some), of_prompt in zip(answers.items(), found, strict=True)
        for ids, score in zip(some, of_prompt, strict=True)
    }
    heads = engine.spec.heads
    empty = torch.zeros(0, len(heads))
    ahead = [
        scores[record.prompt_id, record.first_token_ids] - scores[record.prompt_id, record.second_token_ids]
        for record in records
    ]
    differences = torch.stack(ahead) if ahead else empty
    preferences = torch.tensor([record.preferences for record in records]) if records else empty
    longer = torch.tensor([len(record.first_token_ids) - len(record.second_token_ids) for record in records])
    return named(heads, [comparison_metrics(differences[:, k], preferences[:, k], longer) for k in range(len(heads))])


def measure_segments(
    engine: RewardEngine, prompts: dict[str, Prompt], records: Sequence[LabelledSegments], advance: Advance
) -> dict[str, float]:
    """Return the figures of every kind on labelled segments, see `segment_metrics`; all answers to a prompt are one tree."""
    groups: dict[str, list[LabelledSegments]] = {}
    for record in records:
        groups.setdefault(record.prompt_id, []).append(record)
    found = engine.scores(
        [(prompts[name], [(one.token_ids, one.ends) for one in some]) for name, some in groups.items()], advance
    )
    heads = engine.spec.heads
    logits = [scores for of_prompt in found for scores in of_prompt]
    flat = torch.cat(logits) if logits else torch.zeros(0, len(heads), engine.spec.num_classes)
    labels = torch.tensor(
        [label for some in groups.values() for one in some for label in one.labels], dtype=torch.int64
    )
    by_head = labels.view(-1, len(heads))
    return named(heads, [segment_metrics(flat[:, k], by_head[:, k]) for k in range(len(heads))])
