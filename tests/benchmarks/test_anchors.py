"""The published numbers that ship with the package, and what their reader refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.anchors import TAGS, read_anchors
from rlaifv.report.comparison import HEADLINES

ROW: dict[str, Any] = {
    "benchmark": "pope",
    "model": "A",
    "metrics": {"mean/f1": 85.9},
    "source": "a paper",
    "protocol": {"parser": "official", "questions": 8910},
    "tag": "R",
}


def written(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "anchors.json"
    path.write_text(json.dumps(list(rows)))
    return path


def test_shipped_anchors_name_metrics_that_tables_show() -> None:
    anchors = read_anchors()
    assert len(anchors) > 50
    for anchor in anchors:
        shown = {*HEADLINES[anchor.benchmark], "precision"}
        assert set(anchor.metrics) <= {*shown, "recall"}, anchor
    assert {anchor.tag for anchor in anchors} <= set(TAGS)
    cells = [(anchor.benchmark, anchor.model, anchor.source, str(anchor.protocol)) for anchor in anchors]
    assert len(cells) == len(set(cells))


def test_shipped_anchors_hold_the_headline_numbers_of_the_paper() -> None:
    found = {
        (anchor.model, tuple(anchor.metrics.values()))
        for anchor in read_anchors()
        if anchor.benchmark == "object_halbench"
    }
    assert {("LLaVA-1.5-7B", (54.5, 27.8)), ("RLAIF-V-7B", (10.5, 5.2)), ("RLAIF-V-12B", (4.5, 2.9))} <= found


# The largest value of a number, where it is not a percentage; official scripts differ in what they print.
SCALES = {"mmhal/score": 6.0, "mmhal/hallucination_rate": 1.0, "pope": 1.0, "refomb": 1.0}
SCALES |= {"mmstar": 1.0, "faithscore": 1.0}


def test_shipped_anchors_are_in_the_units_of_the_scores_beside_them() -> None:
    for anchor in read_anchors():
        for name, value in anchor.metrics.items():
            scale = SCALES.get(f"{anchor.benchmark}/{name}", SCALES.get(anchor.benchmark, 100.0))
            assert 0 <= value <= scale, anchor
            assert scale < 100 or value >= 0.5, anchor  # a share among percentages


def test_a_row_is_read(tmp_path: Path) -> None:
    (anchor,) = read_anchors(written(tmp_path, ROW))
    assert (anchor.model, anchor.metrics, anchor.tag) == ("A", {"mean/f1": 85.9}, "R")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"f1": "85"}}, "Metric 'f1' in row 2 of .*anchors.json has to be a number, but it is '85'"),
        ({"metrics": {"f1": True}}, "Metric 'f1' in row 2 of .* but it is True"),
        ({"metrics": {}}, "Field 'metrics' in row 2 of .* holds no number"),
        ({"tag": "X"}, "Field 'tag' in row 2 of .* must be one of R, S, D, not 'X'"),
        ({"model": " "}, "Field 'model' in row 2 of .* is empty"),
        ({"protocol": {"judge": ["a"]}}, "Protocol key 'judge' in row 2 of .* single value"),
        ({"protocol": "official"}, "Field 'protocol' in row 2 of .* has to be dict"),
        ({"origin": "?"}, "Row 2 of .* has a field 'origin', which is none of benchmark, model"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_anchors(written(tmp_path, ROW, ROW | change))


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    row = {name: value for name, value in ROW.items() if name != "source"}
    with pytest.raises(ValueError, match=r"Row 1 of .* has no field 'source'"):
        read_anchors(written(tmp_path, row))
