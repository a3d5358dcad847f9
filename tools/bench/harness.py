"""Shared parts of the benchmarks: models and data, timing, peak memory, result table and JSON line."""

import argparse
import csv
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.table import Table
from tokenizers import Regex, Tokenizer, decoders, models
from tokenizers.pre_tokenizers import Split
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from rlaifv.models.budget.architecture import architecture_config
from rlaifv.models.budget.flops import ModelCost, model_cost
from rlaifv.models.budget.layout import image_layout
from rlaifv.models.loading import Dtype
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from rlaifv.runtime.console import console

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER:{% else %} ASSISTANT:{% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% if message['role'] != 'user' %}</s>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
KNOWN_WORDS = (":", "USER", " ASSISTANT", "yes", "Yes", "no", "No")
EPOCHS = 4  # per iteration; work done once per iteration adds 1 / EPOCHS of its cost to a step


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a benchmark: the config of a LLaVA with random weights, and the text tokens of prompts and answers."""

    config: Any
    dtype: Dtype
    prompt_tokens: int = 30
    answer_tokens: int = 100
    question_tokens: int = 40

    def with_image_tokens(self, most: int) -> "Size":
        """Return a copy whose tower takes square images of at most `most` tokens."""
        config: Any = LlavaConfig(**self.config.to_dict())
        config.vision_config.image_size = int(most**0.5) * config.vision_config.patch_size
        return replace(self, config=config)


def sizes() -> dict[str, Size]:
    """Return sizes by name: `small` (55M parameters, for CPUs), `7b` (LLaVA-1.5-7B) and `tiny` (for tests only)."""
    return {
        "tiny": Size(_llava(32, 2, 64, 120, 32, 1, 56), "float32", 12, 9, 10),
        "small": Size(_llava(512, 6, 1376, 32_000, 256, 4, 336), "float32"),
        "7b": Size(architecture_config("llava-hf/llava-1.5-7b-hf"), "bfloat16"),
    }


def _llava(
    hidden: int, num_layers: int, mlp: int, vocabulary: int, vision_hidden: int, vision_layers: int, image_px: int
) -> LlavaConfig:
    heads, vision_heads = max(1, hidden // 64), max(1, vision_hidden // 64)
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision_hidden,
            intermediate_size=4 * vision_hidden,
            num_hidden_layers=vision_layers,
            num_attention_heads=vision_heads,
            image_size=image_px,
            patch_size=14,
            projection_dim=vision_hidden,
        ),
        text_config=LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=mlp,
            num_hidden_layers=num_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=16_384,
        ),
        image_token_index=4,
        image_seq_length=(image_px // 14) ** 2,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )


def build_model(size: Size, device: torch.device) -> nn.Module:
    """Build a model with random weights that are the same in every call."""
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(size.config, dtype=getattr(torch, size.dtype))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 3, 0
    return model.eval()


def build_processor(size: Size) -> LlavaProcessor:
    """Build a processor with a word-level tokenizer (` w7` is one token) and an image processor that fits the tower."""
    special = {0: "<pad>", 1: "<unk>", 2: "<s>", 3: "</s>", size.config.image_token_id: "<image>"}
    free = [k for k in range(size.config.text_config.vocab_size) if k not in special]
    words = [*KNOWN_WORDS, *(f" w{k}" for k in range(len(free) - len(KNOWN_WORDS)))]
    vocabulary = {token: k for k, token in special.items()} | dict(zip(words, free, strict=True))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(r" ?\w+|[^\w\s]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    vision = size.config.vision_config
    square = {"height": vision.image_size, "width": vision.image_size}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": vision.image_size}, crop_size=square),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
            additional_special_tokens=["<image>"],
            padding_side="left",
        ),
        patch_size=vision.patch_size,
        vision_feature_select_strategy=size.config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def words(num_words: int, vocabulary: int, draw: random.Random) -> str:
    """Return random text of exactly `num_words` tokens."""
    return "".join(f" w{draw.randrange(vocabulary - 20)}" for _ in range(num_words))


def build_prompts(size: Size, prompter: Prompter, num_prompts: int, directory: Path) -> list[Prompt]:
    """Build prompts of exactly `prompt_tokens` text tokens plus an image each; images are written to `directory`."""
    draw = random.Random(0)
    vocabulary = size.config.text_config.vocab_size
    prompts = []
    for k in range(num_prompts):
        path = directory / f"{k}.png"
        noise = Image.frombytes("RGB", (24, 18), draw.randbytes(3 * 24 * 18))
        noise.resize((640, 480), Image.Resampling.BICUBIC).save(path)
        empty = len(prompter.question_ids(Prompt("", "", (str(path),)), "")) - image_tokens(size)
        question = words(size.prompt_tokens - empty, vocabulary, draw)
        prompts.append(Prompt(f"prompt-{k}", question, (str(path),)))
    return prompts


def image_tokens(size: Size) -> int:
    """Return the number of placeholder tokens of an image."""
    return image_layout(size.config).num_tokens


def cost_of(size: Size) -> ModelCost:
    """Return the FLOPs of the model's parts."""
    return model_cost(size.config, image_layout(size.config))


@dataclass(frozen=True, slots=True)
class Meter:
    """Measure time and memory on a device. `clock="cpu"` counts CPU seconds of this process, for shared machines."""

    device: torch.device
    clock: str = "wall"

    def now(self) -> float:
        """Return the current time in seconds after synchronizing the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self.clock == "cpu" else time.perf_counter()

    def seconds(self, run: Callable[[], object]) -> float:
        start = self.now()
        run()
        return self.now() - start

    def reset_peak(self) -> int:
        """Reset the peak and return the bytes in use."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        with suppress(OSError):  # only Linux has a peak that can be reset
            Path("/proc/self/clear_refs").write_text("5")
        return self.peak_bytes()

    def peak_bytes(self) -> int:
        """Return the peak memory since `reset_peak`: allocated (GPU) or resident (CPU) bytes; 0 if unknown."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0

    def matmul_rate(self, dtype: torch.dtype) -> float:
        """Return the FLOP/s of a large matrix product, used to convert the FLOP floor to seconds."""
        n = 1024 if self.device.type == "cpu" else 8192
        a = torch.randn(n, n, device=self.device, dtype=dtype)
        a @ a
        return 2 * n**3 / statistics.median(self.seconds(lambda: a @ a) for _ in range(5))

    def describe(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name()
        return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


@dataclass(frozen=True, slots=True)
class Side:
    """Measurements of one of the two compared implementations: seconds per unit of work for each repeat, and its cost.

    `tokens` and `flops` are per unit; `peak_bytes` is the peak memory on top of what was in use before (the weights).
    """

    name: str
    seconds: Sequence[float]
    tokens: int
    flops: float
    peak_bytes: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def report(
    meter: Meter,
    unit: str,
    ours: Side,
    peer: Side,
    rate: float,
    extra: Mapping[str, Any],
    beside: Sequence[Side] = (),
) -> dict[str, Any]:
    """Print a table and, as the last line, JSON.

    `ours` and `peer` are units per second at the median; `ratio` is our speedup. `ratio_of_fastest` compares the
    fastest repeats, which are least disturbed by other load on the machine. `flop_ratio` is the speedup expected from
    the FLOPs. `flop_floor_ratio` is our time divided by the time that the minimum FLOPs would take at the rate of a
    large matrix product. `beside` has the figures of further peers, by name.
    """
    table = Table(
        "", f"{unit}s/s", f"s per {unit}", "range", "tokens", "TFLOP", "peak GiB", title=f"{unit}s per second"
    )
    for side in (ours, peer, *beside):
        table.add_row(
            side.name,
            f"{1 / side.median:.3f}",
            f"{side.median:.4f}",
            f"{min(side.seconds):.4f}-{max(side.seconds):.4f}",
            str(side.tokens),
            f"{side.flops / 1e12:.4f}",
            f"{side.peak_bytes / 2**30:.2f}",
        )
    console.print(table)
    result = {
        "unit": f"{unit}s/s",
        **_compared(ours, peer),
        "flop_floor_ratio": ours.median * rate / ours.flops,
        "device": meter.describe(),
        "clock": meter.clock,
        **extra,
    }
    if beside:
        result["beside"] = {side.name: _compared(ours, side) for side in beside}
    print(json.dumps(result))
    return result


def _compared(ours: Side, peer: Side) -> dict[str, Any]:
    return {
        "ours": 1 / ours.median,
        "peer": 1 / peer.median,
        "ratio": peer.median / ours.median,
        "ratio_of_fastest": min(peer.seconds) / min(ours.seconds),
        "tokens": {"ours": ours.tokens, "peer": peer.tokens},
        "flop_ratio": peer.flops / ours.flops,
        "peak_bytes": {"ours": ours.peak_bytes, "peer": peer.peak_bytes},
    }


def parser(description: str, peers: Sequence[str], repeats: int) -> argparse.ArgumentParser:
    """Build the argument parser with the options common to all benchmarks."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--size", choices=list(sizes()), default="small", help="model and data (default: small)")
    made.add_argument("--peer", choices=peers, default=peers[0], help="what to compare with")
    made.add_argument("--repeats", type=int, default=repeats, help=f"timed repeats of each side (default: {repeats})")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine that is shared")
    return made


def write_growth(args: argparse.Namespace, values: Sequence[int], run: Callable[[Size, int], Sequence[float]]) -> None:
    """Write a CSV of both sides' seconds against the growing quantity, a row as soon as it is measured.

    Args:
        args: command-line arguments: `grow` names the quantity, `csv` the file, `size` and `peer` the task.
        values: of the quantity.
        run: measures the task of a size and a value; returns the seconds of our side and of the peer's.
    """
    with args.csv.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([args.grow, "ours_seconds", f"{args.peer}_seconds"])
        for value in values:
            size = sizes()[args.size]
            if args.grow == "image_tokens":
                size = size.with_image_tokens(value)
            writer.writerow([value, *(f"{seconds:.5f}" for seconds in run(size, value))])
            file.flush()
