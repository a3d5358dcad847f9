"""Benchmark answers per second of a policy-gradient step: one tree per image against a full sequence per answer.

    python -m tools.bench.rl_step
    python -m tools.bench.rl_step --critic
    python -m tools.bench.rl_step --size 7b --lora --peer trl

A step computes the old log-probs of K answers to one image, and makes one optimizer step on them. All sides train the same
weights with the same loss. The conventional one runs all K sequences in one batch, each with its image, and sends only the
answers' tokens through the vocabulary head; TRL's GRPOTrainer is given the answers and their advantages, and is left out
where it is not installed. Before anything is timed, the log-probs of all sides are compared, and other ones are refused.
"""

import argparse
import importlib.util
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from rlaifv.engines.local import LocalEngine
from rlaifv.learners.optimizer import MasterAdamW
from rlaifv.learners.policy_gradient.batch import RolloutCollator
from rlaifv.learners.policy_gradient.losses import surrogate_loss, value_loss
from rlaifv.models.loading import backbone, select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.models.tree.packing import hidden_states, target_logps
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
from tools.bench.rl_trl import Trl

KL_WEIGHT, VALUE_WEIGHT, VALUE_CLIP = 0.04, 0.1, 0.2
# How far log-probs of two sides may be apart, averaged over tokens. Those of random other tokens would be 0.5 apart in
# `small`: logits have a standard deviation of 0.02 * sqrt(512).
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}


class Bench:
    """The policy, K answers to one image, and our way and the conventional one to make a step.

    Args:
        size: of the model and the data.
        num_answers: K.
        lora: adapters on the language model instead of full fine-tuning.
        meter: of time and memory.
        directory: for the image.
        critic: a head on the policy's states, whose values of before are made with the old log-probs, trains too.
    """

    def __init__(
        self, size: Size, num_answers: int, lora: bool, meter: Meter, directory: Path, critic: bool = False
    ) -> None:
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
        width = size.config.text_config.hidden_size
        self.value_head = torch.nn.Linear(width, 1, device=meter.device) if critic else None
        self.parameters += self.value_head.parameters() if self.value_head else ()
        self.optimizer = MasterAdamW(self.parameters, lr=LEARNING_RATE)

    def tree(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-probs float[S] of one pass on a tree, as training makes it, and the states float[S, D] before."""
        items: list[tuple[Prompt, Rollout]] = [
            (self.prompt, Rollout(str(k), self.prompt.id, ids, True, 0, 0, 0.0, 0.0, (0.0,) * len(ids)))
            for k, ids in enumerate(self.answers)
        ]
        batch = RolloutCollator(LocalEngine(self.policy, Prompter(self.engine.prompter.processor)))(items)
        batch = batch.to(self.meter.device)
        hidden = hidden_states(backbone(self.policy), batch.trees, batch.images, batch.trees.score_index)
        return target_logps(backbone(self.policy), hidden, batch.trees.targets), hidden

    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-probs float[S] of one pass on full sequences, and the states float[S, D] before."""
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
        hidden = hidden.flatten(0, 1)
        logits, targets = model.get_output_embeddings()(hidden).float(), ids[:, len(prefix.ids) :].flatten()
        return -torch.nn.functional.cross_entropy(logits, targets, reduction="none"), hidden

    def step(self, run: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Make old log-probs and one optimizer step, both by a pass of `run`."""
        with torch.no_grad():
            old, old_hidden = run()
        lengths = [len(ids) for ids in self.answers]
        logps, hidden = run()
        loss = surrogate_loss(logps, old, self.advantages, lengths, kl_weight=KL_WEIGHT).loss
        if self.value_head is not None:
            of_tokens = self.advantages.repeat_interleave(torch.tensor(lengths, device=self.advantages.device))
            old_values = self.value_head(old_hidden.float())[:, 0].detach()
            values = self.value_head(hidden.detach().float())[:, 0]
            error = value_loss(values, old_values, old_values + of_tokens, lengths, VALUE_CLIP, "token")
            loss = loss + VALUE_WEIGHT * error
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def trl(self, directory: Path) -> Trl:
        """Return TRL's trainer of the same policy on the same answers."""
        prompter = self.engine.prompter
        return Trl(
            self.policy,
            prompter.processor,
            self.prompt,
            prompter.encode(self.prompt).ids,
            self.answers,
            self.advantages,
            KL_WEIGHT,
            LEARNING_RATE,
            MAX_NORM,
            self.meter,
            directory,
        )

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


def distance(ours: torch.Tensor, theirs: torch.Tensor, name: str, dtype: str) -> float:
    """Return the largest difference between two sides' log-probs float[S] on the same weights.

    Raises:
        ValueError: the sides do not compute the same.
    """
    apart = (ours - theirs).abs()
    if not apart.mean() <= TOLERANCE[dtype]:
        raise ValueError(f"Nothing is timed: log-probs of {name} differ from ours by {apart.mean():.2g} per token.")
    return apart.max().item()


def measure(bench: Bench, trl: Trl | None, conventional: bool, repeats: int) -> tuple[list[Side], dict[str, float]]:
    """Time the sides alternately, in seconds per answer, after one untimed step of each.

    Returns:
        The sides, ours first, and how far the log-probs of each other one are from ours at most.
    """
    meter, dtype = bench.meter, bench.size.dtype
    steps: dict[str, Callable[[], float]] = {"ours": partial(meter.seconds, partial(bench.step, bench.tree))}
    differences: dict[str, float] = {}
    with torch.no_grad():
        ours = bench.tree()[0]
        if conventional:
            steps["conventional"] = partial(meter.seconds, partial(bench.step, bench.rows))
            differences["conventional"] = distance(ours, bench.rows()[0], "the conventional side", dtype)
        if trl is not None:
            steps["trl"] = trl.step
            differences["trl"] = distance(ours, trl.logps(), "TRL", dtype)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks, num = dict.fromkeys(steps, 0), len(bench.answers)
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            before, taken = meter.reset_peak(), step()
            if repeat:
                seconds[name].append(taken / num)
                peaks[name] = max(peaks[name], meter.peak_bytes() - before)
    prefix, answer = bench.size.prompt_tokens + image_tokens(bench.size), bench.size.answer_tokens
    flops = bench.flops()
    tokens = {name: (prefix // num if name == "ours" else prefix) + answer for name in steps}
    return [Side(name, seconds[name], tokens[name], flops[name != "ours"], peaks[name]) for name in steps], differences


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    made: argparse.ArgumentParser = parser(__doc__.splitlines()[0], ["all", "conventional", "trl"], repeats=3)
    made.add_argument("--answers", type=int, default=8, help="to one image (default: 8)")
    made.add_argument("--lora", action="store_true", help="adapters on the language model instead of full fine-tuning")
    made.add_argument("--critic", action="store_true", help="train a value head too; TRL has none, and is left out")
    args = made.parse_args(arguments)
    if args.critic and args.peer == "trl":
        made.error("--critic: TRL's GRPOTrainer has none; compare with the conventional side.")
    with_trl = args.peer != "conventional" and not args.critic
    if args.peer == "all" and with_trl and importlib.util.find_spec("trl") is None:
        print("TRL is not installed, and is left out.")
        with_trl = False
    meter = Meter(torch.device(args.device), args.clock)
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(sizes()[args.size], args.answers, args.lora, meter, Path(directory), args.critic)
        trl = bench.trl(Path(directory)) if with_trl else None
        (ours, peer, *beside), differences = measure(bench, trl, args.peer != "trl", args.repeats)
    rate = meter.matmul_rate(getattr(torch, bench.size.dtype))
    settings = {name: getattr(args, name) for name in ("size", "answers", "lora", "critic")}
    extra = {"peer_name": peer.name, **settings, "difference": max(differences.values()), "differences": differences}
    return report(meter, "answer", ours, peer, rate, extra, beside)


if __name__ == "__main__":
    main()
