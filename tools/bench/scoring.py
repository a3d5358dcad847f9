"""Benchmark questions per second of claim checking: one tree per image against single or batched full sequences.

    python tools/bench/scoring.py --peer single
    python tools/bench/scoring.py --peer batched --grow questions --csv growth.csv

Every question is a separate conversation about the same image; both sides load the image and return P(yes) and P(no).
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from rlaifv.data.images import load_image
from rlaifv.engines.local import LocalEngine
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from tools.bench.harness import (
    Meter,
    Side,
    Size,
    build_model,
    build_processor,
    build_prompts,
    cost_of,
    parser,
    report,
    sizes,
    words,
    write_growth,
)

BATCH = 10  # questions per forward of the batched peer
GROWTH = {"questions": (1, 3, 10, 30, 100), "image_tokens": (1, 64, 256, 576, 1024, 1600, 2304, 2916)}
Answers = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Task:
    """A model, an image and the questions about it."""

    size: Size
    model: Any
    prompter: Prompter
    prompt: Prompt
    questions: list[str]
    meter: Meter


def build_task(size: Size, args: argparse.Namespace, directory: Path) -> Task:
    """Build questions that share their first words, as a labeler's do, and differ in `question_tokens` tokens."""
    meter = Meter(torch.device(args.device), args.clock)
    prompter = Prompter(build_processor(size))
    draw, vocabulary = random.Random(1), size.config.text_config.vocab_size
    # The words " ASSISTANT" and ":" end every question.
    own = [words(size.question_tokens - 2, vocabulary, draw) for _ in range(args.questions)]
    prompt = build_prompts(size, prompter, 1, directory)[0]
    return Task(size, build_model(size, meter.device), prompter, prompt, [f" w1 w2{one}" for one in own], meter)


def ours(task: Task) -> Answers:
    """Answer with the package's engine; a new prompter makes it load the image each time."""
    engine = LocalEngine(task.model, Prompter(task.prompter.processor))
    return engine.answer_probabilities([(task.prompt, task.questions)])[0]


def by_calls(task: Task, batch_size: int) -> Answers:
    """Answer with full sequences, image included, in batches of `batch_size`; logits of the last position only."""
    processor, model = task.prompter.processor, task.model
    yes, no = task.prompter.yes_no_ids()
    found: Answers = []
    for start in range(0, len(task.questions), batch_size):
        some = task.questions[start : start + batch_size]
        messages = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": one}]}] for one in some]
        inputs = processor(
            text=[processor.apply_chat_template(one, add_generation_prompt=True, tokenize=False) for one in messages],
            images=[load_image(task.prompt.image_paths[0]) for _ in some],
            padding=True,
            return_tensors="pt",
            add_special_tokens=False,
        ).to(model.device, model.dtype)
        with torch.no_grad():
            probs = model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].float().softmax(1)
        sums = zip(probs[:, list(yes)].sum(1).tolist(), probs[:, list(no)].sum(1).tolist(), strict=True)
        found += sums
    return found


PEERS: dict[str, Callable[[Task], Answers]] = {
    "single": lambda task: by_calls(task, 1),
    "batched": lambda task: by_calls(task, BATCH),
}


def measure(task: Task, peer: str, repeats: int) -> tuple[Side, Side, float]:
    """Time the two sides alternately, in seconds per question, after a warm-up on two questions.

    Returns:
        Both sides, and the largest difference between their probabilities.
    """
    runs = (ours, PEERS[peer])
    num = len(task.questions)
    few = Task(task.size, task.model, task.prompter, task.prompt, task.questions[:2], task.meter)
    seconds: tuple[list[float], list[float]] = ([], [])
    peaks, answers = [0, 0], [run(few) for run in runs]
    for _ in range(repeats):
        for k, run in enumerate(runs):
            before, start = task.meter.reset_peak(), task.meter.now()
            answers[k] = run(task)
            seconds[k].append((task.meter.now() - start) / num)
            peaks[k] = max(peaks[k], task.meter.peak_bytes() - before)
    difference = (torch.tensor(answers[0]) - torch.tensor(answers[1])).abs().max().item()
    cost, suffix = cost_of(task.size), task.size.question_tokens
    prefix = len(task.prompter.question_ids(task.prompt, task.questions[0])) - suffix
    floor = cost.vision_flops + cost.projector_flops + cost.language_flops(prefix, num, suffix)
    whole = cost.vision_flops + cost.projector_flops + cost.language_flops(prefix + suffix)
    tokens = (prefix + num * suffix) // num, prefix + suffix
    return (
        Side("ours", seconds[0], tokens[0], floor / num + cost.head_flops(1), peaks[0]),
        Side(peer, seconds[1], tokens[1], whole + cost.head_flops(1), peaks[1]),
        difference,
    )


def grow(args: argparse.Namespace) -> None:
    """Write the growth curve of `args.grow`."""

    def run(size: Size, value: int) -> list[float]:
        if args.grow != "image_tokens":
            args.questions = value
        with tempfile.TemporaryDirectory() as directory:
            ours, peer, _ = measure(build_task(size, args, Path(directory)), args.peer, args.repeats)
        return [side.median * args.questions for side in (ours, peer)]

    write_growth(args, args.values or GROWTH[args.grow], run)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    made = parser(__doc__.splitlines()[0], list(PEERS), repeats=3)
    made.add_argument("--questions", type=int, default=100, help="about one image (default: 100)")
    made.add_argument("--grow", choices=list(GROWTH), help="write a growth curve to --csv instead")
    made.add_argument("--values", type=int, nargs="+", help="of what grows")
    made.add_argument("--csv", type=Path, default=Path("growth.csv"))
    args = made.parse_args(arguments)
    if args.grow:
        grow(args)
        return None
    with tempfile.TemporaryDirectory() as directory:
        task = build_task(sizes()[args.size], args, Path(directory))
        our_side, peer, difference = measure(task, args.peer, args.repeats)
        rate = task.meter.matmul_rate(getattr(torch, task.size.dtype))
    settings = {"peer_name": args.peer, "size": args.size, "questions": args.questions, "difference": difference}
    return report(task.meter, "question", our_side, peer, rate, settings)


if __name__ == "__main__":
    main()
