"""Describe a score: what was scored, from which files, and under which protocol.

Numbers with equal fingerprints may be compared: prompts, decoding, parser, judge, mode and edition are the same.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeGuard

from rlaifv.benchmarks.files import digest
from rlaifv.benchmarks.protocol import Benchmark, Given, JudgedBenchmark

# Fields of `Given` that every benchmark takes.
COMMON = ("answers", "rounding", "allow_incomplete")
# Those that take reviews, but have another way without.
WITHOUT_REVIEWS = ("object_halbench", "hallusionbench")
FINGERPRINT_CHARS = 12


def check_given(benchmark: Benchmark, given: Given) -> None:
    """Refuse options that the benchmark would ignore.

    Raises:
        ValueError: a field is given that it does not use, or a value that it does not know.
    """
    usable = {*COMMON, *benchmark.uses}
    for one in fields(Given):
        if getattr(given, one.name) != one.default and one.name not in usable:
            known = ", ".join(field.name for field in fields(Given) if field.name in usable)
            raise ValueError(f"{one.name}=… has no effect on benchmark={benchmark.name}, which takes {known}.")
    for name, value, choices in (
        ("parser", given.parser, benchmark.parsers),
        ("invalid_judge", given.invalid_judge, ("official", "skip", "raise")),
        ("rounding", given.rounding, ("official", "none")),
    ):
        if value not in choices:
            raise ValueError(f"{name}={value} must be one of {', '.join(choices)} for benchmark={benchmark.name}.")


def is_judged(benchmark: Benchmark) -> TypeGuard[JudgedBenchmark]:
    """Return whether a judge reads its answers."""
    return hasattr(benchmark, "conversations")


def needs_reviews(benchmark: Benchmark) -> bool:
    """Return whether the benchmark cannot be scored without reviews."""
    return "reviews" in benchmark.uses and benchmark.name not in WITHOUT_REVIEWS


def outcome(
    benchmark: Benchmark,
    given: Given,
    prompt: Mapping[str, Any] | None = None,
    decoding: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score answers, and describe the score, ready for JSON.

    Args:
        benchmark: what to score by.
        given: its files and choices.
        prompt: what is known about how the questions were put; None where answers come from elsewhere.
        decoding: and about how the answers were made.

    Raises:
        ValueError: see `check_given` and `Benchmark.score`.
    """
    check_given(benchmark, given)
    result = benchmark.score(given)
    protocol: dict[str, Any] = {
        "benchmark": benchmark.name,
        "prompt": None if prompt is None else dict(prompt),
        "decoding": None if decoding is None else dict(decoding),
        "parser": given.parser,
        "rounding": given.rounding,
    }
    if "reviews" in benchmark.uses:
        protocol |= {"judge": given.judge, "invalid_judge": given.invalid_judge}
    protocol = without_nan(protocol | result.protocol)
    metrics = without_nan(result.metrics)
    described = {
        "benchmark": benchmark.name,
        "metrics": metrics,
        "counts": dict(result.counts),
        "invalid_answers": result.num_invalid,
        "version": result.version,
        "files": dict(_files(given)),
        "protocol": protocol,
        "fingerprint": fingerprint(protocol | {"version": result.version}),
        "warnings": list(result.warnings),
    }
    # Also beside the rest, for whoever wants one number: result["chair"].
    return described | {name: value for name, value in metrics.items() if name not in described}


def not_scored(
    benchmark: Benchmark, counts: dict[str, int], prompt: Mapping[str, Any], decoding: Mapping[str, Any], why: str
) -> dict[str, Any]:
    """Return an outcome without scores; `why` is the reason, as a sentence."""
    protocol = {"benchmark": benchmark.name, "prompt": dict(prompt), "decoding": dict(decoding), "judge": None}
    return {
        "benchmark": benchmark.name,
        "metrics": {},
        "counts": counts,
        "invalid_answers": 0,
        "version": "",
        "files": {},
        "protocol": protocol,
        "fingerprint": fingerprint(protocol),
        "warnings": [why],
    }


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """Return a hash of a protocol that does not depend on the order of keys."""
    text = json.dumps(protocol, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_CHARS]


def without_nan(value: Any) -> Any:
    """Convert a value for JSON: non-finite numbers to None, tuples to lists."""
    if isinstance(value, Mapping):
        return {str(name): without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    if hasattr(value, "item"):  # of torch and NumPy
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def flat_metrics(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Yield numbers of nested metrics under names joined by slashes.

    >>> dict(flat_metrics({"mean": {"f1": 85.9}, "n": 3}))
    {'mean/f1': 85.9, 'n': 3}
    """
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flat_metrics(value, f"{prefix}{name}/")
        elif value is None or isinstance(value, int | float):
            yield f"{prefix}{name}", value


def _files(given: Given) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and SHA-256 of what was scored; of a directory, of the files that lie in it. Images are not read for a score."""
    for field in fields(Given):
        path = getattr(given, field.name)
        if isinstance(path, Path) and field.name != "images" and path.exists():
            yield field.name, {"path": path.name, "sha256": _digest(path)}


def _digest(path: Path) -> str:
    if path.is_file():
        return digest(path)
    inside = sorted(file for file in path.iterdir() if file.is_file())
    return hashlib.sha256("".join(f"{file.name}\0{digest(file)}\0" for file in inside).encode()).hexdigest()
