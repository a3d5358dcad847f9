"""Benchmark pairs per second of a DPO step on prompt trees against TRL's DPOTrainer or a conventional step.

python tools/bench/dpo_step.py --peer trl --pairs-per-prompt 2
python tools/bench/dpo_step.py --peer conventional --grow image_tokens --csv growth.csv
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from rlaifv.models.prompting import Prompter
from rlaifv.records import Pair
from tools.bench.dpo_sides import Conventional, Ours, Task, Trl
from tools.bench.harness import (
    EPOCHS,
    Meter,
    Side,
    Size,
    build_model,
    build_processor,
    build_prompts,
    cost_of,
    image_tokens,
    parser,
    report,
    sizes,
    words,
    write_growth,
)

GROWTH = {"pairs": (1, 2, 3, 4, 6, 8), "image_tokens": (1, 64, 256, 576, 1024, 1600, 2304, 2916)}


def build_task(size: Size, args: argparse.Namespace, directory: Path) -> Task:
    """Build enough prompts and pairs for one untimed and `steps` timed optimizer steps."""
    meter = Meter(torch.device(args.device), args.clock)
    prompter = Prompter(build_processor(size))
    num_pairs = max(args.batch_size, args.pairs_per_prompt) * (args.steps + 1)
    prompts = build_prompts(size, prompter, num_pairs // args.pairs_per_prompt, directory)
    draw, vocabulary = random.Random(1), size.config.text_config.vocab_size
    pairs = []
    for prompt in prompts:
        for k in range(args.pairs_per_prompt):
            chosen, rejected = (words(size.answer_tokens - 1, vocabulary, draw) for _ in range(2))
            ids = [prompter.completion_ids(prompt, text) for text in (chosen, rejected)]
            pairs.append(Pair(f"{prompt.id}/{k}", prompt.id, "", "", chosen, rejected, ids[0], ids[1], 0.0, -1.0))
    return Task(
        size,
        build_model(size, meter.device),
        prompter,
        prompts,
        pairs,
        args.pairs_per_prompt,
        max(args.batch_size, args.pairs_per_prompt),
        args.lora,
        args.recompute,
        meter,
        directory,
    )


PEERS: dict[str, Callable[[Task], Trl | Conventional]] = {"trl": Trl, "conventional": Conventional}


def floor_flops(task: Task) -> float:
    """Return the minimum FLOPs per pair: forward and backward of the policy, plus 1 / EPOCHS of reference and tower.

    Forward and backward count as 3 forward passes, or 2 with LoRA.
    """
    cost, size = cost_of(task.size), task.size
    branches, prefix = 2 * task.pairs_per_prompt, size.prompt_tokens + image_tokens(size)
    forward = cost.language_flops(prefix, branches, size.answer_tokens) + cost.head_flops(branches * size.answer_tokens)
    passes = (2 if task.lora else 3) + 1 / EPOCHS
    return (passes * forward + cost.vision_flops / EPOCHS + 3 * cost.projector_flops) / task.pairs_per_prompt


def peer_flops(task: Task) -> float:
    """Return the FLOPs per pair on full sequences with an image each, running policy and reference in every step."""
    cost, size = cost_of(task.size), task.size
    whole = size.prompt_tokens + image_tokens(size) + size.answer_tokens
    forward = cost.language_flops(whole) + cost.head_flops(size.answer_tokens)
    passes = (2 if task.lora else 3) + task.recompute + 1
    return 2 * (passes * forward + 2 * cost.vision_flops + 4 * cost.projector_flops)


def measure(task: Task, peer: str, repeats: int) -> tuple[Side, Side]:
    """Time the two sides alternately, in seconds per pair; the first step of each repeat is not timed."""
    sides: tuple[Ours | Trl | Conventional, ...] = (Ours(task), PEERS[peer](task))
    seconds: tuple[list[float], list[float]] = ([], [])
    peaks = [0, 0]
    for _ in range(repeats):
        for k, side in enumerate(sides):
            before = task.meter.reset_peak()
            seconds[k].extend(step / task.batch_size for step in side.run())
            peaks[k] = max(peaks[k], task.meter.peak_bytes() - before)
    prefix, answer = task.size.prompt_tokens + image_tokens(task.size), task.size.answer_tokens
    tokens = (prefix + 2 * task.pairs_per_prompt * answer) // task.pairs_per_prompt, 2 * (prefix + answer)
    ours = Side("ours", seconds[0], tokens[0], floor_flops(task), peaks[0])
    return ours, Side(peer, seconds[1], tokens[1], peer_flops(task), peaks[1])


def grow(args: argparse.Namespace) -> None:
    """Write the growth curve of `args.grow`."""

    def run(size: Size, value: int) -> list[float]:
        if args.grow != "image_tokens":
            args.pairs_per_prompt = args.batch_size = value
        with tempfile.TemporaryDirectory() as directory:
            ours, peer = measure(build_task(size, args, Path(directory)), args.peer, args.repeats)
        return [side.median * args.pairs_per_prompt for side in (ours, peer)]

    write_growth(args, args.values or GROWTH[args.grow], run)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    made = parser(__doc__.splitlines()[0], list(PEERS), repeats=3)
    made.add_argument("--pairs-per-prompt", type=int, default=1)
    made.add_argument("--batch-size", type=int, default=4, help="pairs per optimizer step (default: 4)")
    made.add_argument("--steps", type=int, default=2, help="timed steps of each repeat (default: 2)")
    made.add_argument("--lora", action="store_true", help="adapters on the language model instead of full fine-tuning")
    made.add_argument("--recompute", action="store_true", help="gradient checkpointing on both sides")
    made.add_argument("--grow", choices=list(GROWTH), help="write a growth curve to --csv instead")
    made.add_argument("--values", type=int, nargs="+", help="of what grows")
    made.add_argument("--csv", type=Path, default=Path("growth.csv"))
    args = made.parse_args(arguments)
    if args.grow:
        grow(args)
        return None
    with tempfile.TemporaryDirectory() as directory:
        task = build_task(sizes()[args.size], args, Path(directory))
        ours, peer = measure(task, args.peer, args.repeats)
        rate = task.meter.matmul_rate(getattr(torch, task.size.dtype))
    settings = {name: getattr(args, name) for name in ("size", "pairs_per_prompt", "batch_size", "lora", "recompute")}
    return report(task.meter, "pair", ours, peer, rate, {"peer_name": args.peer, **settings})


if __name__ == "__main__":
    main()
