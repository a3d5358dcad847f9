"""Line and bar charts as inline SVG without scripts or libraries, readable in print, in greyscale and in dark mode.

A chart is an HTML `<figure>`. Its colours come from the page's style sheet, through the classes s0, s1, … of lines and
p0, p1, … of bar segments. Series differ in marker and dash pattern as well as in colour. Charts are built as element
trees, not strings, so every label is escaped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

from markupsafe import Markup

NUM_COLOURS = 6
WIDTH, HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 46, 22, 40
_LABEL_GAP_PX = 13
_MAX_MARKERS = 40
_LEGEND_PX = 24
_STYLE = (
    "text{font:11px sans-serif;fill:#555}.middle{text-anchor:middle}.end{text-anchor:end}.title{font-weight:bold}"
    ".inside{fill:#fff;text-anchor:middle}.grid{stroke:#ddd}.zero{stroke:#888}polyline{fill:none;stroke-width:2}"
    + "".join(
        f".s{k} polyline{{stroke:{colour}}}.s{k} path,text.s{k},.p{k}{{fill:{colour};stroke:none}}"
        for k, colour in enumerate(("#0b6e4f", "#b3541e", "#2f5d8a", "#7a4e9c", "#8a6d00", "#555"))
    )
)
_BAR_PX, _BAR_GAP_PX = 24, 12
_PANEL_GAP_PX, _TITLE_PX = 20, 18


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: its legend label and its (x, y) points in ascending x."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class LineChart:
    """Content of a line chart. `unit` labels the y axis, `x_label` the x axis.

    The y axis includes `y_from` and `y_to`; `x_names` replaces numeric x ticks with text; `boundaries` are x values
    marked by a faint vertical line.
    """

    title: str
    unit: str
    x_label: str
    series: tuple[Series, ...]
    y_from: float | None = 0.0
    y_to: float | None = None
    x_names: Mapping[float, str] = field(default_factory=dict)
    boundaries: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class BarChart:
    """Horizontal stacked bars. `bars` are (name, parts); parts are non-negative, in the order of `labels`."""

    title: str
    unit: str
    labels: tuple[str, ...]
    bars: tuple[tuple[str, tuple[float, ...]], ...]


def nice_ticks(low: float, high: float, num_steps: int = 4) -> list[float]:
    """Return round tick values that cover `low` to `high` in about `num_steps` steps.

    >>> nice_ticks(0, 85)
    [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    if high - low < 1e-6 * max(1.0, abs(low), abs(high)):
        high = low + max(abs(low), 1.0)
    raw = (high - low) / num_steps
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Format a tick value in a few characters.

    >>> tick_text(1500.0), tick_text(0.25), tick_text(-0.0)
    ('1,500', '0.25', '0')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text.replace("-", "\N{MINUS SIGN}")


def line_chart(chart: LineChart) -> Markup:
    """Draw a line chart. Series without points are omitted; without any points the markup is empty."""
    drawn = [(k, series) for k, series in enumerate(chart.series) if series.points]
    if not drawn:
        return Markup("")
    xs = [x for _, series in drawn for x, _ in series.points]
    ys = [y for _, series in drawn for _, y in series.points]
    ys += [edge for edge in (chart.y_from, chart.y_to) if edge is not None]
    scales = [nice_ticks(min(ys), max(ys), num_steps) for num_steps in (4, 5, 3)]
    y_ticks = min(scales, key=lambda ticks: ticks[-1] - ticks[0])
    frame = _Frame(min(xs), max(xs), y_ticks[0], y_ticks[-1])
    marked = any(len(series.points) <= _MAX_MARKERS for _, series in drawn)
    figure = _figure(chart.title, [(k, series.label) for k, series in drawn], "marked line" if marked else "line")
    summary = "; ".join(
        f"{series.label} from {tick_text(series.points[0][1])} to {tick_text(series.points[-1][1])}"
        for _, series in drawn
    )
    svg = _svg(figure, HEIGHT, f"{chart.title}, {chart.unit}, over {chart.x_label}: {summary}")
    _draw_axes(svg, chart, frame, y_ticks)
    for k, series in drawn:
        _draw_series(svg, k, series, frame)
    ends = [(frame.y(series.points[-1][1]), k, series.points[-1]) for k, series in drawn]
    for text_y, (_, k, (x, y)) in zip(spread([end[0] for end in ends], _LABEL_GAP_PX), ends, strict=True):
        _text(svg, frame.x(x) + 8, text_y + 4, tick_text(y), f"value s{k % NUM_COLOURS}")
    return _markup(figure)


def standalone_svg(chart: LineChart) -> str:
    """Return a line chart as a standalone SVG file with its own colours and legend."""
    plot = fromstring(line_chart(chart)).findall("svg")[-1]  # noqa: S314 (made right here)
    size = {"viewBox": f"0 0 {WIDTH} {HEIGHT + _LEGEND_PX}", "width": "720", "role": "img"}
    label = plot.get("aria-label", chart.title)
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "aria-label": label})
    SubElement(svg, "style").text = _STYLE
    SubElement(svg, "rect", {"width": "100%", "height": "100%", "fill": "#fff"})
    SubElement(svg, "text", {"x": "0", "y": "12", "class": "title"}).text = chart.title
    for k, series in enumerate(chart.series):
        x = 160 + 200 * k / len(chart.series)
        SubElement(svg, "text", {"x": f"{x:g}", "y": "12", "class": f"s{k}"}).text = f"\u25cf {series.label}"
    group = SubElement(svg, "g", {"transform": f"translate(0 {_LEGEND_PX})"})
    group.extend(list(plot))
    return tostring(svg, encoding="unicode") + "\n"


def standalone_bars(charts: Sequence[BarChart], num_columns: int = 2) -> str:
    """Return bar charts as one standalone SVG file, `num_columns` panels per row; all-zero charts are omitted."""
    figures = [(chart, bar_chart(chart)) for chart in charts]
    plots = [(chart, fromstring(figure).findall("svg")[-1]) for chart, figure in figures if figure]  # noqa: S314 (made here)
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img"})
    SubElement(svg, "style").text = _STYLE
    SubElement(svg, "rect", {"width": "100%", "height": "100%", "fill": "#fff"})
    top = 0.0
    for start in range(0, len(plots), num_columns):
        row = plots[start : start + num_columns]
        for k, (chart, plot) in enumerate(row):
            group = SubElement(svg, "g", {"transform": f"translate({k * (WIDTH + _PANEL_GAP_PX)} {top:g})"})
            SubElement(group, "text", {"x": "0", "y": "12", "class": "title"}).text = chart.title
            SubElement(group, "g", {"transform": f"translate(0 {_TITLE_PX})"}).extend(list(plot))
        top += _TITLE_PX + max(float(plot.get("viewBox", "").split()[-1]) for _, plot in row) + _PANEL_GAP_PX
    width = num_columns * WIDTH + (num_columns - 1) * _PANEL_GAP_PX
    svg.set("viewBox", f"0 0 {width} {top:g}")
    svg.set("width", f"{width}")
    svg.set("aria-label", "; ".join(plot.get("aria-label", chart.title) for chart, plot in plots))
    return tostring(svg, encoding="unicode") + "\n"


def bar_chart(chart: BarChart) -> Markup:
    """Draw a chart of stacked bars, scaled to the largest total; bars that sum to zero keep their row."""
    total = max((sum(parts) for _, parts in chart.bars), default=0.0)
    if total <= 0:
        return Markup("")
    figure = _figure(chart.title, list(enumerate(chart.labels)), "box")
    left = 12 + 6.4 * max(len(name) for name, _ in chart.bars)
    scale = (WIDTH - left - 44) / total
    height = _TOP + len(chart.bars) * (_BAR_PX + _BAR_GAP_PX)
    summary = "; ".join(
        f"{name}: " + ", ".join(f"{tick_text(part)} {label}" for label, part in zip(chart.labels, parts, strict=True))
        for name, parts in chart.bars
    )
    svg = _svg(figure, height, f"{chart.title}, {chart.unit}: {summary}")
    _text(svg, 0, 11, chart.unit, "axis")
    for row, (name, parts) in enumerate(chart.bars):
        x, y = left, _TOP + row * (_BAR_PX + _BAR_GAP_PX)
        _text(svg, left - 8, y + 16, name, "axis end")
        for k, (label, part) in enumerate(zip(chart.labels, parts, strict=True)):
            if part > 0:
                box = (x, y, part * scale)
                _draw_part(svg, k, f"{name}: {tick_text(part)} {label}", part, box, is_labelled=sum(parts) > part)
            x += part * scale
        _text(svg, x + 6, y + 16, tick_text(sum(parts)), "axis")
    return _markup(figure)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Move label positions apart, as little as needed, until neighbours are at least `gap` apart; keep their order.

    >>> spread([10.0, 12.0, 50.0], gap=10.0)
    [6.0, 16.0, 50.0]
    """
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    groups: list[tuple[float, list[int]]] = []
    for k in order:
        groups.append((wanted[k], [k]))
        while len(groups) > 1 and _top(groups[-1], gap) - _bottom(groups[-2], gap) < gap:
            (last_center, last), (center, first) = groups.pop(), groups.pop()
            merged = center * len(first) + last_center * len(last)
            groups.append((merged / (len(first) + len(last)), first + last))
    placed = [0.0] * len(wanted)
    for group in groups:
        for place, k in enumerate(group[1]):
            placed[k] = _top(group, gap) + place * gap
    return placed


def _top(group: tuple[float, list[int]], gap: float) -> float:
    return group[0] - gap * (len(group[1]) - 1) / 2


def _bottom(group: tuple[float, list[int]], gap: float) -> float:
    return group[0] + gap * (len(group[1]) - 1) / 2


@dataclass(frozen=True, slots=True)
class _Frame:
    """Map data values to SVG coordinates."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low) if self.x_high > self.x_low else 0.5
        return _LEFT + 10 + share * (WIDTH - _LEFT - _RIGHT - 10)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def _draw_axes(svg: Element, chart: LineChart, frame: _Frame, y_ticks: Sequence[float]) -> None:
    _text(svg, 0, 11, chart.unit, "axis")
    for tick in y_ticks:
        _line(svg, (_LEFT, frame.y(tick)), (WIDTH - _RIGHT, frame.y(tick)), "zero" if tick == 0 else "grid")
        _text(svg, _LEFT - 6, frame.y(tick) + 4, tick_text(tick), "axis end")
    for boundary in chart.boundaries:
        if frame.x_low < boundary < frame.x_high:
            _line(svg, (frame.x(boundary), _TOP), (frame.x(boundary), HEIGHT - _BOTTOM), "boundary")
    if chart.x_names:
        names = [(x, name) for x, name in chart.x_names.items() if frame.x_low <= x <= frame.x_high]
        names = names[:: math.ceil(len(names) / 8)]
    else:
        ticks = nice_ticks(frame.x_low, frame.x_high)
        names = [(x, tick_text(x)) for x in ticks if frame.x_low <= x <= frame.x_high]
    for x, name in names:
        _text(svg, frame.x(x), HEIGHT - _BOTTOM + 16, name, "axis middle")
    _text(svg, (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 4, chart.x_label, "axis middle")


def _draw_series(svg: Element, k: int, series: Series, frame: _Frame) -> None:
    places = [(frame.x(x), frame.y(y)) for x, y in series.points]
    group = SubElement(svg, "g", {"class": f"s{k % NUM_COLOURS}"})
    if len(places) > 1:
        SubElement(group, "polyline", {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places)})
    if len(places) <= _MAX_MARKERS:
        for (x, y), (name, value) in zip(places, series.points, strict=True):
            mark = SubElement(group, "path", {"d": _marker(k, x, y)})
            SubElement(mark, "title").text = f"{series.label} at {tick_text(name)}: {tick_text(value)}"


def _marker(k: int, x: float, y: float) -> str:
    """Return the SVG path of a filled marker at (x, y); series cycle through circle, square, diamond and triangle."""
    if k % 4 == 0:
        return f"M{x - 3.6:.1f},{y:.1f}a3.6,3.6 0 1,0 7.2,0a3.6,3.6 0 1,0 -7.2,0z"
    if k % 4 == 1:
        return f"M{x - 3.3:.1f},{y - 3.3:.1f}h6.6v6.6h-6.6z"
    if k % 4 == 2:
        return f"M{x:.1f},{y - 4.6:.1f}l4.6,4.6l-4.6,4.6l-4.6,-4.6z"
    return f"M{x:.1f},{y - 4.4:.1f}l4.6,7.8h-9.2z"


def _draw_part(
    svg: Element, k: int, title: str, value: float, box: tuple[float, float, float], is_labelled: bool
) -> None:
    x, y, width = box
    colour = f"p{k % NUM_COLOURS}"
    size = {
        "x": f"{x:.1f}",
        "y": f"{y:.1f}",
        "width": f"{max(width - 1.5, 0.8):.1f}",
        "height": str(_BAR_PX),
        "rx": "2",
    }
    part = SubElement(svg, "rect", {"class": f"part {colour}", **size})
    SubElement(part, "title").text = title
    text = tick_text(value)
    if is_labelled and width > 8 + 7 * len(text):
        _text(svg, x + width / 2, y + 16, text, f"inside {colour}")


def _figure(title: str, legend: Sequence[tuple[int, str]], key: Literal["line", "marked line", "box"]) -> Element:
    figure = Element("figure", {"class": "chart"})
    SubElement(figure, "figcaption").text = title
    keys = SubElement(figure, "ul", {"class": "legend"})
    for k, label in legend:
        item = SubElement(keys, "li")
        view = {"class": "swatch", "aria-hidden": "true", "viewBox": "0 0 12 12" if key == "box" else "0 0 26 12"}
        swatch = SubElement(item, "svg", view)
        if key == "box":
            box = {"width": "12", "height": "12", "rx": "2"}
            SubElement(swatch, "rect", {"class": f"part p{k % NUM_COLOURS}", **box})
        else:
            group = SubElement(swatch, "g", {"class": f"s{k % NUM_COLOURS}"})
            SubElement(group, "polyline", {"points": "0,6 26,6"})
            if key == "marked line":
                SubElement(group, "path", {"d": _marker(k, 13, 6)})
        SubElement(item, "span").text = label
    return figure


def _svg(figure: Element, height: float, summary: str) -> Element:
    view = {"viewBox": f"0 0 {WIDTH} {height:g}", "class": "plot", "role": "img", "aria-label": summary}
    return SubElement(figure, "svg", view)


def _line(svg: Element, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
    ends = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    SubElement(svg, "line", {"class": style, **{name: f"{value:.1f}" for name, value in ends.items()}})


def _text(svg: Element, x: float, y: float, text: str, style: str) -> None:
    SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": style}).text = text


def _markup(figure: Element) -> Markup:
    return Markup(tostring(figure, encoding="unicode", short_empty_elements=False))  # noqa: S704 (the serializer escapes)


def thin(points: Sequence[tuple[float, float]], max_points: int) -> tuple[tuple[float, float], ...]:
    """Average neighbouring points so that at most `max_points` remain."""
    if len(points) <= max_points:
        return tuple(points)
    edges = [k * len(points) // max_points for k in range(max_points + 1)]
    runs = [points[start:end] for start, end in pairwise(edges)]
    return tuple((sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs)
