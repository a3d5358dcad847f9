"""Compare models on benchmarks, next to published numbers; a column never mixes evaluation protocols."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rlaifv.benchmarks.anchors import TAGS, Anchor
from rlaifv.benchmarks.results import StoredResult, check_comparable, check_distinct
from rlaifv.report.glossary import MISSING
from rlaifv.report.plots import BarChart, standalone_bars

Better = Literal["lower", "higher"] | None
# Metrics that papers report per benchmark; for a benchmark that is not listed, all metrics are shown.
HEADLINES: dict[str, dict[str, Better]] = {
    "amber": {
        "chair": "lower",
        "cover": "higher",
        "hal": "lower",
        "cog": "lower",
        "accuracy": "higher",
        "f1": "higher",
        "amber_score": "higher",
    },
    "pope": {"mean/accuracy": "higher", "mean/f1": "higher", "mean/yes_ratio": None},
    "mme": dict.fromkeys(("existence", "count", "position", "color", "total"), "higher"),
    "chair": {"chair_s": "lower", "chair_i": "lower", "recall": "higher"},
    "object_halbench": {"resp": "lower", "ment": "lower"},
    "mmhal": {"score": "higher", "hallucination_rate": "lower"},
    "mhumaneval": {"all": "lower"},
    "refomb": {"trust": "higher", "win": "higher"},
    "llava_bench": dict.fromkeys(("all", "conv", "detail", "complex"), "higher"),
    "hallusionbench": dict.fromkeys(("a_acc", "f_acc", "q_acc"), "higher"),
    "mmstar": {"accuracy": "higher"},
    "faithscore": {"faithscore": "higher", "sentence": "higher"},
}
_ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}
_LONGEST_NAME = 28


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of a benchmark under one protocol."""

    benchmark: str
    fingerprint: str
    metric: str
    better: Better
    mark: str = ""

    @property
    def labels(self) -> tuple[str, str]:
        """Benchmark and metric, the two lines of the column header."""
        mark = f" ({self.mark})" if self.mark else ""
        return self.benchmark + mark, self.metric + _ARROWS[self.better]


@dataclass(frozen=True, slots=True)
class Row:
    """A model's metrics. `source` names the publication of comparable published numbers; None for a result."""

    model: str
    cells: dict[Column, float]
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Content of a comparison table.

    Attributes:
        columns: grouped by benchmark and protocol.
        rows: results in the given order, then anchors with exactly the protocol of their columns.
        protocols: one sentence per group of columns.
        apart: anchors for these benchmarks with a different or not fully known protocol.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    protocols: tuple[str, ...]
    apart: tuple[Anchor, ...] = field(default=())


def compare(results: Sequence[StoredResult], anchors: Sequence[Anchor] = (), split: bool = False) -> Comparison:
    """Arrange results and published numbers in one table.

    Args:
        results: results of any models on any benchmarks.
        anchors: published numbers; those for benchmarks without a result are omitted.
        split: whether each protocol of a benchmark gets its own columns.

    Raises:
        ValueError: two results of a benchmark have different fingerprints and `split` is false, or a model has two
            results for one cell; the message names both and what differs.
    """
    check_distinct(results) if split else check_comparable(results)
    order = list(dict.fromkeys(result.benchmark for result in results))
    groups = list(dict.fromkeys((result.benchmark, result.fingerprint) for result in results))
    groups.sort(key=lambda group: order.index(group[0]))
    benchmarks = [benchmark for benchmark, _ in groups]
    columns: list[Column] = []
    protocols: list[str] = []
    cells: dict[tuple[str, str | None], dict[Column, float]] = {(result.model, None): {} for result in results}
    placed: set[int] = set()
    for k, (benchmark, fingerprint) in enumerate(groups):
        members = [one for one in results if (one.benchmark, one.fingerprint) == (benchmark, fingerprint)]
        mark = chr(ord("a") + benchmarks[:k].count(benchmark)) if benchmarks.count(benchmark) > 1 else ""
        mine = _columns(benchmark, fingerprint, mark, members)
        columns += mine
        protocols.append(_protocol(mine[0], members[0]))
        same = [n for n, anchor in enumerate(anchors) if _is_comparable(anchor, members[0])]
        placed |= set(same)
        for one in members:
            cells[one.model, None] |= _cells(mine, one.metrics)
        for n in same:
            cells.setdefault((anchors[n].model, _source(anchors[n])), {}).update(_cells(mine, anchors[n].metrics))
    rows = [Row(model, known, source) for (model, source), known in cells.items()]
    rows.sort(key=lambda row: row.source is not None)
    apart = [anchor for n, anchor in enumerate(anchors) if anchor.benchmark in benchmarks and n not in placed]
    return Comparison(tuple(columns), tuple(rows), tuple(protocols), tuple(apart))


def result_tables(comparison: Comparison, width: int) -> list[Table]:
    """Return terminal tables: a single one if it fits into `width` characters, else one per group of columns.

    The best result of a column is bold; published numbers are dim.
    """
    whole = _table(comparison, comparison.columns)
    console = Console(width=10_000)
    if Measurement.get(console, console.options, whole).maximum <= width:
        return [whole]
    groups: dict[tuple[str, str], list[Column]] = {}
    for column in comparison.columns:
        groups.setdefault((column.benchmark, column.fingerprint), []).append(column)
    return [_table(comparison, columns) for columns in groups.values()]


def _table(comparison: Comparison, columns: Sequence[Column]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("\nmodel", overflow="fold", min_width=16)
    for column in columns:
        table.add_column("\n".join(column.labels), justify="right", no_wrap=True)
    best = _best(comparison)
    for row in comparison.rows:
        values = [(row.cells.get(column), column) for column in columns]
        if any(value is not None for value, _ in values):
            texts = [
                Text(shown(value), style="bold" if value in best[column] and not row.source else "")
                for value, column in values
            ]
            table.add_row(Text(_name(row)), *texts, style="dim" if row.source else "")
    return table


def published_table(comparison: Comparison) -> Table:
    """Return a terminal table of the published numbers that are not comparable (`Comparison.apart`)."""
    table = Table(
        box=None, pad_edge=False, header_style="bold", title="Published under other protocols", title_justify="left"
    )
    for name in ("benchmark", "model", "numbers", "protocol", "source", "tag"):
        table.add_column(name, overflow="fold")
    for anchor in comparison.apart:
        table.add_row(*(Text(cell) for cell in _published(anchor)), style="dim")
    return table


def markdown(comparison: Comparison) -> str:
    """Return the tables as Markdown, with the protocols and a legend of the tags."""
    best = _best(comparison)
    heads = [" ".join(column.labels) for column in comparison.columns]
    lines = ["# Comparison", "", *_markdown_row(["model", *heads]), "|---|" + "---:|" * len(heads)]
    for row in comparison.rows:
        values = [(row.cells.get(column), column) for column in comparison.columns]
        texts = [
            f"**{shown(value)}**" if value in best[column] and not row.source else shown(value)
            for value, column in values
        ]
        lines += _markdown_row([_plain(_name(row)), *texts])
    lines += ["", *(f"- {_plain(sentence)}" for sentence in comparison.protocols)]
    if comparison.apart:
        lines += [
            "",
            "## Published under other protocols",
            "",
            "These were made in other ways than the columns above, or in ways that are not fully known: to be read as "
            "orders of magnitude, not as rivals.",
            "",
            *_markdown_row(["benchmark", "model", "numbers", "protocol", "source", "tag"]),
            "|---|---|---|---|---|---|",
        ]
        for anchor in comparison.apart:
            lines += _markdown_row([_plain(cell) for cell in _published(anchor)])
        tags = sorted({anchor.tag for anchor in comparison.apart})
        lines += ["", *(f"- {tag}: {TAGS[tag]}" for tag in tags)]
    return "\n".join(lines) + "\n"


def plot(comparison: Comparison) -> str:
    """Return an SVG with one panel per column and one bar per model; published numbers have a different colour.

    Numbers in `Comparison.apart` are not drawn.
    """
    panels = []
    for column in comparison.columns:
        rows = [(row, row.cells[column]) for row in comparison.rows if column in row.cells]
        bars = [(_short(row.model), (value, 0.0) if row.source is None else (0.0, value)) for row, value in rows]
        panels.append(BarChart(*column.labels, ("scored here", "published"), tuple(bars)))
    return standalone_bars(panels)


def shown(value: float | None) -> str:
    """Format a number for the tables, with about three significant digits.

    >>> shown(85.94), shown(2.361), shown(0.8594), shown(None)
    ('85.9', '2.36', '0.859', '–')
    """
    if value is None:
        return MISSING
    num_digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{num_digits}f}"


def _columns(benchmark: str, fingerprint: str, mark: str, members: Sequence[StoredResult]) -> list[Column]:
    names = dict.fromkeys(name for one in members for name in one.metrics)
    wanted = {name: better for name, better in HEADLINES.get(benchmark, {}).items() if name in names}
    every: dict[str, Better] = wanted or dict.fromkeys(names)
    return [Column(benchmark, fingerprint, name, better, mark) for name, better in every.items()]


def _cells(columns: Sequence[Column], metrics: Mapping[str, float | None]) -> dict[Column, float]:
    return {column: value for column in columns if (value := metrics.get(column.metric)) is not None}


def _is_comparable(anchor: Anchor, result: StoredResult) -> bool:
    """Return whether an anchor's protocol is fully known and equal to the result's; an empty protocol is unknown."""
    return bool(anchor.protocol) and anchor.benchmark == result.benchmark and anchor.protocol == result.protocol


def _protocol(column: Column, result: StoredResult) -> str:
    said = ", ".join(f"{name} {value}" for name, value in sorted(result.protocol.items()))
    return f"{column.labels[0]}: {said or 'nothing beyond the benchmark itself'}; fingerprint {result.fingerprint}"


def _source(anchor: Anchor) -> str:
    return f"{anchor.source} [{anchor.tag}]"


def _published(anchor: Anchor) -> tuple[str, ...]:
    numbers = ", ".join(f"{name} {shown(value)}" for name, value in anchor.metrics.items())
    protocol = ", ".join(f"{name} {value}" for name, value in anchor.protocol.items())
    return anchor.benchmark, anchor.model, numbers, protocol or "not stated", anchor.source, anchor.tag


def _best(comparison: Comparison) -> dict[Column, set[float]]:
    """Return the best result of each column; an empty set if there is only one result or no better direction."""
    best: dict[Column, set[float]] = {}
    for column in comparison.columns:
        values = [row.cells[column] for row in comparison.rows if column in row.cells and row.source is None]
        is_contested = column.better is not None and len(values) > 1
        best[column] = {min(values) if column.better == "lower" else max(values)} if is_contested else set()
    return best


def _name(row: Row) -> str:
    return row.model if row.source is None else f"{row.model} ({row.source})"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _markdown_row(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _plain(text: str) -> str:
    """Escape text from files so that it cannot end a table cell or start an HTML tag."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
