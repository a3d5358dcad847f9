"""SVG dot plots of the final metrics of several settings: one dot per run, one line at the mean of each setting."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from xml.etree.ElementTree import Element, SubElement, tostring

from rlaifv.report.plots import nice_ticks, tick_text

_PANEL_PX, _ROW_PX, _GAP_PX, _TOP_PX, _BOTTOM_PX = 220, 26, 34, 34, 22
_CHAR_PX = 6.4
_STYLE = (
    "text{font:11px sans-serif;fill:#555}.title{font-weight:bold}.end{text-anchor:end}.middle{text-anchor:middle}"
    "line{stroke:#ddd}.mean{stroke:#b3541e;stroke-width:2.5}circle{fill:#0b6e4f;fill-opacity:.65}"
)


@dataclass(frozen=True, slots=True)
class DotPanel:
    """Panel of one metric. `rows` holds the values of the runs of each setting; empty if they lack the metric."""

    title: str
    rows: tuple[tuple[float, ...], ...]


def dot_plot(settings: Sequence[str], panels: Sequence[DotPanel]) -> str:
    """Draw panels side by side, each scaled from 0 to its largest value, with one row per setting in the given order.

    Raises:
        ValueError: the number of rows of a panel differs from the number of settings.
    """
    if wrong := [panel for panel in panels if len(panel.rows) != len(settings)]:
        raise ValueError(f"{wrong[0].title} has {len(wrong[0].rows)} rows for {len(settings)} settings.")
    left = 10 + _CHAR_PX * max(map(len, settings), default=0)
    width = left + len(panels) * (_PANEL_PX + _GAP_PX)
    height = _TOP_PX + len(settings) * _ROW_PX + _BOTTOM_PX
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "viewBox": f"0 0 {width:g} {height:g}"})
    svg.set("width", f"{width:g}")
    svg.set("aria-label", "; ".join(_summary(panel, settings) for panel in panels))
    SubElement(svg, "style").text = _STYLE
    SubElement(svg, "rect", {"width": "100%", "height": "100%", "fill": "#fff"})
    for row, name in enumerate(settings):
        _text(svg, left - 10, _TOP_PX + (row + 0.5) * _ROW_PX + 4, name, "end")
    for k, panel in enumerate(panels):
        _draw(svg, panel, left + k * (_PANEL_PX + _GAP_PX), height)
    return tostring(svg, encoding="unicode") + "\n"


def _draw(svg: Element, panel: DotPanel, left: float, height: float) -> None:
    ticks = nice_ticks(0, max((value for row in panel.rows for value in row), default=1.0) or 1.0)
    scale = _PANEL_PX / ticks[-1]
    _text(svg, left, 14, panel.title, "title")
    for tick in ticks:
        x = left + tick * scale
        SubElement(svg, "line", _ends(x, _TOP_PX - 8, x, height - _BOTTOM_PX))
        _text(svg, x, height - 8, tick_text(tick), "middle")
    for row, values in enumerate(panel.rows):
        y = _TOP_PX + (row + 0.5) * _ROW_PX
        for value in values:
            SubElement(svg, "circle", {"cx": f"{left + value * scale:.1f}", "cy": f"{y:.1f}", "r": "4"})
        if values:
            x = left + mean(values) * scale
            SubElement(svg, "line", {"class": "mean", **_ends(x, y - 9, x, y + 9)})


def _summary(panel: DotPanel, settings: Sequence[str]) -> str:
    means = (f"{name} {mean(row):.3f}" for name, row in zip(settings, panel.rows, strict=True) if row)
    return f"{panel.title}, means: {', '.join(means)}"


def _ends(x1: float, y1: float, x2: float, y2: float) -> dict[str, str]:
    return {name: f"{value:.1f}" for name, value in (("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2))}


def _text(svg: Element, x: float, y: float, text: str, style: str) -> None:
    SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": style}).text = text
