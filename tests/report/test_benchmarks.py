"""The benchmarks' tables of a run, on the page and on the terminal."""

import json
import re
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.metrics.known_objects import benchmark_rates
from rlaifv.models.sampling import Decoding, Sampled
from rlaifv.records import Response
from rlaifv.report.benchmarks import COLUMNS, TABLES, shown_tables
from rlaifv.report.console import benchmark_table
from rlaifv.report.glossary import entry
from rlaifv.report.page import write_report
from rlaifv.worlds.shapes_source import ShapesSource

BASE = {name: 0.5 for name in COLUMNS} | {"chair/chair_s": 0.285, "pope_told/f1": 0.828}
AFTER = {name: 0.75 for name in COLUMNS} | {"chair/chair_s": 0.047, "pope_told/f1": 0.972}


class SaysNo:
    """A policy that denies everything."""

    def sample(self, prompts: Any, seeds: Any, decoding: Decoding, advance: Advance = ignore_progress) -> Any:
        return [[Sampled((0,), True)] for _ in prompts]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "No"


def with_benchmarks(run_dir: Path) -> Path:
    """Give a run's first, second and last evaluation numbers of the benchmarks."""
    for k, numbers in ((0, BASE), (1, {name: 0.111 for name in COLUMNS}), (4, AFTER)):
        path = run_dir / "evaluations" / f"{k:03d}.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        data["metrics"] |= numbers
        path.write_text(json.dumps(data), encoding="utf-8")
    return run_dir


def evaluations_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted((run_dir / "evaluations").iterdir())]


def test_the_tables_have_a_column_for_every_number_that_is_measured(tmp_path: Path) -> None:
    source = ShapesSource(tmp_path, 4, seed=0)
    prompts = source.held_out()
    answers = [
        Response(f"{prompt.id}/0", prompt.id, " ".join(source.facts(prompt.id)), (), True, 0) for prompt in prompts
    ]
    assert set(benchmark_rates(prompts, answers, SaysNo(), source)) == set(COLUMNS)
    assert sum(len(table.columns) for table in TABLES) == len(COLUMNS)


def test_numbers_have_their_benchmark_in_their_name() -> None:
    assert entry("chair/recall").label == "CHAIR, of shapes: Recall"
    assert (entry("amber/cog").better, entry("amber/cog").unit) == ("lower", "share")
    labels = [entry(name).label for name in COLUMNS]
    assert len(labels) == len(set(labels))


def test_tables_without_a_number_are_left_out() -> None:
    assert [table.title for table in shown_tables({"pope/f1": 1.0})] == ["POPE, asked"]
    assert shown_tables({"coverage": 1.0}) == []


def test_the_page_shows_the_base_model_and_the_last_policy(make_run: Callable[..., Path]) -> None:
    html = write_report(with_benchmarks(make_run())).read_text(encoding="utf-8")
    (section,) = re.findall(r'<section id="benchmarks">.*?</section>', html, flags=re.DOTALL)
    assert section.count("<table>") == len(TABLES) == 5
    assert re.findall(r'<th scope="row">(.*?)</th>', section) == ["base", "iteration 4"] * 5
    assert "CHAIR s ↓" in section
    assert "28.5%" in section
    assert "4.7%" in section
    assert "11.1%" not in section
    assert '<a href="#benchmarks">' in html


def test_a_page_of_the_base_model_alone_has_one_row(make_run: Callable[..., Path]) -> None:
    html = write_report(with_benchmarks_of_base(make_run(0))).read_text(encoding="utf-8")
    (section,) = re.findall(r'<section id="benchmarks">.*?</section>', html, flags=re.DOTALL)
    assert re.findall(r'<th scope="row">(.*?)</th>', section) == ["base"] * 5


def with_benchmarks_of_base(run_dir: Path) -> Path:
    path = run_dir / "evaluations" / "000.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | {"metrics": data["metrics"] | BASE}), encoding="utf-8")
    return run_dir


def test_a_run_that_was_not_measured_so_has_no_such_section(make_run: Callable[..., Path]) -> None:
    run_dir = make_run()
    assert 'id="benchmarks"' not in write_report(run_dir).read_text(encoding="utf-8")
    assert benchmark_table(evaluations_of(run_dir)) is None
    assert benchmark_table([]) is None


def test_the_terminal_shows_both_ends_in_a_hundred_columns(make_run: Callable[..., Path]) -> None:
    table = benchmark_table(evaluations_of(with_benchmarks(make_run())))
    assert table is not None
    console = Console(file=StringIO(), width=100, highlight=False)
    console.print(table)
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["base", "0.285", *["0.500"] * 6, "0.828"] in lines
    assert ["iteration", "4", "0.047", *["0.750"] * 6, "0.972"] in lines
    assert not any("0.111" in line for line in lines)
