"""Benchmark answers per second of a policy-gradient step: one tree per image against a full sequence per answer.

    python -m tools.bench.rl_step
    python -m tools.bench.rl_step --size 7b --lora

A step computes the old log-probs of K answers to one image, and makes one optimizer step on them. Both sides train the same
weights with the same loss; the conventional one runs all K sequences in one batch, each with its image, and sends only the
answers' tokens through the vocabulary head.
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

from rlaifv.engines.local import LocalEngine
from rlaifv.learners.optimizer import MasterAdamW
from rlaifv.learners.policy_gradient.batch import RolloutCollator
from rlaifv.learners.policy_gradient.losses import surrogate_loss
from rlaifv.models.loading import backbone, select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.models.tree.packing import branch_logps
from rlaifv.records import Prompt, Rollout
from tools.bench.dpo_sides import LEARNING_RATE, LORA, MAX_NORM
from tools.bench.harness import (
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
)


class Bench:
    """The policy, K answers to one image, and the two ways to make a step.

    Args:
        size: of the model and the data.
        num_answers: K.
        lora: adapters on the language model instead of full fine-tuning.
        meter: of time and memory.
        directory: for the image.
    """

    def __init__(self, size: Size, num_answers: int, lora: bool, meter: Meter, directory: Path) -> None:
        self.size, self.lora, self.meter = size, lora, meter
        prompter = Prompter(build_processor(size))
        self.policy: Any = select_trainable(
            build_model(size, meter.device).train(), ["projector", "language_model"], LORA if lora else None
        )
        self.engine = LocalEngine(self.policy, prompter)
        (self.prompt,) = build_prompts(size, prompter, 1, directory)
        draw, vocabulary = random.Random(1), size.config.text_config.vocab_size
        texts = [words(size.answer_tokens - 1, vocabulary, draw) for _ in range(num_answers)]
        self.answers = [prompter.completion_ids(self.prompt, text) for text in texts]
        self.advantages = torch.linspace(-1, 1, num_answers, device=meter.device)
        self.parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        self.optimizer = MasterAdamW(self.parameters, lr=LEARNING_RATE)

    def tree(self) -> torch.Tensor:
        """Return the log-probs float[S] of one pass on a tree, as training makes it."""
        items: list[tuple[Prompt, Rollout]] = [
            (self.prompt, Rollout(str(k), self.prompt.id, ids, True, 0, 0, 0.0, 0.0, (0.0,) * len(ids)))
            for k, ids in enumerate(self.answers)
        ]
        batch = RolloutCollator(LocalEngine(self.policy, Prompter(self.engine.prompter.processor)))(items)
        batch = batch.to(self.meter.device)
        return branch_logps(backbone(self.policy), batch.trees, batch.images)

    def rows(self) -> torch.Tensor:
        """Return the log-probs float[S] of one pass on full sequences."""
        prefix = Prompter(self.engine.prompter.processor).encode(self.prompt)
        ids = torch.tensor([[*prefix.ids, *answer] for answer in self.answers], device=self.meter.device)
        model: Any = backbone(self.policy)
        pixels = prefix.images["pixel_values"].to(self.meter.device, model.dtype)
        hidden = model.base_model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels.repeat(len(ids), 1, 1, 1),
            use_cache=False,
        ).last_hidden_state[:, len(prefix.ids) - 1 : -1]
        logits = model.get_output_embeddings()(hidden).float().flatten(0, 1)
        return -torch.nn.functional.cross_entropy(logits, ids[:, len(prefix.ids) :].flatten(), reduction="none")

    def step(self, logps: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Make old log-probs and one optimizer step, and return the old log-probs."""
        with torch.no_grad():
            old = logps()
        lengths = [len(ids) for ids in self.answers]
        surrogate_loss(logps(), old, self.advantages, lengths, kl_weight=0.04).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return old

    def flops(self) -> tuple[float, float]:
        """Return the least FLOPs of a step per answer on a tree, and those of full sequences.

        A step is a forward pass, and a forward and backward pass that count as 3, or as 2 with adapters.
        """
        cost, size, num = cost_of(self.size), self.size, len(self.answers)
        prefix = size.prompt_tokens + image_tokens(size)
        passes = 1 + (2 if self.lora else 3)
        head = cost.head_flops(size.answer_tokens)
        beside = 2 * cost.vision_flops + passes * cost.projector_flops
        tree = (passes * cost.language_flops(prefix, num, size.answer_tokens) + beside) / num + passes * head
        return tree, passes * (cost.language_flops(prefix + size.answer_tokens) + head) + beside


def measure(bench: Bench, repeats: int) -> tuple[Side, Side, float]:
    """Time the two sides alternately, in seconds per answer, after one untimed step of each.

    Returns:
        Both sides, and the largest difference between their log-probs on the same weights.
    """
    runs = (bench.tree, bench.rows)
    with torch.no_grad():
        difference = (bench.tree() - bench.rows()).abs().max().item()
    seconds: tuple[list[float], list[float]] = ([], [])
    peaks, num = [0, 0], len(bench.answers)
    for repeat in range(repeats + 1):
        for k, run in enumerate(runs):
            before, start = bench.meter.reset_peak(), bench.meter.now()
            bench.step(run)
            if repeat:
                seconds[k].append((bench.meter.now() - start) / num)
                peaks[k] = max(peaks[k], bench.meter.peak_bytes() - before)
    prefix, answer = bench.size.prompt_tokens + image_tokens(bench.size), bench.size.answer_tokens
    flops = bench.flops()
    return (
        Side("ours", seconds[0], prefix // num + answer, flops[0], peaks[0]),
        Side("conventional", seconds[1], prefix + answer, flops[1], peaks[1]),
        difference,
    )


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    made: argparse.ArgumentParser = parser(__doc__.splitlines()[0], ["conventional"], repeats=3)
    made.add_argument("--answers", type=int, default=8, help="to one image (default: 8)")
    made.add_argument("--lora", action="store_true", help="adapters on the language model instead of full fine-tuning")
    args = made.parse_args(arguments)
    meter = Meter(torch.device(args.device), args.clock)
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(sizes()[args.size], args.answers, args.lora, meter, Path(directory))
        ours, peer, difference = measure(bench, args.repeats)
    rate = meter.matmul_rate(getattr(torch, bench.size.dtype))
    settings = {"size": args.size, "answers": args.answers, "lora": args.lora, "difference": difference}
    return report(meter, "answer", ours, peer, rate, {"peer_name": args.peer, **settings})


if __name__ == "__main__":
    main()
