"""Scores of models as they are stored, and whether two of them may stand in one column."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.files import field_of, read_json, read_rows, read_text

# What differs between models by nature; other files say what was asked.
_OWN_FILES = ("answers", "reviews", "nouns", "objects")
_MISSING = object()


@dataclass(frozen=True, slots=True)
class StoredResult:
    """One model on one benchmark.

    Attributes:
        benchmark: as on the command line.
        model: a name, the file's own where none is stored.
        metrics: by name, nested names joined by "/"; None where a formula divides by zero.
        protocol: what a comparison depends on, the version of the benchmark included, nested names joined by "/".
        fingerprint: equal for equal protocols.
        files: digests of what was read, by the name of the option.
        path: the file that it was read from.
    """

    benchmark: str
    model: str
    metrics: dict[str, float | None]
    protocol: dict[str, Any]
    fingerprint: str
    files: dict[str, str]
    path: Path


def read_results(path: Path) -> list[StoredResult]:
    """Return the results of a file: one JSON object, a list of them, or JSON Lines.

    Raises:
        ValueError: the file does not exist, holds none, or one of them is not of the form that the score command prints; the
            message names file, row and field.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist.")
    text = read_text(path).strip()
    whole = text.startswith("{") and "\n{" not in text
    rows = [read_json(path)] if whole else read_rows(path)
    if not rows:
        raise ValueError(f"{path} holds no result.")
    return [_result(row, number, path) for number, row in enumerate(rows, start=1)]


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables as one, names joined by "/".

    >>> flat({"mean": {"f1": 85.9}, "n": 3})
    {'mean/f1': 85.9, 'n': 3}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": one for inner, one in flat(value).items()}
        else:
            found[str(name)] = value
    return found


def check_comparable(results: Sequence[StoredResult]) -> None:
    """Refuse to compare scores that were made in different ways, and two scores of one model.

    Raises:
        ValueError: two results of one benchmark have different fingerprints, or one model has two results under the same.
    """
    first: dict[str, StoredResult] = {}
    for result in results:
        other = first.setdefault(result.benchmark, result)
        if other.fingerprint != result.fingerprint:
            raise ValueError(
                f"{_named(other)} and {_named(result)} were scored on {result.benchmark} under different protocols "
                f"({other.fingerprint} and {result.fingerprint}): {_difference(other, result)}. split=true gives each "
                "protocol columns of its own."
            )
    check_distinct(results)


def check_distinct(results: Sequence[StoredResult]) -> None:
    """Refuse two results for one cell.

    Raises:
        ValueError: a model has two results on one benchmark under one protocol.
    """
    seen: dict[tuple[str, str, str], StoredResult] = {}
    for result in results:
        other = seen.setdefault((result.model, result.benchmark, result.fingerprint), result)
        if other is not result:
            raise ValueError(
                f"{other.path} and {result.path} both hold a result of {result.model!r} on {result.benchmark} under the "
                f"protocol {result.fingerprint}; leave one out, or name the models apart."
            )


def _named(result: StoredResult) -> str:
    return f"{result.path} ({result.model})"


def _difference(one: StoredResult, other: StoredResult) -> str:
    names = sorted({*one.protocol, *other.protocol})
    differing = [
        f"{name} is {_shown(one.protocol, name)} in the first and {_shown(other.protocol, name)} in the second"
        for name in names
        if one.protocol.get(name, _MISSING) != other.protocol.get(name, _MISSING)
    ]
    if differing:
        return "; ".join(differing)
    files = [
        name
        for name in sorted({*one.files, *other.files})
        if name not in _OWN_FILES and one.files.get(name) != other.files.get(name)
    ]
    if files:
        return f"their files of {', '.join(files)} are not the same"
    return "what they depend on reads the same, so they come from different versions of this project"


def _shown(protocol: Mapping[str, Any], name: str) -> str:
    return repr(protocol[name]) if name in protocol else "not given"


def _result(row: dict[str, Any], number: int, path: Path) -> StoredResult:
    if not isinstance(row, dict):
        raise ValueError(f"{path} has to hold JSON objects, but it holds {str(row)[:60]!r}.")
    metrics = flat(field_of(row, "metrics", dict, number, path))
    if not metrics:
        raise ValueError(f"Field 'metrics' in row {number} of {path} holds no number.")
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ValueError(f"Metric {name!r} in row {number} of {path} has to be a number, but it is {value!r:.60}.")
    protocol = flat(field_of(row, "protocol", dict, number, path))
    if "version" in row:
        protocol["version"] = field_of(row, "version", str, number, path)
    model = field_of(row, "model", (str, type(None)), number, path) if "model" in row else None
    files = field_of(row, "files", dict, number, path) if "files" in row else {}
    return StoredResult(
        benchmark=field_of(row, "benchmark", str, number, path),
        model=model or path.stem,
        metrics={name: _finite(value) for name, value in metrics.items()},
        protocol=protocol,
        fingerprint=field_of(row, "fingerprint", str, number, path),
        files={name: str(value) for name, value in flat(files).items()},
        path=path,
    )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
