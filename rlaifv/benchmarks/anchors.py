"""Published numbers of other models, with source, protocol and reliability."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.files import field_of, read_rows

ANCHORS_PATH = Path(__file__).with_name("anchors.json")
TAGS = {
    "R": "read in a repository of the authors",
    "S": "read in a secondary note, the paper's own table not seen",
    "D": "derived by arithmetic from published numbers",
}
_FIELDS = ("benchmark", "model", "metrics", "source", "protocol", "tag")


@dataclass(frozen=True, slots=True)
class Anchor:
    """Published numbers of one model on one benchmark.

    Attributes:
        benchmark: as on the command line.
        model: as published.
        metrics: by name, nested names joined by "/", in the unit of the benchmark's own scores.
        source: where they stand.
        protocol: what is known of how they were made; what is not in it is not known.
        tag: a key of `TAGS`.
    """

    benchmark: str
    model: str
    metrics: dict[str, float]
    source: str
    protocol: dict[str, Any]
    tag: str


def read_anchors(path: Path = ANCHORS_PATH) -> list[Anchor]:
    """Return all anchors of a file, in order.

    Raises:
        ValueError: a row is not of the form above; the message names file, row and field.
    """
    return [_anchor(row, number, path) for number, row in enumerate(read_rows(path), start=1)]


def _anchor(row: dict[str, Any], number: int, path: Path) -> Anchor:
    if unknown := [name for name in row if name not in _FIELDS]:
        raise ValueError(f"Row {number} of {path} has a field {unknown[0]!r}, which is none of {', '.join(_FIELDS)}.")
    texts = {name: field_of(row, name, str, number, path) for name in ("benchmark", "model", "source", "tag")}
    metrics, protocol = (field_of(row, name, dict, number, path) for name in ("metrics", "protocol"))
    where = f"row {number} of {path}"
    if empty := [name for name, text in texts.items() if not text.strip()]:
        raise ValueError(f"Field {empty[0]!r} in {where} is empty.")
    if texts["tag"] not in TAGS:
        raise ValueError(f"Field 'tag' in {where} must be one of {', '.join(TAGS)}, not {texts['tag']!r}.")
    if not metrics:
        raise ValueError(f"Field 'metrics' in {where} holds no number.")
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"Metric {name!r} in {where} has to be a number, but it is {value!r:.60}.")
    for name, value in protocol.items():
        if not isinstance(value, str | int | float | bool):
            raise ValueError(f"Protocol key {name!r} in {where} has to be a single value, but it is {value!r:.60}.")
    return Anchor(
        **{name: text for name, text in texts.items() if name != "tag"},
        metrics={name: float(value) for name, value in metrics.items()},
        protocol=protocol,
        tag=texts["tag"],
    )
