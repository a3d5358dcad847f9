"""Draw the charts of a run's report from its metrics."""

import math
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from rlaifv.report.glossary import entry
from rlaifv.report.hacking import reward_names
from rlaifv.report.plots import BarChart, LineChart, Series, bar_chart, line_chart, thin
from rlaifv.report.run import Run
from rlaifv.stages.pair import PAIR_REASONS

MAX_POINTS = 120
# Last filter first, so that the pairs that came closest to being kept are drawn next to the kept ones.
PAIR_DROPS = tuple(f"dropped/{reason}" for reason in reversed(PAIR_REASONS))
ITERATIONS_DONE = "iterations done"
ITERATION = "iteration"
STEPS = "optimizer steps"


def result_charts(run: Run) -> list[Markup]:
    """Chart hallucination (the labeler's rejections if the truth is unknown), coverage and length per iteration."""
    after = {evaluation.num_iterations: evaluation.metrics for evaluation in run.evaluations}
    if len(after) < 2:
        return []
    if _values(after, "hallucination/response"):
        title, group, labels = "Hallucination", "hallucination", ("answers with a false claim", "claims that are false")
    else:
        title, group, labels = "Rejected by the labeler", "rejected", ("answers with a rejected claim", "claims")
    return _drawn(
        _by_iteration(title, "%", after, (f"{group}/response", f"{group}/mention"), labels),
        _by_iteration("Coverage", "%", after, ("coverage",), ("objects named correctly",), y_to=100.0),
        _by_iteration("Answer length", "words", after, ("length/words",), ("words per answer",)),
    )


def feedback_charts(run: Run) -> list[Markup]:
    """Chart the labeler's reliability, its rejections and the length of preferred answers; empty without feedback."""
    if not run.statistics:
        return []
    accuracy = {evaluation.num_iterations: evaluation.metrics for evaluation in run.evaluations}
    feedback = {k + 1: statistics for k, statistics in enumerate(run.statistics)}
    shares = (*_values(accuracy, "labeler/accuracy"), *_values(feedback, "labeler/agreement"))
    trusted = LineChart(
        title="Labeler against the truth",
        unit="%",
        x_label=ITERATION,
        series=(
            _series("accuracy on known questions", accuracy, "labeler/accuracy"),
            _series("agreement on sampled claims", feedback, "labeler/agreement"),
        ),
        y_from=50.0 if all(share >= 0.5 for share in shares) else 0.0,
        y_to=100.0,
        x_names=_names({*accuracy, *feedback}, base=True),
    )
    names = ("rejection_rate", "unknown_rate")
    lengths = ("length/chosen_words", "length/rejected_words")
    return _drawn(
        trusted,
        _by_iteration("Verdicts", "% of claims", feedback, names, ("rejected", "unknown"), base=False),
        _by_iteration("Length of the pairs", "words", feedback, lengths, ("chosen", "rejected"), base=False),
    )


def pair_charts(run: Run) -> list[Markup]:
    """Chart all possible pairs of usable answers, one bar per iteration: pairs kept, then pairs dropped by reason."""
    names = ("pairs_kept", *(name for name in PAIR_DROPS if any(name in values for values in run.statistics)))
    bars = tuple(
        (f"iteration {k + 1}", tuple(statistics.get(name, 0.0) for name in names))
        for k, statistics in enumerate(run.statistics)
    )
    labels = ("kept", *(entry(name).label.lower() for name in names[1:]))
    chart = bar_chart(BarChart("Kept and dropped", "pairs of answers to one prompt", labels, bars))
    return [chart] if chart else []


def training_charts(run: Run) -> list[Markup]:
    """Chart reward margins, accuracy, rewards and KTO's z0 over the steps; faint lines are the starts of iterations."""
    margins = ("rewards/margins",)
    accuracies = ("rewards/accuracies",)
    rewards = ("rewards/chosen", "rewards/rejected")
    labelled = ("rewards/desirable", "rewards/undesirable")
    return _drawn(
        _by_step(run, "Reward margin", "chosen minus rejected", margins, ("margin",)),
        _by_step(run, "Reward accuracy", "% of pairs", accuracies, ("chosen above rejected",), y_to=100.0, scale=100.0),
        _by_step(run, "Rewards", "beta × log-ratio", rewards, ("chosen", "rejected")),
        _by_step(run, "Rewards of labelled answers", "beta × log-ratio", labelled, ("desirable", "undesirable")),
        _by_step(run, "Reference point", "nats", ("kto/reference_point",), ("z0",)),
    )


def reward_charts(run: Run) -> list[Markup]:
    """Chart what policies were rewarded with, and what was measured of the same policies; empty without rewards."""
    before = {k: statistics for k, statistics in enumerate(run.statistics)}
    names = reward_names(run.statistics)
    if not names:
        return []
    measured = {one.num_iterations: one.metrics for one in run.evaluations}
    terms = [
        name
        for name in (run.statistics[0] if run.statistics else ())
        if name.startswith("reward/") and name not in ("reward/mean", "reward/std")
    ]
    group = "hallucination" if _values(measured, "hallucination/mention") else "rejected"
    against = (f"{group}/mention", "coverage") if group == "hallucination" else (f"{group}/mention",)
    words = ("false claims", "coverage") if group == "hallucination" else ("rejected claims",)
    return _drawn(
        _by_iteration("Reward", "mean of sampled answers", before, names, [name.partition("/")[2] for name in names]),
        _by_iteration("Measured on held-out prompts", "%", measured, against, words),
        _by_iteration("Terms of the reward", "weighted, mean", before, terms, [n.partition("/")[2] for n in terms]),
        _by_iteration("Length", "tokens", before, ("length/answer_tokens",), ("tokens per answer",)),
    )


def _drawn(*charts: LineChart) -> list[Markup]:
    return [figure for chart in charts if (figure := line_chart(chart))]


def _by_iteration(
    title: str,
    unit: str,
    values: Mapping[int, Mapping[str, float]],
    names: Sequence[str],
    labels: Sequence[str],
    y_to: float | None = None,
    base: bool = True,
) -> LineChart:
    return LineChart(
        title=title,
        unit=unit,
        x_label=ITERATIONS_DONE if base else ITERATION,
        series=tuple(_series(label, values, name) for label, name in zip(labels, names, strict=True)),
        y_to=y_to,
        x_names=_names(values, base),
    )


def _names(values: Iterable[int], base: bool) -> dict[float, str]:
    return {float(k): "base" if base and k == 0 else str(k) for k in sorted(values)}


def _series(label: str, values: Mapping[int, Mapping[str, float]], name: str) -> Series:
    scale = 100.0 if entry(name).unit == "share" else 1.0
    points = tuple((float(k), scale * values[k][name]) for k in sorted(values) if name in values[k])
    return Series(label, points)


def _values(table: Mapping[int, Mapping[str, float]], name: str) -> list[float]:
    return [values[name] for values in table.values() if name in values]


def _by_step(
    run: Run,
    title: str,
    unit: str,
    names: Sequence[str],
    labels: Sequence[str],
    y_to: float | None = None,
    scale: float = 1.0,
) -> LineChart:
    series = []
    for name, label in zip(names, labels, strict=True):
        points = [(row["step"], scale * row[name]) for row in run.training if name in row]
        series.append(Series(label, thin(points, MAX_POINTS)))
    return LineChart(title, unit, STEPS, tuple(series), y_to=y_to, boundaries=_boundaries(run.training))


def _boundaries(training: Sequence[Mapping[str, float]]) -> tuple[float, ...]:
    """Return the steps at which the logged iteration changes."""
    starts = []
    iteration = math.nan
    for row in training:
        if "iteration" in row:
            if not math.isnan(iteration) and row["iteration"] != iteration:
                starts.append(row["step"])
            iteration = row["iteration"]
    return tuple(starts)
