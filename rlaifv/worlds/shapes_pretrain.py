"""How the embedded world's LLaVA comes to be: biased captions and truthful answers, all of a scene on one tree.

The captions teach it to describe with hallucinations; yes/no questions and short answers, the visual question
answering of this world, teach it to look. Checking ends up far better than describing, the premise that RLAIF-V builds on.

It learns in two stages: first mostly to look, then mostly to say what it sees where, which captions teach slowly.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from rlaifv.models.tree import Branch, PackedTrees, Tree, branch_logps, pack
from rlaifv.worlds.shapes import (
    QUESTIONS,
    Scene,
    biased_caption,
    make_scenes,
    render,
    short_answers,
    truthful_questions,
)
from rlaifv.worlds.shapes_model import build_model, build_processor

YES_NO_SUFFIX = " Please answer yes or no."


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training with its own mixture and a cosine schedule of its own.

    captions, polar_questions, short_questions: branches of each scene in each step
    cosine_steps: length of the schedule, of which the first `num_steps` are taken
    """

    num_steps: int
    cosine_steps: int
    captions: int
    polar_questions: int
    short_questions: int
    learning_rate: float


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """The committed recipe of the shipped weights."""

    seed: int = 0
    stages: tuple[Stage, ...] = (
        Stage(1800, 2000, captions=1, polar_questions=4, short_questions=3, learning_rate=1e-3),
        Stage(700, 700, captions=4, polar_questions=2, short_questions=1, learning_rate=5e-4),
    )
    batch_size: int = 32
    num_scenes: int = 30_000
    warmup_steps: int = 100
    autocast: bool = True  # bf16 matrix products; fp32 weights

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all stages."""
        return sum(stage.num_steps for stage in self.stages)

    def first(self, num_steps: int) -> "PretrainSettings":
        """The same recipe, stopped after at most `num_steps`."""
        stages, left = [], num_steps
        for stage in self.stages:
            stages.append(replace(stage, num_steps=min(left, stage.num_steps)))
            left -= stages[-1].num_steps
        return replace(self, stages=tuple(stages))


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step saw: mean negative log-likelihoods in nats, and the share of right yes/no answers."""

    step: int
    caption_loss: float
    short_loss: float
    polar_loss: float
    polar_accuracy: float


class _Encoder:
    """Turns exchanges about a scene into trees; each distinct text is tokenized once."""

    def __init__(self, processor: LlavaProcessor) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token_id = processor.image_token_id
        self._cache: dict[tuple[str, str], tuple[list[int], int]] = {}

    def ids(self, question: str, answer: str) -> tuple[list[int], int]:
        """Ids of one exchange about one image, and how many of them come before the answer."""
        key = (question, answer)
        if key not in self._cache:
            user: dict[str, Any] = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
            reply: dict[str, Any] = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
            asked = self.processor.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
            whole = self.processor.apply_chat_template([user, reply], tokenize=False)
            ids, asked_ids = (self.tokenizer(t.replace("<image>", "<image>" * 9)).input_ids for t in (whole, asked))
            self._cache[key] = ids, len(asked_ids)
        return self._cache[key]

    def tree(self, exchanges: list[tuple[str, str]]) -> Tree:
        encoded = [self.ids(question, answer) for question, answer in exchanges]
        # The prefix ends with the line break behind the last image token, where the first question starts.
        first = encoded[0][0]
        end = len(first) - first[::-1].index(self.image_token_id) + 1
        return Tree(first[:end], tuple(Branch(ids[end:], context=asked - end) for ids, asked in encoded))


def pretrain(settings: PretrainSettings) -> Iterator[StepReport | tuple[LlavaForConditionalGeneration, LlavaProcessor]]:
    """Train from random weights, yielding a report per step and, last, the model and its processor."""
    torch.manual_seed(settings.seed)
    processor = build_processor()
    model = build_model(processor.tokenizer).train()
    scenes = make_scenes(settings.seed, settings.num_scenes)
    pixels = torch.cat([_pixels(processor, scene) for scene in scenes])
    encoder = _Encoder(processor)
    first_step = 1
    for number, stage in enumerate(settings.stages):
        rng = random.Random(settings.seed + number)
        reports = _train_stage(model, encoder, scenes, pixels, rng, stage, settings)
        yield from (StepReport(first_step + k, *losses) for k, losses in enumerate(reports))
        first_step += stage.num_steps
    yield model.eval(), processor


def _train_stage(
    model: LlavaForConditionalGeneration,
    encoder: _Encoder,
    scenes: list[Scene],
    pixels: Tensor,
    rng: random.Random,
    stage: Stage,
    settings: PretrainSettings,
) -> Iterator[tuple[float, ...]]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate_factor(step, settings.warmup_steps, stage.cosine_steps)
    )
    for _ in range(stage.num_steps):
        chosen = rng.sample(range(len(scenes)), settings.batch_size)
        packed = pack([_training_tree(encoder, scenes[k], rng, stage) for k in chosen])
        images = {"pixel_values": pixels[[chosen[k] for k in packed.tree_order]]}
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.autocast):
            logps = branch_logps(model, packed, images)
        *losses, accuracy = _losses(packed, logps, stage)
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield tuple(value.item() for value in (*losses, accuracy))


def _pixels(processor: LlavaProcessor, scene: Scene) -> Tensor:
    return processor.image_processor(images=render(scene), return_tensors="pt").pixel_values


def _training_tree(encoder: _Encoder, scene: Scene, rng: random.Random, stage: Stage) -> Tree:
    exchanges = [(rng.choice(QUESTIONS), biased_caption(scene, rng)) for _ in range(stage.captions)]
    for question, is_true in truthful_questions(scene, rng, stage.polar_questions):
        exchanges.append((question + YES_NO_SUFFIX, "Yes" if is_true else "No"))
    exchanges += short_answers(scene, rng, stage.short_questions)
    return encoder.tree(exchanges)


def _losses(packed: PackedTrees, logps: Tensor, stage: Stage) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean negative log-likelihoods of captions, short answers and yes/no, and the share of right yes/no."""
    branches = packed.split(logps)
    per_scene = stage.captions + stage.polar_questions + stage.short_questions
    kinds: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for k, branch in enumerate(branches):
        place = k % per_scene
        kinds[(place >= stage.captions) + (place >= stage.captions + stage.polar_questions)].append(branch)
    captions, polar, short = torch.cat(kinds[0]), torch.stack([b[0] for b in kinds[1]]), torch.cat(kinds[2])
    accuracy = (polar.detach() > math.log(0.5)).float().mean()
    return -captions.mean(), -short.mean(), -polar.mean(), accuracy


def _learning_rate_factor(step: int, warmup_steps: int, cosine_steps: int) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, cosine_steps - warmup_steps)))
