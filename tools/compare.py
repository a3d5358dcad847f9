"""Compare models on benchmarks with each other and with published numbers.

    python tools/compare.py RESULTS… out=DIR

    RESULTS             any number of outputs of tools/score.py: a JSON object, a list of them, or one per line
    out=comparison      directory of comparison.md and comparison.svg
    split=false         true gives every protocol its own columns; false refuses two protocols of one benchmark
    anchors=true        false omits published numbers

Only numbers with equal protocols are comparable: a published number appears in a column only if its full protocol is
known and equal. The others are listed separately, with what is known of their protocol.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from rlaifv.app.arguments import parse_options, refuse
from rlaifv.benchmarks.anchors import read_anchors
from rlaifv.benchmarks.results import read_results
from rlaifv.report.comparison import compare, markdown, plot, published_table, result_tables
from rlaifv.runtime.console import console, set_up_logging
from rlaifv.store.atomic import make_directory, write_text


@dataclass
class Options:
    """Command-line options; see the module docstring."""

    out: str = "comparison"
    split: bool = False
    anchors: bool = True


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the results, compare them, and print and write the tables."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    set_up_logging()
    paths = [Path(word) for word in words if "=" not in word and not word.startswith("-")]
    try:
        options = parse_options(Options, __doc__, [word for word in words if "=" in word or word.startswith("-")])
        if not paths:
            raise ValueError("No results are given; name at least one file that holds what tools/score.py printed.")
        results = [result for path in paths for result in read_results(path)]
        comparison = compare(results, read_anchors() if options.anchors else (), options.split)
        out = Path(options.out)
        make_directory(out.absolute())
        write_text(out / "comparison.md", markdown(comparison))
        write_text(out / "comparison.svg", plot(comparison))
    except (ValueError, OSError) as error:
        raise SystemExit(refuse(error)) from error
    for table in result_tables(comparison, console.width):
        console.print(table)
        console.print()
    for sentence in comparison.protocols:
        console.print(sentence, style="dim", markup=False, soft_wrap=True)
    if comparison.apart:
        console.print()
        console.print(published_table(comparison))
    console.print(f"written: {out / 'comparison.md'} and {out / 'comparison.svg'}", soft_wrap=True)


if __name__ == "__main__":
    main()
