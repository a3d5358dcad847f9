"""One optimizer step of every learner on four records, shared out among batches and ranks in any way.

As a script, one of two ranks: takes the steps with two batches of one record on each, and stores the weights.

    MASTER_ADDR=127.0.0.1 MASTER_PORT=… NODE_RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 python -m tests.learners.steps DIR
"""

import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rlaifv.data.datamodule import Collator, IterationDataModule
from rlaifv.engines.local import LocalEngine
from rlaifv.engines.reward import RewardEngine
from rlaifv.learners.dpo.batch import PreferenceCollator
from rlaifv.learners.dpo.module import DPOModule
from rlaifv.learners.kto.batch import LabelledCollator
from rlaifv.learners.kto.module import KTOModule
from rlaifv.learners.policy import PolicyModule
from rlaifv.learners.policy_gradient.batch import RolloutCollator
from rlaifv.learners.policy_gradient.module import ActorCriticModule, PolicyGradientModule
from rlaifv.learners.reward_model.batch import ComparisonCollator, SegmentCollator
from rlaifv.learners.reward_model.module import RewardModelModule
from rlaifv.learners.sft.batch import TargetCollator
from rlaifv.learners.sft.module import SFTModule
from rlaifv.models.loading import select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.models.reward_head import RewardHead, RewardSpec, new_head
from rlaifv.records import Comparison, LabelledAnswer, LabelledSegments, Prompt, Rollout, Target
from rlaifv.runtime.ranks import rank
from rlaifv.stages.label_answers import with_mismatched
from rlaifv.stages.reference import AnswerReferenceLogps
from rlaifv.stages.stage import Task
from rlaifv.worlds.shapes_model import build_model, build_processor
from rlaifv.worlds.shapes_source import ShapesSource
from tests.learners.dpo_run import ANSWERS, Run

# A step of this size adds the gradient itself to the weights.
SGD: Any = partial(torch.optim.SGD, lr=1.0)
NAMES = ("dpo", "sft", "kto", "grpo", "dapo", "shared_critic", "own_critic", "reward_model", "segment_reward_model")


def weights_after(
    name: str, prompts: Sequence[Prompt], batch_size: int, accumulate: int, **options: Any
) -> dict[str, Tensor]:
    """Return what a learner's weights gain in the step, by name."""
    torch.manual_seed(0)
    processor = build_processor()
    model = build_model(processor.tokenizer, hidden_size=64, num_layers=2, vision_layers=1).eval()
    run = Run(select_trainable(model, ["projector", "language_model"]), Prompter(processor), prompts)
    module, collator, records = LEARNERS[name](run)
    manifest = SimpleNamespace(records=lambda table: run.prompts if table == "prompts" else records)
    data = IterationDataModule(lambda k: manifest, collator, batch_size, 1, 1, seed=0)  # type: ignore[arg-type, return-value]
    before = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
    trainer = run.fit(module, data, accumulate_grad_batches=accumulate, **options)  # type: ignore[arg-type]
    assert trainer.global_step == 1
    return {name: tensor.detach() - before[name] for name, tensor in module.named_parameters()}


Made = tuple[PolicyModule, Collator, Sequence[Any]]


def dpo(run: Run) -> Made:
    with torch.no_grad():
        run.model.lm_head.weight.mul_(1.1)  # away from the reference
    return DPOModule(run.model, SGD, schedule="constant"), PreferenceCollator(run.engine), run.pairs


def sft(run: Run) -> Made:
    """Targets of different lengths, two to each prompt."""
    records = [Target(f"t{k}", prompt.id, ids, "person") for k, (prompt, ids) in enumerate(answers(run))]
    return SFTModule(run.model, SGD, schedule="constant"), TargetCollator(run.engine), records


def kto(run: Run) -> Made:
    """Mismatched answers are likelier under the reference, so that the reference point is 0 in every batch."""
    some = [
        LabelledAnswer(f"k{k}", prompt.id, ids, k in (0, 3), (2.0, 1.0, 1.0, 2.0)[k], 1, 0)
        for k, (prompt, ids) in enumerate(answers(run))
    ]
    made = AnswerReferenceLogps(run.engine)(Task(), run.prompts, with_mismatched(some)).records
    records = [
        replace(
            one,
            reference_logps=tuple(value - 0.1 for value in one.reference_logps),
            mismatched_reference_logps=tuple(value + 0.1 for value in one.mismatched_reference_logps),
        )
        for one in made
    ]
    return KTOModule(run.model, SGD, beta=0.5, schedule="constant"), LabelledCollator(run.engine), records


def policy_gradient(run: Run, aggregation: Any) -> Made:
    module = PolicyGradientModule(run.model, SGD, kl_weight=0.5, aggregation=aggregation, schedule="constant")
    return module, RolloutCollator(run.engine), rollouts(run, has_critic=False)


def actor_critic(run: Run, has_backbone: bool) -> Made:
    engine = LocalEngine(copy.deepcopy(run.model), run.prompter) if has_backbone else run.engine
    critic = RewardEngine(engine, head_of(run.model), RewardSpec(("value",)))
    module = ActorCriticModule(run.model, critic, SGD, value_weight=0.5, critic_lr=1.0, schedule="constant")
    return module, RolloutCollator(run.engine), rollouts(run, has_critic=True)


def reward_model(run: Run) -> Made:
    """Of eight preferences, three are not known: both of one comparison, and one of another."""
    spec, known = RewardSpec(("a", "b")), ((1.0, 0.0), (-1.0, -1.0), (0.0, -1.0), (1.0, 1.0))
    module = RewardModelModule(run.model, head_of(run.model, 2), spec, SGD, 1.0, 0.5, 0.1, "constant")
    records = [
        Comparison(f"c{k}", prompt.id, ids, other, known[k], (0.5, 1.0))
        for k, (prompt, ids) in enumerate(answers(run))
        for other in [run.prompter.completion_ids(prompt, ANSWERS[4])]
    ]
    return module, ComparisonCollator(run.engine, spec), records


def segment_reward_model(run: Run) -> Made:
    """One to three segments an answer."""
    spec, ends = RewardSpec(("a", "b"), num_classes=3), ((1, 3, 5), (2,), (0, 1), (1,))
    module = RewardModelModule(run.model, head_of(run.model, 2, 3), spec, SGD, 1.0, schedule="constant")
    records = [
        LabelledSegments(f"s{k}", prompt.id, ids, ends[k], tuple((k + j) % 3 for j in range(2 * len(ends[k]))))
        for k, (prompt, ids) in enumerate(answers(run))
    ]
    return module, SegmentCollator(run.engine, spec), records


LEARNERS = {
    "dpo": dpo,
    "sft": sft,
    "kto": kto,
    "grpo": partial(policy_gradient, aggregation="sequence"),
    "dapo": partial(policy_gradient, aggregation="token"),
    "shared_critic": partial(actor_critic, has_backbone=False),
    "own_critic": partial(actor_critic, has_backbone=True),
    "reward_model": reward_model,
    "segment_reward_model": segment_reward_model,
}


def answers(run: Run) -> list[tuple[Prompt, tuple[int, ...]]]:
    """Four answers of different lengths, two to each of two prompts."""
    asked = [run.prompts[k // 2] for k in range(4)]
    return [(prompt, run.prompter.completion_ids(prompt, ANSWERS[k])) for k, prompt in enumerate(asked)]


def rollouts(run: Run, has_critic: bool) -> list[Rollout]:
    made = []
    for k, (prompt, ids) in enumerate(answers(run)):
        ((logps,),) = run.engine.completion_logps([(prompt, [ids])])
        several = [tuple(float((k + j * step) % 3 - 1) for j in range(len(ids))) for step in (1, 2, 4)]
        of_critic = dict(zip(("advantages", "values", "returns"), several, strict=True)) if has_critic else {}
        old = tuple(value - 0.1 for value in logps)
        made.append(Rollout(f"r{k}", prompt.id, ids, True, 0, 0, 0.0, (1.0, -0.5, -0.5, 0.75)[k], old, **of_critic))
    return made


def head_of(model: Any, num_heads: int = 1, num_classes: int = 1) -> RewardHead:
    head = new_head(model, num_heads, num_classes)
    torch.manual_seed(3)
    torch.nn.init.normal_(head.weight, std=0.2)
    return head


def main(directory: Path) -> None:
    prompts = ShapesSource(directory / f"scenes-{rank()}", num_held_out=4, seed=0).prompts(0, 6)
    for name in NAMES:
        gained = weights_after(name, prompts, batch_size=1, accumulate=2, devices=2, strategy="ddp")
        torch.save(gained, directory / f"{name}-{rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
