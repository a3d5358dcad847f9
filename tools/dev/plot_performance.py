"""Plot growth curves written by the benchmarks: one SVG per CSV file, next to it.

python tools/dev/plot_performance.py docs/performance/pairs.csv docs/performance/questions.csv
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from rlaifv.report.plots import LineChart, Series, standalone_svg
from rlaifv.store.atomic import write_text

TITLES = {
    "pairs": ("DPO step", "seconds per prompt", "pairs per prompt"),
    "questions": ("Claim checking", "seconds for all questions", "questions per image"),
    "image_tokens": ("Growth with the image", "seconds", "image tokens"),
}


def draw(path: Path) -> str:
    """Return a standalone SVG of a file's columns plotted against the first one.

    Raises:
        ValueError: the file is not a growth curve.
    """
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    if header[0] not in TITLES or not rows:
        raise ValueError(f"{path} holds no growth curve; its first column must be one of {', '.join(TITLES)}.")
    title, unit, x_label = TITLES[header[0]]
    names = [name.removesuffix("_seconds") for name in header[1:]]
    series = tuple(
        Series(name, tuple((float(row[0]), float(row[k])) for row in rows)) for k, name in enumerate(names, start=1)
    )
    return standalone_svg(LineChart(title, unit, x_label, series))


def main(arguments: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("files", type=Path, nargs="+", metavar="CSV")
    for path in made.parse_args(arguments).files:
        write_text(path.with_suffix(".svg"), draw(path))


if __name__ == "__main__":
    main()
