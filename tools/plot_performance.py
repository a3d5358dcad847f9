"""Draw growth curves that the benchmarks wrote: one SVG a CSV file, beside it.

python tools/plot_performance.py docs/performance/pairs.csv docs/performance/questions.csv
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

from rlaifv.report.plots import HEIGHT, WIDTH, LineChart, Series, line_chart
from rlaifv.store.atomic import write_text

TITLES = {
    "pairs": ("DPO step", "seconds per prompt", "pairs per prompt"),
    "questions": ("Claim checking", "seconds for all questions", "questions per image"),
    "image_tokens": ("Growth with the image", "seconds", "image tokens"),
}
COLOURS = ("#0b6e4f", "#b3541e")
LEGEND_PX = 24
STYLE = (
    "text{font:11px sans-serif;fill:#555}.middle{text-anchor:middle}.end{text-anchor:end}.title{font-weight:bold}"
    ".grid{stroke:#ddd}.zero{stroke:#888}polyline{fill:none;stroke-width:2}"
    + "".join(
        f".s{k} polyline{{stroke:{c}}}.s{k} path,text.s{k}{{fill:{c};stroke:none}}" for k, c in enumerate(COLOURS)
    )
)


def draw(path: Path) -> str:
    """A standalone SVG of the file's columns against its first one.

    Raises:
        ValueError: the file is no growth curve.
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
    figure = fromstring(line_chart(LineChart(title, unit, x_label, series)))  # noqa: S314 (made a line above)
    plot = figure.findall("svg")[-1]
    size = {"viewBox": f"0 0 {WIDTH} {HEIGHT + LEGEND_PX}", "width": "720", "role": "img"}
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "aria-label": plot.get("aria-label", title)})
    SubElement(svg, "style").text = STYLE
    SubElement(svg, "rect", {"width": "100%", "height": "100%", "fill": "#fff"})
    SubElement(svg, "text", {"x": "0", "y": "12", "class": "title"}).text = title
    for k, name in enumerate(names):
        SubElement(svg, "text", {"x": str(160 + 90 * k), "y": "12", "class": f"s{k}"}).text = f"\u25cf {name}"
    group = SubElement(svg, "g", {"transform": f"translate(0 {LEGEND_PX})"})
    group.extend(list(plot))
    return tostring(svg, encoding="unicode") + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("files", type=Path, nargs="+", metavar="CSV")
    for path in made.parse_args(arguments).files:
        write_text(path.with_suffix(".svg"), draw(path))


if __name__ == "__main__":
    main()
