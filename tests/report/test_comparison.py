"""Models side by side: columns never mix protocols, and published numbers are never silently beside."""

import io
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest
from rich.console import Console

from rlaifv.benchmarks.anchors import Anchor
from rlaifv.benchmarks.results import StoredResult
from rlaifv.report.comparison import Comparison, compare, markdown, plot, published_table, result_tables

OFFICIAL = {"parser": "official", "judge": "gpt-4"}


def result(model: str, benchmark: str = "mmhal", fingerprint: str = "11aa", **metrics: float | None) -> StoredResult:
    protocol = OFFICIAL if fingerprint == "11aa" else {"parser": "official", "judge": "gpt-4o"}
    return StoredResult(benchmark, model, metrics, protocol, fingerprint, {}, Path(f"{model}.json"))


def anchor(model: str = "GPT-4V", protocol: dict[str, Any] | None = None, benchmark: str = "mmhal") -> Anchor:
    metrics = {"score": 3.49, "hallucination_rate": 28.1}
    return Anchor(benchmark, model, metrics, "a paper", OFFICIAL if protocol is None else protocol, "S")


def printed(comparison: Comparison, width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for table in (*result_tables(comparison, width), published_table(comparison)):
        console.print(table)
    return console.export_text()


def test_models_are_rows_and_headline_numbers_columns_with_the_best_in_bold() -> None:
    base = result("base", score=2.1, hallucination_rate=52.1, informativeness=40.0)
    aligned = result("aligned", score=3.06, hallucination_rate=29.2, informativeness=41.0)
    lines = markdown(compare([base, aligned])).splitlines()
    assert lines[2:6] == [
        "| model | mmhal score ↑ | mmhal hallucination_rate ↓ |",
        "|---|---:|---:|",
        "| base | 2.10 | 52.1 |",
        "| aligned | **3.06** | **29.2** |",
    ]
    assert "- mmhal: judge gpt-4, parser official; fingerprint 11aa" in lines


def test_models_that_were_not_scored_on_a_benchmark_leave_its_columns_empty() -> None:
    one = [result("base", score=2.1), result("base", "refomb", trust=30.0), result("aligned", "refomb", trust=47.5)]
    assert "| aligned | – | **47.5** |" in markdown(compare(one))
    undefined = compare([result("base", score=None, hallucination_rate=50.0)])
    assert "| base | – | 50.0 |" in markdown(undefined)


def test_an_unknown_benchmark_shows_all_its_numbers_and_calls_none_the_best() -> None:
    text = markdown(compare([result("base", "new", x=1.0, y=2.0), result("aligned", "new", x=2.0, y=1.0)]))
    assert "| model | new x | new y |" in text
    assert "| base | 1.00 | 2.00 |" in text


def test_protocols_are_not_mixed_in_a_column_but_split_on_request() -> None:
    results = [
        result("base", score=2.1),
        result("base", "pope", f1=80.0),
        result("aligned", fingerprint="22bb", score=3.0),
    ]
    with pytest.raises(ValueError, match=r"judge is 'gpt-4' in the first and 'gpt-4o' in the second"):
        compare(results)
    comparison = compare(results, split=True)
    assert [column.labels for column in comparison.columns] == [
        ("mmhal (a)", "score ↑"),
        ("mmhal (b)", "score ↑"),
        ("pope", "f1"),
    ]
    assert "| base | 2.10 | – | 80.0 |" in markdown(comparison)
    assert "| aligned | – | 3.00 | – |" in markdown(comparison)
    assert len(comparison.protocols) == 3


def test_one_model_under_two_protocols_is_one_row() -> None:
    results = [result("base", score=2.1), result("base", fingerprint="22bb", score=3.0)]
    (row,) = compare(results, split=True).rows
    assert sorted(row.cells.values()) == [2.1, 3.0]


def test_published_numbers_stand_in_a_column_only_under_its_very_protocol() -> None:
    others = [
        anchor("less known", {"judge": "gpt-4"}),
        anchor("unknown", {}),
        anchor("other", OFFICIAL | {"judge": "x"}),
    ]
    comparison = compare([result("base", score=2.1)], [anchor(), *others, anchor("elsewhere", benchmark="pope")])
    assert [(row.model, row.source) for row in comparison.rows] == [("base", None), ("GPT-4V", "a paper [S]")]
    assert [one.model for one in comparison.apart] == ["less known", "unknown", "other"]
    text = markdown(comparison)
    above, _, below = text.partition("## Published under other protocols")
    assert "GPT-4V (a paper \\[S\\]) | 3.49 |" in above
    assert "less known" not in above
    assert "| mmhal | unknown | score 3.49, hallucination\\_rate 28.1 | not stated | a paper | S |" in below
    assert "- S: read in a secondary note" in below


def test_nothing_known_equals_nothing_else() -> None:
    bare = StoredResult("mmhal", "base", {"score": 2.1}, {}, "11aa", {}, Path("a.json"))
    assert compare([bare], [anchor(protocol={})]).apart != ()


def test_published_numbers_are_never_the_best() -> None:
    text = markdown(compare([result("base", score=2.1), result("aligned", score=2.0)], [anchor()]))
    assert "| base | **2.10** |" in text
    assert "**3.49**" not in text


def test_a_split_protocol_has_its_own_published_numbers() -> None:
    results = [result("base", score=2.1), result("base", fingerprint="22bb", score=3.0)]
    comparison = compare(results, [anchor()], split=True)
    (published,) = [row for row in comparison.rows if row.source]
    assert {column.mark for column in published.cells} == {"a"}


def test_a_narrow_terminal_gets_a_table_for_each_benchmark() -> None:
    comparison = compare(
        [result("base", score=2.1), result("base", "refomb", trust=30.0)], [anchor(), anchor("far", {})]
    )
    assert len(result_tables(comparison, 200)) == 1
    assert len(result_tables(comparison, 30)) == 2
    text = printed(comparison)
    for word in ("mmhal", "refomb", "2.10", "30.0", "GPT-4V (a paper [S])", "Published under other protocols", "far"):
        assert word in text


def test_the_plot_has_a_panel_for_each_column_and_a_bar_for_each_model() -> None:
    results = [result("base", score=2.1, hallucination_rate=52.1), result("a <b>", score=3.0)]
    svg = fromstring(plot(compare(results, [anchor(), anchor("far", {})])))
    space = "{http://www.w3.org/2000/svg}"
    texts = ["".join(text.itertext()) for text in svg.iter(f"{space}text")]
    assert texts.count("mmhal") == 2
    assert {"score ↑", "hallucination_rate ↓", "base", "a <b>", "GPT-4V", "52.1", "2.1"} <= set(texts)
    assert "far" not in texts
    bars = [bar for bar in svg.iter(f"{space}rect") if "part" in bar.get("class", "")]
    assert [bar.get("class") for bar in bars] == ["part p0", "part p0", "part p1", "part p0", "part p1"]
    widths = [float(bar.get("width", "")) for bar in bars]
    assert widths[0] / widths[1] == pytest.approx(2.1 / 3.0, abs=0.02)


def test_names_from_files_cannot_break_the_markdown() -> None:
    text = markdown(compare([result("a|b\n<script>`", score=2.1)]))
    assert "| a\\|b \\<script\\>\\` | 2.10 |" in text
