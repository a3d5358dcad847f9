"""Score answers to a benchmark with its official files.

    python tools/score.py benchmark=pope questions=coco_pope_random.json answers=answers.jsonl
    python tools/score.py benchmark=amber annotations=AMBER/data answers=answers.json nouns=nouns.json similarity=pairs.json

    benchmark=NAME           amber, pope, mme, chair, object_halbench, mmhal, refomb, llava_bench, hallusionbench, mmstar,
                             faithscore, mhumaneval
    answers=FILE             the model's answers in the benchmark's format, JSON or JSON Lines
    questions=FILE annotations=FILE_OR_DIR images=DIR
                             the benchmark's own files, as far as it uses them
    nouns=FILE similarity=FILE objects=FILE synonyms=FILE
                             outputs of external models and word lists that the official script uses
    reviews=FILE judge=NAME  raw replies of a judge, and its name
    parser=official          how answers are parsed: official, or another parser of the benchmark
    invalid_judge=official   score of an unreadable review: official, skip (left out) or raise (an error)
    rounding=official        none does not round
    allow_incomplete=false   true scores the available answers if some are missing
    out=FILE                 also write the result as JSON

The last line of the output is the result as JSON: metrics (also as top-level keys), counts, files with their SHA-256,
and the protocol with its fingerprint. Nothing is downloaded, and no model is run.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from rich.markup import escape
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from rlaifv.app.arguments import parse_options, refuse
from rlaifv.benchmarks.outcome import flat_metrics, outcome
from rlaifv.benchmarks.protocol import Given
from rlaifv.benchmarks.registry import benchmark
from rlaifv.runtime.console import console, set_up_logging
from rlaifv.store.atomic import write_json


@dataclass
class Options:
    """Command-line options; see the module docstring. All but `benchmark` and `out` are fields of `Given`."""

    benchmark: str = MISSING
    questions: Path | None = None
    answers: Path | None = None
    annotations: Path | None = None
    images: Path | None = None
    nouns: Path | None = None
    similarity: Path | None = None
    objects: Path | None = None
    synonyms: Path | None = None
    reviews: Path | None = None
    judge: str | None = None
    parser: str = "official"
    invalid_judge: str = "official"
    rounding: str = "official"
    allow_incomplete: bool = False
    out: Path | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the answers and print the result."""
    set_up_logging()
    try:
        options = parse_options(Options, __doc__, sys.argv[1:] if arguments is None else arguments)
        values = {name: _expanded(value) for name, value in asdict(options).items() if name not in ("benchmark", "out")}
        found = outcome(benchmark(options.benchmark), Given(**values))
        if options.out is not None:
            write_json(_expanded(options.out), found)
    except (ValueError, OSError) as error:
        raise SystemExit(refuse(error)) from error
    console.print(result_table(found))
    for warning in found["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    print(json.dumps(found, allow_nan=False), flush=True)  # ASCII, for any terminal encoding
    return 0


def result_table(found: Mapping[str, Any]) -> Table:
    """Return a table of the metrics of a result and what they are based on."""
    table = Table("metric", "value", box=None, title=escape(f"{found['benchmark']} ({found['version']})"))
    table.columns[1].justify = "right"
    for name, value in flat_metrics(found["metrics"]):
        table.add_row(
            escape(name), "–" if value is None else f"{value:.2f}" if isinstance(value, float) else f"{value}"
        )
    table.add_section()
    for name, count in found["counts"].items():
        table.add_row(f"[dim]{escape(name)}[/]", f"[dim]{count}[/]")
    table.add_row("[dim]invalid answers[/]", f"[dim]{found['invalid_answers']}[/]")
    return table


def _expanded(value: Any) -> Any:
    return value.expanduser() if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
