"""Run all benchmarks of a GPU on LLaVA-1.5-7B with random weights, and write one table.

    python -m tools.bench.suite --out table.md

Each benchmark is a process of its own with a time limit, and the table is written after each, so that a run that is cut
leaves what it had. `--size small` rehearses it on a CPU.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Bench:
    """One row of the table: what is measured, with which command."""

    work: str
    module: str
    arguments: tuple[str, ...]


BENCHES = (
    Bench(
        "DPO step, LoRA, 2 pairs a prompt, 2 a step",
        "dpo_step",
        ("--peer", "trl", "--pairs-per-prompt", "2", "--batch-size", "2", "--lora"),
    ),
    Bench(
        "DPO step, LoRA, 2 pairs a prompt, 8 a step",
        "dpo_step",
        ("--peer", "trl", "--pairs-per-prompt", "2", "--batch-size", "8", "--lora"),
    ),
    Bench(
        "DPO step, full, 1 pair a prompt, 2 a step",
        "dpo_step",
        ("--peer", "conventional", "--pairs-per-prompt", "1", "--batch-size", "2"),
    ),
    Bench("policy gradient, LoRA, 8 answers of one image", "rl_step", ("--lora",)),
    Bench("100 questions of one image", "scoring", ("--peer", "batched")),
    Bench("4 images x 10 answers x 100 tokens", "sampling", ("--images", "4")),
)


def row(work: str, found: Mapping[str, Any]) -> str:
    """Return a row of the table from a benchmark's last line."""
    rates = [found["ours"], found["peer"]]
    unit, allowed, floor = found.get("unit"), found.get("flop_ratio"), found.get("flop_floor_ratio")
    peaks = found.get("peak_bytes") or {"ours": found.get("ours_peak_bytes"), "peer": found.get("peer_peak_bytes")}
    if unit is None:  # sampling reports seconds, and has no floor
        rates, unit, allowed, floor = [found["tokens"] / rate for rate in rates], "tokens/s", floor, None
    memory = " / ".join("" if peak is None else f"{peak / 2**30:.1f}" for peak in peaks.values())
    cells = [f"{rates[0]:.3g} {unit}", f"{found.get('peer_name', 'generate')} {rates[1]:.3g}", f"{found['ratio']:.2f}"]
    return "| " + " | ".join([work, *cells, f"{allowed:.1f}", f"{floor:.1f}" if floor else "", memory]) + " |"


def rows(work: str, found: Mapping[str, Any]) -> list[str]:
    """Return the rows of the table from a benchmark's last line: of its peer, and of those that ran beside."""
    beside = [{**found, **figures, "peer_name": name} for name, figures in found.get("beside", {}).items()]
    return [row(work, one) for one in (found, *beside)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "7b"), default="7b")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--limit", type=int, default=100, help="seconds for each benchmark (default: 100)")
    parser.add_argument("--only", nargs="+", help="names of benchmarks: dpo_step, scoring, sampling, …")
    parser.add_argument("--out", type=Path, default=Path("table.md"))
    args = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    lines = [
        f"{device}, torch {torch.__version__}, transformers {transformers.__version__}, size {args.size}",
        "",
        "| work | ours | peer | ratio | FLOPs allow | time over floor | peak GiB beside the weights, ours / peer |",
        "|---|---|---|---|---|---|---|",
    ]
    for bench in BENCHES:
        if args.only and bench.module not in args.only:
            continue
        command = [sys.executable, "-m", f"tools.bench.{bench.module}", *bench.arguments]
        command += ["--size", args.size, "--repeats", str(args.repeats)]
        start = perf_counter()
        print("$", *command[1:], flush=True)
        try:
            done = subprocess.run(  # noqa: S603 - this interpreter, and the arguments above
                command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=args.limit, check=True
            )
            print(done.stdout)
            lines += rows(bench.work, json.loads(done.stdout.splitlines()[-1]))
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            lines.append(f"| {bench.work} | not measured: {type(error).__name__} | | | | | |")
        print(f"{perf_counter() - start:.0f} s", lines[-1], sep="\n", flush=True)
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
