"""Put models side by side on benchmarks, beside published numbers.

    python tools/compare.py RESULTS… out=DIR

    RESULTS             what tools/score.py printed: JSON objects, alone, in a list, or one a line; any number of files
    out=comparison      directory of comparison.md and comparison.svg
    split=false         true gives every protocol columns of its own; otherwise two protocols of one benchmark are refused
    anchors=true        false leaves published numbers out

Numbers made in different ways are no comparison: published ones stand in a column only where their whole protocol is known
and equal, and apart from it, with what is known of their protocol, where not.
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
    """See the module."""

    out: str = "comparison"
    split: bool = False
    anchors: bool = True


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, compare, print and write."""
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
