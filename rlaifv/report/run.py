"""Read a run directory into plain data. Missing files are skipped; broken files raise an error that names them.

A directory may hold any part of a run: only the base model's evaluation, no evaluation at all, no metrics.csv.
"""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from rlaifv.records import Verdict
from rlaifv.runtime.phases import SECONDS_NAME, read_seconds
from rlaifv.store.iteration import statistics_path


@dataclass(frozen=True, slots=True)
class JudgedClaim:
    """A claim with the labeler's judgement and, if known, whether it is true."""

    text: str
    question: str
    p_yes: float | None
    p_no: float | None
    verdict: Verdict
    truth: bool | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """An answer of an evaluation. `truth` holds all true sentences about the image; None if they are unknown."""

    prompt_id: str
    question: str
    image_path: str
    response: str
    claims: tuple[JudgedClaim, ...]
    truth: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics and example answers of the policy after `num_iterations` iterations (0 is the base model)."""

    num_iterations: int
    metrics: dict[str, float]
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """Candidate selection of an iteration: (epoch, metrics) of each candidate, the start of the iteration first.

    `chosen` is the index of the selected candidate; `by` is the selection criterion: labeler, truth or last.
    """

    iteration: int
    by: str
    candidates: tuple[tuple[float, dict[str, float]], ...]
    chosen: int


@dataclass(frozen=True, slots=True)
class Run:
    """Content of a run directory.

    `evaluations` are in ascending order of iterations. `statistics[k]` belongs to iteration k; the tuple ends before
    the first iteration without statistics. `training` holds the numbers of metrics.csv, one dict per optimizer step, in
    ascending order of "step". `selections` covers the iterations with candidate selection; `seconds` is the time by
    phase.
    """

    run_dir: Path
    config: str | None
    evaluations: tuple[Evaluation, ...]
    statistics: tuple[dict[str, float], ...]
    training: tuple[dict[str, float], ...]
    selections: tuple[Selection, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def read_run(run_dir: Path) -> Run:
    """Read everything in a run directory except the shards.

    Raises:
        ValueError: The directory is not a run directory, or a file in it is broken; the message names the file.
    """
    if not any((run_dir / name).exists() for name in ("config.yaml", "iterations", "evaluations")):
        raise ValueError(
            f"{run_dir} is not a run directory: it holds neither config.yaml, iterations/ nor evaluations/."
        )
    config_path = run_dir / "config.yaml"
    return Run(
        run_dir=run_dir,
        config=config_path.read_text(encoding="utf-8", errors="replace") if config_path.is_file() else None,
        evaluations=read_evaluations(run_dir),
        statistics=read_statistics(run_dir),
        training=_read_training(run_dir / "metrics.csv"),
        selections=tuple(map(_selection, sorted((run_dir / "iterations").glob("*/candidates.json")))),
        seconds=read_seconds(run_dir / SECONDS_NAME),
    )


def read_evaluations(run_dir: Path) -> tuple[Evaluation, ...]:
    """Read all evaluations/NNN.json in ascending order of the number of iterations."""
    paths = sorted(path for path in (run_dir / "evaluations").glob("*.json") if path.stem.isdecimal())
    return tuple(sorted((_evaluation(path) for path in paths), key=lambda evaluation: evaluation.num_iterations))


def read_statistics(run_dir: Path) -> tuple[dict[str, float], ...]:
    """Read the statistics of iterations 0, 1, … up to the first incomplete iteration, which has none."""
    statistics: list[dict[str, float]] = []
    while (path := statistics_path(run_dir, len(statistics))).is_file():
        statistics.append(numbers(_read_json(path), str(path)))
    return tuple(statistics)


def numbers(values: Any, where: str) -> dict[str, float]:
    """Return the finite numbers of a flat mapping; null and non-finite values are dropped.

    Raises:
        ValueError: `values` is not a mapping, or one of its values is not a number; the message starts with `where`.
    """
    table = values if isinstance(values, Mapping) else None
    if table is None:
        raise ValueError(f"{where} must hold a table of numbers, not {type(values).__name__}.")
    wrong = [name for name, value in table.items() if not isinstance(value, int | float | None)]
    if wrong:
        raise ValueError(f"{where}: {wrong[0]!r} must be a number, not {type(table[wrong[0]]).__name__}.")
    return {name: float(value) for name, value in table.items() if value is not None and math.isfinite(value)}


def verdict_of(value: Any) -> Verdict:
    """Return `value` if it is a valid verdict, else "unknown"."""
    return value if value in get_args(Verdict) else "unknown"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error


def _evaluation(path: Path) -> Evaluation:
    data = _read_json(path)
    try:
        return Evaluation(
            num_iterations=int(data["num_iterations"]),
            metrics=numbers(data["metrics"], f"{path}, metrics"),
            examples=tuple(_example(example) for example in data.get("examples", ())),
        )
    except KeyError as error:
        raise ValueError(f"{path} lacks the key {error}.") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not have the shape of an evaluation: {error}.") from error


def _selection(path: Path) -> Selection:
    data = _read_json(path)
    try:
        found = [data["start"], *data["candidates"]]
        return Selection(
            iteration=int(path.parent.name),
            by=str(data["by"]),
            candidates=tuple((float(one["epoch"]), numbers(one["metrics"], f"{path}, metrics")) for one in found),
            chosen=[one["step"] for one in found].index(data["chosen"], 1),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not have the shape of a choice among candidates: {error}.") from error


def _example(data: Mapping[str, Any]) -> Example:
    return Example(
        prompt_id=str(data["prompt_id"]),
        question=str(data["question"]),
        image_path=data["image_path"] or "",
        response=str(data["response"]),
        claims=tuple(_claim(claim) for claim in data["claims"]),
        truth=None if data.get("truth") is None else tuple(str(sentence) for sentence in data["truth"]),
    )


def _claim(data: Mapping[str, Any]) -> JudgedClaim:
    return JudgedClaim(
        text=str(data["text"]),
        question=str(data["question"]),
        p_yes=_finite(data["p_yes"]),
        p_no=_finite(data["p_no"]),
        verdict=verdict_of(data["verdict"]),
        truth=None if data.get("truth") is None else bool(data["truth"]),
    )


def _read_training(path: Path) -> tuple[dict[str, float], ...]:
    """Read the rows of a metrics.csv, merged by step: Lightning may write several rows per step with blank cells.

    A resumed run may repeat the steps after its checkpoint; later values replace earlier ones.
    """
    if not path.is_file():
        return ()
    steps: dict[float, dict[str, float]] = {}
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            values = {name: value for name, text in row.items() if (value := _finite(text)) is not None}
            if "step" in values:
                steps.setdefault(values["step"], {}).update(values)
    return tuple(steps[step] for step in sorted(steps))


def _finite(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
