"""What twins are taught in seconds: that pictures hold red and green shapes, and to err when they describe one.

A description is a few sentences, each of which names a colour, half of them a wrong one. Asked whether there is such a shape,
a twin says yes to red and green. So it checks better than it describes, answers vary, and a labeler accepts some claims and
rejects others. The verdict goes by the words alone: to look takes longer to learn than a test may last.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText

from rlaifv.worlds.shapes import COLOURS, Scene, Thing, render
from tests.twins.families import FAMILIES, published_config, small_config

RIGHT_COLOURS, WRONG_COLOURS = ("red", "green"), ("blue", "yellow")
SHAPE_NAMES = ("circle", "square", "star")
QUESTIONS = ("Describe the image.", "What is in the image?", "What do you see in the picture?")
SUFFIX = " Please answer yes or no."
P_WRONG = 0.5
NUM_PICTURES, BATCH_SIZE, NUM_STEPS = 16, 16, 160
OTHER_SENTENCES = (
    "USER: ASSISTANT: system user assistant Answer the questions. You are a helpful assistant. Yes yes No no",
    "Is it true that the picture shows a triangle, a ring or a cross? Does the statement describe the image correctly?",
)


def sentence(colour: str, shape: str) -> str:
    return f"There is a {colour} {shape}."


def draw(colour: str, rng: random.Random) -> Image.Image:
    """Shapes of one colour in six of the nine cells."""
    cells = sorted(rng.sample(range(9), 6))
    things = tuple(Thing(cell, colour, rng.choice(SHAPE_NAMES)) for cell in cells)
    return render(Scene(things, rng.getrandbits(32)))


def describe(rng: random.Random) -> str:
    """Two or three sentences, with right and wrong colours."""
    shapes = rng.sample(SHAPE_NAMES, rng.choice((2, 3)))
    return " ".join(sentence(_colour(rng.random() >= P_WRONG, rng), shape) for shape in shapes)


def exchange(rng: random.Random) -> tuple[str, str]:
    """A question about a picture, and the answer to learn."""
    if rng.random() < 0.4:
        return rng.choice(QUESTIONS), describe(rng)
    is_right = rng.random() < 0.5
    question = f"Is there a {_colour(is_right, rng)} {rng.choice(SHAPE_NAMES)}?{SUFFIX}"
    return question, "Yes" if is_right else "No"


def _colour(is_right: bool, rng: random.Random) -> str:
    return rng.choice(RIGHT_COLOURS if is_right else WRONG_COLOURS)


def sentences() -> Iterator[str]:
    """Whatever a vocabulary has to hold as whole words."""
    yield from OTHER_SENTENCES
    for start in ("", " "):
        yield from (start + question for question in QUESTIONS)
        for colour in COLOURS:
            for shape in SHAPE_NAMES:
                yield start + sentence(colour, shape)
                yield f"{start}Is there a {colour} {shape}?{SUFFIX}"
        yield from (start + word for word in ("Yes", "yes", "No", "no"))


def make_twin(name: str, directory: Path, num_steps: int = NUM_STEPS) -> float:
    """Build, teach and save a twin, in the type that the hub has it in. Returns its share of right yes/no answers."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    rng = random.Random(0)
    published = published_config(family)
    processor = family.processor(list(sentences()), published)
    config = small_config(family, processor.tokenizer)
    model: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    lessons = _Lessons(processor, [draw(RIGHT_COLOURS[k % 2], rng) for k in range(NUM_PICTURES)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, num_steps)
    model.train()
    right = 0.0
    for _ in range(num_steps):
        chosen = [rng.randrange(NUM_PICTURES) for _ in range(BATCH_SIZE)]
        exchanges = [exchange(rng) for _ in chosen]
        inputs, labels = lessons.batch(chosen, exchanges)
        logits = model(**inputs).logits[:, :-1]
        of_tokens = cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
        loss = (of_tokens.sum(1) / (labels[:, 1:] >= 0).sum(1)).mean()  # a verdict weighs as much as a description
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        right = 0.9 * right + 0.1 * _accuracy(logits, labels[:, 1:], exchanges)
    model.eval().to(getattr(torch, published["dtype"])).save_pretrained(directory)
    processor.save_pretrained(directory)
    return right


class _Lessons:
    """Batches of exchanges about pictures, each of which is preprocessed once."""

    def __init__(self, processor: Any, pictures: list[Image.Image]) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        image = processor.image_token
        encoded = [processor(text=[image], images=[picture], return_tensors="pt") for picture in pictures]
        self.image_id = self.tokenizer.convert_tokens_to_ids(image)
        # All pictures have one size, so all become as many tokens.
        self.image_tokens = image * int((encoded[0]["input_ids"] == self.image_id).sum())
        names = set(encoded[0]) - {"input_ids", "attention_mask", "mm_token_type_ids"}
        self.images = [{name: one[name] for name in names} for one in encoded]

    def batch(self, chosen: list[int], exchanges: list[tuple[str, str]]) -> tuple[dict[str, Tensor], Tensor]:
        """What the model reads, and per token the id to learn: those of the answers and their ends, -100 elsewhere."""
        asked = [self._asked(question) for question, _ in exchanges]
        ends = [
            ("" if text[-1].isspace() else " ") + answer + self.tokenizer.eos_token
            for text, (_, answer) in zip(asked, exchanges, strict=True)
        ]
        whole = [text + end for text, end in zip(asked, ends, strict=True)]
        inputs = dict(self.tokenizer(whole, padding=True, padding_side="right", return_tensors="pt"))
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        for row, before in enumerate(self.tokenizer(asked)["input_ids"]):
            labels[row, : len(before)] = -100
        if "image_grid_thw" in self.images[0]:
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == self.image_id).int()
        images = {name: torch.cat([self.images[k][name] for k in chosen]) for name in self.images[0]}
        return inputs | images, labels

    def _asked(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return text.replace(self.processor.image_token, self.image_tokens)


def _accuracy(logits: Tensor, labels: Tensor, exchanges: list[tuple[str, str]]) -> float:
    polar = [k for k, (_, answer) in enumerate(exchanges) if answer in ("Yes", "No")]
    first = [int((labels[k] >= 0).nonzero()[0]) for k in polar]
    return sum(int(logits[k, place].argmax() == labels[k, place]) for k, place in zip(polar, first, strict=True)) / len(
        polar
    )


def write_prompts(directory: Path, num_prompts: int, seed: int = 1) -> Path:
    """Pictures that no twin has seen, and a list of prompts about them in the form of `data=files`."""
    rng = random.Random(seed)
    (directory / "photos").mkdir(parents=True)
    lines = []
    for k in range(num_prompts):
        colour = RIGHT_COLOURS[k % 2]
        draw(colour, rng).save(directory / "photos" / f"{k}-{colour}.png")
        lines.append(json.dumps({"image": f"photos/{k}-{colour}.png", "question": rng.choice(QUESTIONS)}))
    path = directory / "prompts.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
