"""Measure a divider on annotated answers: recall, precision and atomicity of its claims.

    python tools/measure_divider.py divider=rules
    python tools/measure_divider.py divider=chat divider.path=DIR_OR_HUB_ID

The rules were tuned on every other answer, starting with the first; the rest are held out. Prints a table and one line
of JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from rlaifv.app.checks import ConfigError, check_config
from rlaifv.app.launch import register_resolvers
from rlaifv.metrics.division import DividedAnswer, Division, compare, read_divided_answers
from rlaifv.records import Prompt, Response
from rlaifv.runtime.console import console
from rlaifv.stages.dividers.protocol import BatchDivider, Divider, NotDivided, divide_all

ROOT = Path(__file__).parent.parent
ANSWERS = ROOT / "tests/data_files/divided_answers.jsonl"


def measure(divider: Divider | BatchDivider, answers: Sequence[DividedAnswer]) -> dict[str, Division]:
    """Return counts for each half ("tuning", "held out"), for each style, and for "all"."""
    counts = {"tuning": Division(), "held out": Division(), "all": Division()}
    for k, (answer, found) in enumerate(zip(answers, _divide(divider, answers), strict=True)):
        division = compare(answer.claims, found)
        for name in ("held out" if k % 2 else "tuning", "all", answer.style):
            counts[name] = counts.get(name, Division()) + division
    return counts


def _divide(divider: Divider | BatchDivider, answers: Sequence[DividedAnswer]) -> list[list[str] | None]:
    pairs = [
        (Prompt(answer.id, answer.question, ()), Response(f"{answer.id}/0", answer.id, answer.answer, (), True, 0))
        for answer in answers
    ]
    divided = divide_all(divider, pairs)
    return [None if isinstance(some, NotDivided) else [claim.text for claim in some] for some in divided]


def _table(counts: dict[str, Division]) -> Table:
    table = Table("answers", "number", "failed", "claims", "found", "recall", "precision", "f1", "atomicity")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, division in counts.items():
        numbers = (division.num_answers, division.num_failed, division.num_true, division.num_found)
        table.add_row(name, *map(str, numbers), *(f"{rate:.3f}" for rate in division.rates().values()))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the divider and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--answers", type=Path, default=ANSWERS, help="JSON lines of id, style, question, answer, claims"
    )
    parser.add_argument("overrides", nargs="*", help="settings of the divider, as for train.py")
    args = parser.parse_args(arguments)
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", args.overrides)
    try:
        check_config(cfg)
        answers = read_divided_answers(args.answers)
    except (ConfigError, ValueError) as error:
        raise SystemExit(str(error)) from error
    divider = instantiate(cfg.divider)
    start = time.perf_counter()
    counts = measure(divider, answers)
    seconds = time.perf_counter() - start
    console.print(_table(counts))
    rates = {name: {key: round(rate, 4) for key, rate in counts[name].rates().items()} for name in counts}
    print(json.dumps({"divider": type(divider).__name__, "seconds": round(seconds, 3), "rates": rates}))


if __name__ == "__main__":
    main()
