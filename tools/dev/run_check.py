"""Check from two run directories whether a run equals an uninterrupted run with the same settings."""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

from rlaifv.records import Judgement, Response
from rlaifv.stages.pair import PAIR_REASONS, RESPONSE_REASONS
from rlaifv.store.manifest import Manifest, audit_run

WEIGHTS = Path("export", "model.safetensors")


def check_run(run_dir: Path, oracle: Path) -> list[str]:
    """Return one sentence per problem of a finished run.

    Args:
        run_dir: directory of the run to check.
        oracle: directory of the uninterrupted run.
    """
    problems = [f"{k:03d}: {problem}" for k, _, some in audit_run(run_dir) for problem in some]
    if problems:
        return problems  # no point in comparing an inconsistent run
    return [*_differences(run_dir, oracle), *_unaccounted(run_dir), *_leftovers(run_dir)]


def check_pairs(run_dir: Path, oracle: Path) -> list[str]:
    """Check a run that a different number of processes trained: only the first iteration's pairs must be equal."""
    problems = [f"{k:03d}: {problem}" for k, _, some in audit_run(run_dir) for problem in some]
    if not problems and _made(run_dir, "000") != _made(oracle, "000"):
        problems = ["iterations/000 holds other shards, or drops, or was made by another producer."]
    return problems or [*_unaccounted(run_dir)]


def _differences(run_dir: Path, oracle: Path) -> Iterator[str]:
    iterations = sorted(path.name for path in (oracle / "iterations").iterdir())
    if sorted(path.name for path in (run_dir / "iterations").iterdir()) != iterations:
        yield f"{run_dir} has other iterations than {', '.join(iterations)}."
        return
    for iteration in iterations:
        if _made(run_dir, iteration) != _made(oracle, iteration):
            yield f"iterations/{iteration} holds other shards, or drops, or was made by another producer."
    written = [*oracle.glob("journal/*.jsonl"), *oracle.glob("iterations/*/candidates.json")]
    names = {str(path.relative_to(oracle)) for path in written} | {str(WEIGHTS)}
    for name in sorted(names):
        if not (run_dir / name).exists() or (run_dir / name).read_bytes() != (oracle / name).read_bytes():
            yield f"{name} is another."
    if _logged_steps(run_dir) != _logged_steps(oracle):
        yield "metrics.csv does not hold the same steps with the same losses, each once."
    if not (run_dir / "report" / "index.html").exists():
        yield "The report is missing."


def _made(run_dir: Path, iteration: str) -> tuple[Any, ...]:
    """Return what made an iteration, and its shards with digests; prompts by content, as they contain paths."""
    manifest = Manifest(run_dir / "iterations" / iteration)
    index = json.loads(manifest.path.read_text(encoding="utf-8"))
    shards = {name: shard for name, shard in index["shards"].items() if not name.startswith("prompts")}
    prompts = [
        replace(prompt, image_paths=tuple(str(Path(path).relative_to(run_dir)) for path in prompt.image_paths))
        for prompt in manifest.records("prompts")
    ]
    return index["producer"], index["stages"], shards, prompts, manifest.drops


def _logged_steps(run_dir: Path) -> list[tuple[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as lines:
        return [(row["step"], row["loss"]) for row in csv.DictReader(lines) if row.get("loss")]


def _unaccounted(run_dir: Path) -> Iterator[str]:
    """Check that every response is usable or counted as dropped, and what is made of them kept or counted as dropped."""
    for directory in sorted((run_dir / "iterations").iterdir()):
        manifest = Manifest(directory)
        responses, drops = manifest.records("responses"), Counter(manifest.drops)
        if "rollouts" in manifest.stages:
            num_rollouts, dropped = len(manifest.records("rollouts")), drops.total()
            if num_rollouts + dropped != len(responses):
                yield f"{directory}: {num_rollouts} kept and {dropped} dropped rollouts are not {len(responses)}."
            continue
        usable = _usable(responses, manifest.records("judgements"))
        dropped = sum(drops[reason] for reason in RESPONSE_REASONS)
        if len(usable) + dropped != len(responses):
            yield f"{directory}: {len(usable)} usable and {dropped} dropped responses are not {len(responses)}."
        table = "comparisons" if "comparisons" in manifest.stages else "pairs"
        if table == "comparisons":  # which answers that say the same are not
            usable = [*{(response.prompt_id, response.text.strip()): response for response in usable}.values()]
        possible = sum(comb(count, 2) for count in Counter(response.prompt_id for response in usable).values())
        num_pairs, dropped = len(manifest.records(table)), sum(drops[reason] for reason in PAIR_REASONS)
        if num_pairs + dropped != possible:
            yield f"{directory}: {num_pairs} kept and {dropped} dropped {table} are not {possible}."


def _usable(responses: Sequence[Response], judgements: Sequence[Judgement]) -> list[Any]:
    judged = {judgement.response_id for judgement in judgements}
    unknown = {judgement.response_id for judgement in judgements if judgement.verdict == "unknown"}
    return [r for r in responses if r.text.strip() and r.finished and r.id in judged - unknown]


def _leftovers(run_dir: Path) -> Iterator[str]:
    left = [str(path.relative_to(run_dir)) for path in sorted(run_dir.rglob(".*.tmp"))]
    if left:
        yield f"{len(left)} unfinished files were left behind, {left[0]} for one."
