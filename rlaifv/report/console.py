"""Terminal output of a run: one screen per iteration, and a table and a result line at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlaifv.report.glossary import MISSING, entry
from rlaifv.report.run import numbers, read_statistics
from rlaifv.report.summary import (
    HEADLINES,
    HEADLINES_WITHOUT_TRUTH,
    change,
    reward_model_accuracies,
    rows,
    trained_on,
)
from rlaifv.runtime.phases import METHOD, START, in_order, share_beside

MAX_ROWS = 9
MAX_LABEL = 24
WIDTH = 98
_COLUMN_LABELS = {
    "hallucination/response": "response\nhall.",
    "hallucination/mention": "mention\nhall.",
    "coverage": "coverage",
    "length/words": "words",
    "claims_per_response": "claims",
    "labeler/agreement": "labeler\nagreement",
    "labeler/accuracy": "labeler\naccuracy",
}
_BENCHMARK_LABELS = {
    "chair/chair_s": "CHAIR s\nshapes",
    "chair/chair_i": "CHAIR i\nshapes",
    "amber/chair": "AMBER\nCHAIR",
    "amber/cover": "AMBER\nCover",
    "amber/cog": "AMBER\nCog",
    "amber/f1": "AMBER\nF1",
    "pope/f1": "POPE F1\nasked",
    "pope_told/f1": "POPE F1\ndescribed",
}
_FEEDBACK = (
    "responses",
    "claims_per_response",
    "questions_asked",
    "rejection_rate",
    "unknown_rate",
    "labeler/agreement",
    "length/chosen_words",
    "length/rejected_words",
    "reward/mean",
)
# Of the parts of a reward, and of what keeps a policy near its start.
_REWARD = ("reward/", "kl/per_answer", "policy/entropy")


def iteration_summary(
    statistics: Mapping[str, Any],
    evaluation_before: Mapping[str, Any] | None,
    evaluation_after: Mapping[str, Any] | None,
    iteration: int,
) -> RenderableType:
    """Summarise an iteration on one screen of at most 24 lines and 100 columns.

    Args:
        statistics: Content of the iteration's statistics.json.
        evaluation_before: Evaluation of the policy that generated the answers, if there is one.
        evaluation_after: Evaluation of the policy trained on them, if there is one.
        iteration: Index from 0, as in iterations/000; displayed counting from 1.
    """
    feedback = numbers(statistics, f"statistics of iteration {iteration}")
    shown = Table.grid(padding=(0, 3))
    of_reward = [name for name in feedback if name.startswith(_REWARD) and name not in ("reward/mean", "reward/std")]
    names = [name for name in (*_FEEDBACK, *of_reward) if name in feedback][:MAX_ROWS]
    shown.add_row(_group("feedback", feedback, names), _pairs(feedback))
    parts: list[RenderableType] = [shown]
    before, after = (_metrics(evaluation) for evaluation in (evaluation_before, evaluation_after))
    if before or after:
        parts += [Text(), _evaluation(before, after, iteration)]
    stages = [(name.partition("/")[2], value) for name, value in feedback.items() if name.startswith("seconds/")]
    if stages:
        line = "  ".join(f"{name} {value:.1f} s" for name, value in stages)
        parts += [Text(), Text(f"time  {line}", style="dim", no_wrap=True, overflow="ellipsis")]
    return Panel(Group(*parts), title=f"iteration {iteration + 1}", title_align="left", width=WIDTH, box=box.ROUNDED)


def candidate_line(iteration: int, epoch: float, metrics: Mapping[str, float]) -> str:
    """Return one line with the metrics of a candidate.

    >>> candidate_line(0, 2.25, {"rejected/mention": 0.0731, "claims_per_response": 3.4, "hallucination/mention": 0.05})
    'iteration 1  epoch 2.25: rejected claims 0.073, false claims 0.050, claims per answer 3.40'
    """
    names = {
        "rejected/mention": "rejected claims",
        "hallucination/mention": "false claims",
        "claims_per_response": "claims per answer",
    }
    shown = [f"{label} {_show(name, metrics[name])}" for name, label in names.items() if name in metrics]
    return f"iteration {iteration + 1}  epoch {epoch:.3g}: {', '.join(shown)}"


def time_line(seconds: Mapping[str, float]) -> str:
    """Return one line with the seconds of each phase, the method's phases first, and the share of all other phases.

    >>> time_line({"start": 6.0, "load": 1.0, "train": 8.0, "export": 1.0, "other": 0.01})
    'time: train 8.0; load 1.0, export 1.0, other 0.0 s; 20.1% beside the method, and 6.0 s of process start'
    """
    own = ", ".join(f"{name} {seconds[name]:.1f}" for name in METHOD if name in seconds)
    beside = ", ".join(f"{n} {taken:.1f}" for n, taken in in_order(seconds).items() if n not in (*METHOD, START))
    share, start = share_beside(seconds), seconds.get(START, 0.0)
    return f"time: {own}; {beside} s; {100 * share:.1f}% beside the method, and {start:.1f} s of process start"


def result_table(evaluations: Sequence[Mapping[str, Any]], statistics: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the run: one row for the base model, then one per iteration.

    Args:
        evaluations: Contents of evaluations/*.json.
        statistics: Contents of statistics.json for iterations 0, 1, …
    """
    checked = [numbers(values, f"statistics of iteration {k}") for k, values in enumerate(statistics)]
    found = rows(_by_iterations(evaluations), checked)
    columns: dict[str, list[str]] = {}
    for name, label in _COLUMN_LABELS.items():
        if name == "labeler/agreement":
            columns["pairs kept\n(of possible)"] = [_kept(row.values) for row in found]
        columns[label] = [_show(name, row.values.get(name)) for row in found]
    if checked:  # a reward has no pairs, and a reward model's score no labeler
        columns = {label: cells for label, cells in columns.items() if any(cell != MISSING for cell in cells)}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("", no_wrap=True)
    for label in columns:
        table.add_column(label, justify="right")
    for row, *cells in zip(found, *columns.values(), strict=True):
        table.add_row(row.name, *cells)
    return table


def _kept(values: Mapping[str, float]) -> str:
    if "pairs_kept" not in values:
        return MISSING
    return f"{_show('pairs_kept', values['pairs_kept'])} ({_show('pairs_possible', values.get('pairs_possible'))})"


def reward_model_table(evaluations: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return a table of a reward model's figures, one row for each head; None if there is no reward model.

    Args:
        evaluations: Contents of evaluations/*.json.
    """
    metrics = _by_iterations(evaluations)
    latest = metrics[max(metrics)] if metrics else {}
    parts = [name.split("/") for name in latest if name.startswith("reward_model/")]
    if not parts:
        return None
    names = list(dict.fromkeys(name for _, _, name in parts))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name.replace("_", "\n"), justify="right")
    for head in dict.fromkeys(head for _, head, _ in parts):
        keys = {name: f"reward_model/{head}/{name}" for name in names}
        table.add_row(head, *(_show(key, latest.get(key)) for key in keys.values()))
    return table


def benchmark_table(evaluations: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return a table of benchmark metrics of the base model and the latest policy; None if they were not measured.

    Args:
        evaluations: Contents of evaluations/*.json.
    """
    metrics = _by_iterations(evaluations)
    names = [name for name in _BENCHMARK_LABELS if name in metrics.get(0, {})]
    if not names:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(_BENCHMARK_LABELS[name], justify="right")
    for row in rows(metrics, ()):
        if row.num_iterations in (0, max(metrics)):
            table.add_row(row.name, *(_show(name, row.values.get(name)) for name in names))
    return table


def result_line(evaluations: Sequence[Mapping[str, Any]], run_dir: Path, num_iterations: int) -> str:
    """Return the last line that a run prints, meant for people and for `grep`.

    If the truth is unknown, it reports the number of pairs or answers trained on, read from the run directory.
    """
    metrics = _by_iterations(evaluations)
    found = {name: change(metrics, name) for name in HEADLINES}
    end = f"run {run_dir}"
    if accuracies := reward_model_accuracies(metrics):
        shown = ", ".join(f"{name} {value:.3f}" for name, value in accuracies.items())
        return f"result: reward model accuracy {shown}, {end}"
    if found[HEADLINES[0]][0] is None:
        what, number = trained_on(read_statistics(run_dir))
        return f"result: {what} trained {number}, iterations {num_iterations}, {end}"
    labels = ("response hallucination", "mention", "coverage")
    parts = [
        f"{label} {before:.3f}" + ("" if after is None else f" -> {after:.3f}")
        for label, (before, after) in zip(labels, found.values(), strict=True)
        if before is not None
    ]
    return f"result: {', '.join(parts)}, iterations {num_iterations}, {end}"


def _metrics(evaluation: Mapping[str, Any] | None) -> dict[str, float]:
    return numbers(evaluation["metrics"], "evaluation") if evaluation else {}


def _by_iterations(evaluations: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    return {int(evaluation["num_iterations"]): _metrics(evaluation) for evaluation in evaluations}


def _show(name: str, value: float | None) -> str:
    """Format a number for the terminal; rates are shown as fractions, as in the files."""
    if value is None:
        return MISSING
    unit = entry(name).unit
    if unit == "share":
        return f"{value:.3f}"
    return f"{value:,.0f}" if unit == "count" else f"{value:.2f}"


def _label(text: str) -> Text:
    label = Text(text, no_wrap=True, overflow="ellipsis")
    label.truncate(MAX_LABEL, overflow="ellipsis")
    return label


def _rows_of(title: str, lines: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row(Text(title, style="bold"), "")
    for label, value in lines:
        table.add_row(_label(label), Text(value))
    return table


def _group(title: str, values: Mapping[str, float], names: Sequence[str]) -> Table:
    return _rows_of(title, [(entry(name).label.lower(), _show(name, values[name])) for name in names])


def _pairs(feedback: Mapping[str, float]) -> Table:
    """Return the counts of kept and dropped pairs, most frequent reason first; excess reasons share one line."""
    lines = [
        (entry(name).label.lower(), _show(name, feedback[name]))
        for name in (
            "pairs_kept",
            "pairs_possible",
            "rollouts_kept",
            "targets",
            "targets/person",
            "targets/policy",
            "answers_kept",
            "answers/desirable",
            "answers/undesirable",
        )
        if name in feedback
    ]
    dropped = [(name, value) for name, value in feedback.items() if name.startswith("dropped/") and value > 0]
    dropped.sort(key=lambda item: -item[1])
    room = MAX_ROWS - len(lines)
    shown = dropped if len(dropped) <= room else dropped[: room - 1]
    lines += [(f"dropped: {entry(name).label.lower()}", _show(name, value)) for name, value in shown]
    rest = sum(value for _, value in dropped[len(shown) :])
    if rest:
        lines.append(("dropped: other", f"{rest:,.0f}"))
    return _rows_of("pairs" if "pairs_kept" in feedback else "trained on", lines)


def _evaluation(before: Mapping[str, float], after: Mapping[str, float], iteration: int) -> Table:
    """Compare held-out metrics before and after the iteration's training; "better" or "worse" is also spelled out."""
    names = HEADLINES if HEADLINES[0] in {**before, **after} else HEADLINES_WITHOUT_TRUTH[:2]
    table = Table.grid(padding=(0, 3))
    table.add_column(no_wrap=True)
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    headers = ("held-out prompts", "base" if iteration == 0 else f"iteration {iteration}", f"iteration {iteration + 1}")
    table.add_row(*(Text(header, style="bold") for header in headers if after or header != headers[-1]))
    for name in (*names, "length/words", "labeler/accuracy"):
        if name in before or name in after:
            old, new = before.get(name), after.get(name)
            cells = [entry(name).label.lower(), _show(name, old)]
            table.add_row(*cells, *((_show(name, new), _trend(name, old, new)) if after else ()))
    return table


def _trend(name: str, before: float | None, after: float | None) -> Text:
    better = entry(name).better
    if before is None or after is None or better is None or abs(after - before) < 0.0005:
        return Text()
    improved = (after < before) == (better == "lower")
    return Text("better", style="green") if improved else Text("worse", style="red")
