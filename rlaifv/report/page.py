"""Build the HTML report of a run: a single file that opens offline, made from the run directory.

Claims, answers and questions come from models and data sets and are not trusted: the template escapes every value, the
page contains no links or scripts, and its Content-Security-Policy forbids both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rlaifv.report.answers import Answer, mark_claims
from rlaifv.report.benchmarks import shown_tables
from rlaifv.report.charts import PAIR_DROPS, feedback_charts, pair_charts, result_charts, reward_charts, training_charts
from rlaifv.report.glossary import ENTRIES, MISSING, Entry, entry, show
from rlaifv.report.hacking import reward_warning
from rlaifv.report.pairs import PairExample, Side, read_pairs
from rlaifv.report.run import Example, Run, read_run
from rlaifv.report.summary import (
    COLUMNS,
    HEADLINES,
    Numbers,
    Row,
    change,
    headlines,
    reward_model_accuracies,
    rows,
    trained_on,
)
from rlaifv.report.thumbnails import find_image, thumbnail
from rlaifv.runtime.phases import METHOD, PHASES, START, in_order, share_beside
from rlaifv.store.atomic import make_directory, write_text

NUM_EXAMPLES = 6
NUM_PAIRS = 6
# Counts of what policies train on that is no pairs.
KEPT = ("rollouts_kept", "answers_kept")
CANDIDATE_COLUMNS = (
    "rejected/mention",
    "rejected/response",
    "hallucination/mention",
    "hallucination/response",
    "claims_per_response",
    "length/words",
)
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Card:
    """A headline metric. `after` is None before the first iteration; `verdict` is None if no direction is better."""

    label: str
    definition: str
    before: str
    after: str | None = None
    verdict: str | None = None
    change: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Cell texts of a table; the first cell of a row is its name."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_report(run_dir: Path) -> Path:
    """Write report/index.html of a run and return its path.

    Works for a run in any state; missing parts are omitted. The file is replaced atomically.

    Raises:
        ValueError: `run_dir` is not a run directory, or one of its files is broken; the message names it.
    """
    path = run_dir / "report" / "index.html"
    page = render(read_run(run_dir))
    make_directory(path.parent)
    write_text(path, page)
    return path


def render(run: Run) -> str:
    """Return the report as HTML."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["probability"] = _probability
    pictures = _Pictures(run.run_dir)
    page = environment.get_template("page.html.jinja").render(
        **_head(run),
        **_numbers(run),
        benchmarks=_benchmarks(run),
        **_examples(run, pictures),
        pairs=_pairs(run, pictures),
        result_charts=result_charts(run),
        feedback_charts=feedback_charts(run),
        pair_charts=pair_charts(run),
        reward_charts=reward_charts(run),
        reward_warning=reward_warning(run),
        training_charts=training_charts(run),
        candidate_table=_candidates(run),
        time_table=_times(run.seconds),
        beside=show(share_beside(run.seconds), "share"),
        config=run.config,
    )
    # JSON can contain lone surrogates, which UTF-8 cannot encode.
    return page.encode("utf-8", "replace").decode("utf-8")


class _Pictures:
    """Cache of thumbnails by image path."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._made: dict[str, str | None] = {}

    def __call__(self, image_path: str) -> str | None:
        if image_path not in self._made:
            path = find_image(image_path, self._run_dir)
            self._made[image_path] = thumbnail(path) if path else None
        return self._made[image_path]


def _metrics(run: Run) -> dict[int, Numbers]:
    return {evaluation.num_iterations: evaluation.metrics for evaluation in run.evaluations}


def _head(run: Run) -> dict[str, Any]:
    """Return title, headline and cards; hallucination is judged by the truth, or by the labeler if it is unknown."""
    evaluations = _metrics(run)
    names = headlines(evaluations)
    what, kept = trained_on(run.statistics)
    what = {"pairs": "preference pairs", "answers": "rewarded answers"}.get(what, what)
    iterations = f"{len(run.statistics)} iteration{'' if len(run.statistics) == 1 else 's'}"
    lead = f"{show(kept, 'count')} {what} in {iterations}, labelled by a model alone."
    before, after = change(evaluations, names[0])
    accuracies = reward_model_accuracies(evaluations)
    if accuracies:
        headline = "Reward model: " + ", ".join(f"{name} {show(value, 'share')}" for name, value in accuracies.items())
    elif before is None:
        headline = f"Feedback of {iterations}"
    elif names is HEADLINES:
        headline = "Answers that hallucinate"
    else:
        headline = "Answers with a rejected claim"
    if before is not None:
        headline += f": {show(before, 'share')}" + ("" if after is None else f" → {show(after, 'share')}")
    return {
        "headline": headline,
        "lead": lead if run.statistics else "The base model; no feedback is collected yet.",
        "cards": [_card(name, *change(evaluations, name)) for name in names if name in evaluations.get(0, {})],
        "run_name": "/".join(run.run_dir.resolve().parts[-2:]),
        "has_truth": names is HEADLINES,
    }


def _card(name: str, before: float | None, after: float | None) -> Card:
    word = entry(name)
    card = Card(word.label, word.definition, show(before, word.unit), None if after is None else show(after, word.unit))
    if before is None or after is None or word.better is None:
        return card
    points = 100 * (after - before) if word.unit == "share" else after - before
    if abs(points) < 0.05:
        return Card(card.label, card.definition, card.before, card.after, "even", "= no change")
    verdict = "better" if (points < 0) == (word.better == "lower") else "worse"
    unit = " points" if word.unit == "share" else ""
    text = f"{'▼' if points < 0 else '▲'} {abs(points):.1f}{unit}, {verdict}"
    return Card(card.label, card.definition, card.before, card.after, verdict, text)


def _numbers(run: Run) -> dict[str, Any]:
    """Return tables and definitions of the metrics that the run has."""
    table = rows(_metrics(run), run.statistics)
    feedback = rows({}, run.statistics)
    known = {name for row in table for name in row.values}
    logged = {name for row in run.training for name in row if name in ENTRIES}
    words = {name: entry(name) for name in (*ENTRIES, *sorted(known - ENTRIES.keys())) if name in known | logged}
    pairs = ("pairs_possible", "pairs_kept", *PAIR_DROPS)
    answers = [name for name in words if name.startswith("dropped/") and name not in PAIR_DROPS]
    dropped = [name for name in answers if any(row.values.get(name) for row in feedback)]
    groups = ("reward/", "score/", "kl/", "targets", "prompts/", "answers/")
    rewarded = [name for name in words if name.startswith(groups) or name in KEPT]
    scored = [name for name in words if name.startswith("reward_model/") and name.count("/") == 2]
    columns = [*headlines(_metrics(run)), *(name for name in COLUMNS if name not in HEADLINES), *scored]
    return {
        "result_table": _table(table, [name for name in dict.fromkeys(columns) if name in known]),
        "pair_table": _table(feedback, [name for name in pairs if name in known]),
        "answer_table": _table(feedback, ["responses", *rewarded, *dropped] if rewarded or dropped else []),
        "definitions": [
            {"name": name, "label": word.label, "definition": word.definition} for name, word in words.items()
        ],
        "all_numbers": Table(
            ("", *(row.name for row in table)),
            tuple(_across(name, word, table) for name, word in words.items() if name in known),
        ),
    }


def _table(table: Sequence[Row], names: Sequence[str]) -> Table:
    words = {name: entry(name) for name in names}
    texts = tuple((row.name, *(show(row.values.get(name), word.unit) for name, word in words.items())) for row in table)
    return Table(("", *(word.label for word in words.values())), texts if names else ())


def _candidates(run: Run) -> Table:
    """Return one row per candidate, preceded by a row for the start of its iteration."""
    found = [metrics for selection in run.selections for _, metrics in selection.candidates]
    names = [name for name in CANDIDATE_COLUMNS if any(name in metrics for metrics in found)]
    rows = []
    for selection in run.selections:
        for k, (epoch, metrics) in enumerate(selection.candidates):
            name = f"iteration {selection.iteration + 1}, " + (f"epoch {epoch:.3g}" if k else "start")
            cells = (show(metrics.get(column), entry(column).unit) for column in names)
            rows.append((name + (", chosen" if k == selection.chosen else ""), *cells))
    return Table(("", *(entry(name).label for name in names)), tuple(rows))


def _times(seconds: Mapping[str, float]) -> Table:
    """Return one row per phase; process start comes last and is excluded from the shares."""
    total = sum(taken for name, taken in seconds.items() if name != START)
    names = [name for name in in_order(seconds) if name != START] + [START] * (START in seconds)
    rows = tuple(
        (
            name,
            PHASES.get(name, MISSING),
            "method" if name in METHOD else "beside it",
            f"{seconds[name]:,.1f}",
            show(seconds[name] / total, "share") if name != START and total else MISSING,
        )
        for name in names
    )
    return Table(("", "what", "part", "seconds", "share"), rows)


def _across(name: str, word: Entry, table: Sequence[Row]) -> tuple[str, ...]:
    return (word.label, *(show(row.values.get(name), word.unit) for row in table))


def _benchmarks(run: Run) -> list[Mapping[str, Any]]:
    """Return the benchmark tables of the base model and the latest measured policy."""
    evaluations = _metrics(run)
    ends = [row for row in rows(evaluations, ()) if row.num_iterations in (0, max(evaluations))]
    return [
        {
            "title": table.title,
            "read": table.read,
            "table": Table(
                ("", *(table.label(name) for name in table.columns)),
                tuple((row.name, *(show(row.values.get(name), "share") for name in table.columns)) for row in ends),
            ),
        }
        for table in shown_tables(evaluations.get(0, {}))
    ]


def _examples(run: Run, pictures: _Pictures) -> dict[str, Any]:
    """Return the first answers of the base model, each with the last policy's answer to the same prompt."""
    first = run.evaluations[0] if run.evaluations else None
    last = run.evaluations[-1] if len(run.evaluations) > 1 else None
    later = {example.prompt_id: example for example in last.examples} if last else {}
    shown = [example for example in (first.examples if first else ()) if not later or example.prompt_id in later][
        :NUM_EXAMPLES
    ]
    claims = [claim for example in shown for claim in example.claims]
    return {
        "examples": [_example(example, later.get(example.prompt_id), pictures) for example in shown],
        "has_after": bool(later),
        "any_truth": any(claim.truth is not None for claim in claims),
        "last_iteration": f"iteration {last.num_iterations}" if last else "",
    }


def _example(before: Example, after: Example | None, pictures: _Pictures) -> Mapping[str, Any]:
    return {
        "question": before.question,
        "image": pictures(before.image_path),
        "truth": before.truth,
        "before": mark_claims(before.response, before.claims),
        "after": None if after is None else mark_claims(after.response, after.claims),
    }


def _pairs(run: Run, pictures: _Pictures) -> list[Mapping[str, Any]]:
    """Return example pairs of the first and the last iteration."""
    last = len(run.statistics) - 1
    iterations = sorted({0, last}) if last >= 0 else []
    pairs = [pair for k in iterations for pair in read_pairs(run.run_dir, k, NUM_PAIRS // len(iterations))]
    return [_pair(pair, pictures) for pair in pairs]


def _pair(pair: PairExample, pictures: _Pictures) -> Mapping[str, Any]:
    return {
        "iteration": pair.iteration,
        "question": pair.question,
        "image": pictures(pair.image_path),
        "chosen": _side(pair.chosen),
        "rejected": _side(pair.rejected),
        "chosen_score": _score(pair.chosen),
        "rejected_score": _score(pair.rejected),
    }


def _side(side: Side) -> Answer:
    return mark_claims(side.text, side.claims)


def _score(side: Side) -> str:
    # Adding zero turns -0.0 into 0.
    return f"{side.score + 0.0:g}".replace("-", "\N{MINUS SIGN}")


def _probability(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"
