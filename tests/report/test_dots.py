from xml.etree.ElementTree import fromstring

import pytest

from rlaifv.report.dots import DotPanel, dot_plot

SVG = "{http://www.w3.org/2000/svg}"


def test_a_dot_for_each_run_and_a_line_at_the_mean() -> None:
    panel = DotPanel("hallucination <response>", ((0.1, 0.3), (), (0.8,)))
    svg = fromstring(dot_plot(["a & b", "failed", "c"], [panel]))
    circles = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in svg.iter(f"{SVG}circle")]
    assert len(circles) == 3
    assert circles[0][1] == circles[1][1] < circles[2][1]
    left = circles[0][0] - (circles[1][0] - circles[0][0]) / 2  # where 0 is, if the scale is linear
    assert circles[2][0] - left == pytest.approx(8 * (circles[0][0] - left), abs=0.5)
    lines = [line for line in svg.iter(f"{SVG}line") if line.get("class") == "mean"]
    assert [float(line.get("x1", "")) for line in lines] == [
        pytest.approx((circles[0][0] + circles[1][0]) / 2, abs=0.11),
        circles[2][0],
    ]
    assert svg.get("aria-label") == "hallucination <response>, means: a & b 0.200, c 0.800"
    assert {"a & b", "failed", "c"} <= {text.text for text in svg.iter(f"{SVG}text")}


def test_rows_that_belong_to_no_setting_are_refused() -> None:
    with pytest.raises(ValueError, match="coverage has 1 rows for 2 settings"):
        dot_plot(["a", "b"], [DotPanel("coverage", ((1.0,),))])


def test_nothing_but_zeros_is_drawn() -> None:
    assert dot_plot(["a"], [DotPanel("words", ((0.0, 0.0),))]).count("<circle") == 2
