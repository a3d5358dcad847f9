"""What twins are taught in seconds: to look at the colour of a picture when they are asked, and to err when they describe.

A picture holds shapes of one colour. A description is a few sentences, each of which names a colour, often a wrong one. Asked
whether there is such a shape, a twin says yes where the colour is the picture's. So it checks better than it describes,
answers vary, and a labeler accepts some claims and rejects others.
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

COLOUR_NAMES = ("red", "green", "blue", "yellow")
SHAPE_NAMES = ("circle", "square", "star")
QUESTIONS = ("Describe the image.", "What is in the image?", "What do you see in the picture?")
SUFFIX = " Please answer yes or no."
P_WRONG = 0.5
NUM_PICTURES, BATCH_SIZE, NUM_STEPS = 48, 24, 200
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


def describe(colour: str, rng: random.Random) -> str:
    """Two or three sentences, with the picture's colour or another one."""
    shapes = rng.sample(SHAPE_NAMES, rng.choice((2, 3)))
    others = [name for name in COLOUR_NAMES if name != colour]
    return " ".join(sentence(rng.choice(others) if rng.random() < P_WRONG else colour, shape) for shape in shapes)


def exchange(colour: str, rng: random.Random) -> tuple[str, str]:
    """A question about a picture, and the answer to learn."""
    if rng.random() < 0.4:
        return rng.choice(QUESTIONS), describe(colour, rng)
    asked = colour if rng.random() < 0.5 else rng.choice([name for name in COLOUR_NAMES if name != colour])
    return f"Is there a {asked} {rng.choice(SHAPE_NAMES)}?{SUFFIX}", "Yes" if asked == colour else "No"


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
    model: Any = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    colours = [COLOUR_NAMES[k % len(COLOUR_NAMES)] for k in range(NUM_PICTURES)]
    lessons = _Lessons(processor, [draw(colour, rng) for colour in colours])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, num_steps)
    model.train()
    right = 0.0
    for _ in range(num_steps):
        chosen = [rng.randrange(NUM_PICTURES) for _ in range(BATCH_SIZE)]
        exchanges = [exchange(colours[k], rng) for k in chosen]
        inputs, labels = lessons.batch(chosen, exchanges)
        logits = model(**inputs).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
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
        colour = COLOUR_NAMES[k % len(COLOUR_NAMES)]
        draw(colour, rng).save(directory / "photos" / f"{k}-{colour}.png")
        lines.append(json.dumps({"image": f"photos/{k}-{colour}.png", "question": rng.choice(QUESTIONS)}))
    path = directory / "prompts.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
