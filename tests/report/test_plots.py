import itertools
import math
import re
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.report.plots import (
    HEIGHT,
    WIDTH,
    BarChart,
    LineChart,
    Series,
    bar_chart,
    line_chart,
    nice_ticks,
    spread,
    thin,
    tick_text,
)

numbers = st.floats(-1e6, 1e6)


def chart(*series: Series, **rest: object) -> Element:
    return fromstring(line_chart(LineChart("Title", "%", "steps", series, **rest)))  # type: ignore[arg-type]


def points(figure: Element) -> list[list[tuple[float, float]]]:
    lines = figure.findall("svg/g/polyline")
    return [[tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()] for line in lines]


@given(numbers, numbers)
def test_ticks_hold_their_range_and_are_evenly_round(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= high - 1e-6 * step
    assert 2 <= len(ticks) <= 7
    assert all(math.isclose(y - x, step, rel_tol=1e-6) for x, y in itertools.pairwise(ticks))


@given(st.lists(st.floats(0, 200), max_size=8))
def test_spread_labels_keep_order_and_distance(wanted: list[float]) -> None:
    placed = spread(wanted, gap=10.0)
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    ordered = [placed[k] for k in order]
    assert all(y - x >= 10 - 1e-9 for x, y in itertools.pairwise(ordered))
    if all(abs(x - y) >= 10 for k, x in enumerate(wanted) for y in wanted[:k]):
        assert placed == pytest.approx(wanted)


def test_values_are_drawn_to_scale() -> None:
    figure = chart(Series("a", ((0, 0.0), (1, 50.0), (2, 100.0))))
    ((first, middle, last),) = points(figure)
    assert first[0] < middle[0] < last[0]
    assert first[1] > middle[1] > last[1]
    assert middle == pytest.approx(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), abs=0.2)
    grid = {
        tick.text: float(tick.attrib["y"]) - 4 for tick in figure.findall("svg/text") if tick.get("class") == "axis end"
    }
    assert grid["0"] == pytest.approx(first[1], abs=0.1)
    assert grid["100"] == pytest.approx(last[1], abs=0.1)


def test_last_value_is_written_beside_its_line() -> None:
    figure = chart(Series("a", ((0, 3.0), (1, 8.0))), Series("b", ((0, 9.0), (1, 7.9))))
    labels = {label.text: label for label in figure.findall("svg/text") if "value" in label.attrib["class"]}
    assert set(labels) == {"8", "7.9"}
    assert abs(float(labels["8"].attrib["y"]) - float(labels["7.9"].attrib["y"])) >= 12.9


@given(st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5), min_size=1, max_size=4))
def test_lines_stay_inside_the_drawing(data: list[list[tuple[float, float]]]) -> None:
    series = tuple(Series(str(k), tuple(sorted(line))) for k, line in enumerate(data))
    for line in points(chart(*series)):
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in line)


def test_one_point_is_a_marker_without_a_line() -> None:
    figure = chart(Series("a", ((3, 7.0),)))
    assert not figure.findall("svg/g/polyline")
    assert len(figure.findall("svg/g/path")) == 1


def test_series_without_points_keep_the_others_look() -> None:
    figure = chart(Series("a", ()), Series("b", ((0, 1.0), (1, 2.0))))
    assert [item.text for item in figure.findall("ul/li/span")] == ["b"]
    assert [group.get("class") for group in figure.findall("svg/g")] == ["s1"]
    assert line_chart(LineChart("Title", "%", "steps", (Series("a", ()),))) == ""


def test_names_and_boundaries_of_the_x_axis() -> None:
    figure = chart(
        Series("a", ((0, 1.0), (1, 2.0), (2, 2.0))),
        x_names={0.0: "base", 1.0: "one", 2.0: "two", 9.0: "far"},
        boundaries=(1.0, 2.0, 7.0),
    )
    texts = [text.text for text in figure.findall("svg/text")]
    assert {"base", "one", "two", "steps", "%"} <= set(texts)
    assert "far" not in texts
    assert [line.get("class") for line in figure.findall("svg/line")].count("boundary") == 1


def test_many_names_are_thinned_out() -> None:
    names = {float(k): f"n{k}" for k in range(40)}
    figure = chart(Series("a", tuple((float(k), 1.0) for k in range(40))), x_names=names)
    shown = [text.text for text in figure.findall("svg/text") if re.fullmatch(r"n\d+", text.text or "")]
    assert len(shown) == 8


def test_labels_are_escaped() -> None:
    evil = "</text><script>alert('\"1')</script>"
    figure = fromstring(
        line_chart(LineChart(evil, evil, evil, (Series(evil, ((0, 1.0), (1, 2.0))),), x_names={0.0: evil}))
    )
    assert not list(figure.iter("script"))
    assert figure.findtext("figcaption") == evil
    bars = fromstring(bar_chart(BarChart(evil, evil, (evil,), ((evil, (3.0,)),))))
    assert not list(bars.iter("script"))
    assert bars.findtext("ul/li/span") == evil


def test_bars_are_drawn_to_scale_with_their_totals() -> None:
    figure = fromstring(
        bar_chart(BarChart("T", "pairs", ("kept", "tie"), (("one", (100.0, 300.0)), ("two", (200.0, 0.0)))))
    )
    widths = [float(part.attrib["width"]) + 1.5 for part in figure.findall("svg/rect")]
    assert len(widths) == 3
    assert widths[1] == pytest.approx(3 * widths[0], abs=0.2)
    assert widths[2] == pytest.approx(2 * widths[0], abs=0.2)
    texts = [text.text for text in figure.findall("svg/text")]
    assert {"400", "200"} <= set(texts)
    assert figure.findtext("svg/rect/title") == "one: 100 kept"
    assert "one: 100 kept, 300 tie" in figure.find("svg").attrib["aria-label"]  # type: ignore[union-attr]


def test_bars_of_nothing_are_no_chart() -> None:
    assert bar_chart(BarChart("T", "pairs", ("kept",), (("one", (0.0,)),))) == ""
    assert bar_chart(BarChart("T", "pairs", (), ())) == ""


@given(st.lists(st.tuples(st.integers(0, 999), st.floats(-1, 1)), min_size=1, max_size=300), st.integers(1, 50))
def test_thinned_points_stay_in_order_and_range(data: list[tuple[int, float]], max_points: int) -> None:
    line = sorted(data)
    thinned = thin(line, max_points)
    assert len(thinned) == min(len(line), max_points)
    assert list(thinned) == sorted(thinned, key=lambda point: point[0])
    assert min(y for _, y in line) - 1e-9 <= min(y for _, y in thinned)
    assert max(y for _, y in thinned) <= max(y for _, y in line) + 1e-9


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (100.0, "100"),
        (20.0, "20"),
        (0.05, "0.05"),
        (1.0, "1"),
        (-2.5, "−2.5"),
        (94.31, "94.3"),
    ],
)
def test_tick_texts(value: float, text: str) -> None:
    assert tick_text(value) == text
