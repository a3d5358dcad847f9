"""Pretraining of the embedded world's LLaVA on biased captions and truthful answers; one tree per scene.

The captions teach the model to hallucinate in descriptions; yes/no questions and short answers, the visual question
answering of this world, teach it to look. It ends up far better at checking than at describing, the premise of RLAIF-V.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from rlaifv.models.loading import load_model
from rlaifv.models.tree.packing import Branch, PackedTrees, Tree, branch_logps, pack
from rlaifv.worlds.shapes import (
    QUESTIONS,
    Scene,
    biased_caption,
    make_scenes,
    plain_caption,
    render,
    short_answers,
    truthful_questions,
)
from rlaifv.worlds.shapes_model import build_model, build_processor

YES_NO_SUFFIX = " Please answer yes or no."
CAPTIONS = {"biased": biased_caption, "plain": plain_caption}


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """The recipe of the shipped weights.

    captions, polar_questions, short_questions: branches per scene and step
    style: of the captions, a key of `CAPTIONS`
    cosine_steps: length of the learning rate schedule, of which the first `num_steps` are run
    """

    seed: int = 0
    num_steps: int = 2000
    cosine_steps: int = 2000
    warmup_steps: int = 100
    learning_rate: float = 1e-3
    batch_size: int = 32
    num_scenes: int = 30_000
    captions: int = 2
    style: str = "biased"
    polar_questions: int = 4
    short_questions: int = 2
    autocast: bool = True  # bf16 matrix products; fp32 weights


@dataclass(frozen=True, slots=True)
class StepReport:
    """Metrics of one optimizer step: mean negative log-likelihoods in nats, and the accuracy on yes/no questions."""

    step: int
    caption_loss: float
    short_loss: float
    polar_loss: float
    polar_accuracy: float


class _Encoder:
    """Encodes exchanges about a scene as trees; each distinct text is tokenized once."""

    def __init__(self, processor: LlavaProcessor) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token_id = processor.image_token_id
        self._cache: dict[tuple[str, str], tuple[list[int], int]] = {}

    def ids(self, question: str, answer: str) -> tuple[list[int], int]:
        """Return the token ids of one exchange about one image, and the number of them before the answer."""
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
        # The prefix ends with the line break after the last image token, where the first question starts.
        first = encoded[0][0]
        end = len(first) - first[::-1].index(self.image_token_id) + 1
        return Tree(first[:end], tuple(Branch(ids[end:], context=asked - end) for ids, asked in encoded))


def pretrain(
    settings: PretrainSettings, start: Path | None = None
) -> Iterator[StepReport | tuple[LlavaForConditionalGeneration, LlavaProcessor]]:
    """Train, yielding a report per step and finally the model and its processor.

    Args:
        settings: the recipe.
        start: directory of the weights to start from; random ones by default.
    """
    torch.manual_seed(settings.seed)
    processor = build_processor()
    model: Any = build_model(processor.tokenizer) if start is None else load_model(str(start))[0]
    model.train()
    scenes = make_scenes(settings.seed, settings.num_scenes)
    pixels = torch.cat([_pixels(processor, scene) for scene in scenes])
    encoder = _Encoder(processor)
    rng = random.Random(settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate_factor(step, settings.warmup_steps, settings.cosine_steps)
    )
    for step in range(1, settings.num_steps + 1):
        chosen = rng.sample(range(len(scenes)), settings.batch_size)
        packed = pack([_training_tree(encoder, scenes[k], rng, settings) for k in chosen])
        images = {"pixel_values": pixels[[chosen[k] for k in packed.tree_order]]}
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.autocast):
            logps = branch_logps(model, packed, images)
        *losses, accuracy = _losses(packed, logps, settings)
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield StepReport(step, *(value.item() for value in (*losses, accuracy)))
    yield model.eval(), processor


def _pixels(processor: LlavaProcessor, scene: Scene) -> Tensor:
    return processor.image_processor(images=render(scene), return_tensors="pt").pixel_values


def _training_tree(encoder: _Encoder, scene: Scene, rng: random.Random, settings: PretrainSettings) -> Tree:
    exchanges = [(rng.choice(QUESTIONS), CAPTIONS[settings.style](scene, rng)) for _ in range(settings.captions)]
    for question, is_true in truthful_questions(scene, rng, settings.polar_questions):
        exchanges.append((question + YES_NO_SUFFIX, "Yes" if is_true else "No"))
    exchanges += short_answers(scene, rng, settings.short_questions)
    return encoder.tree(exchanges)


def _losses(packed: PackedTrees, logps: Tensor, settings: PretrainSettings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean negative log-likelihoods of captions, short answers and yes/no, and the yes/no accuracy."""
    branches = packed.split(logps)
    per_scene = settings.captions + settings.polar_questions + settings.short_questions
    kinds: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for k, branch in enumerate(branches):
        place = k % per_scene
        kinds[(place >= settings.captions) + (place >= settings.captions + settings.polar_questions)].append(branch)
    captions, polar, short = torch.cat(kinds[0]), torch.stack([b[0] for b in kinds[1]]), torch.cat(kinds[2])
    accuracy = (polar.detach() > math.log(0.5)).float().mean()
    return -captions.mean(), -short.mean(), -polar.mean(), accuracy


def _learning_rate_factor(step: int, warmup_steps: int, cosine_steps: int) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, cosine_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
