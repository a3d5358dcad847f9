"""MHumanEval from files of responses and marks."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.mhumaneval import BENCHMARK
from rlaifv.benchmarks.protocol import Given, Item

CLEAN = {"object": False, "position": 0, "number": False, "other": 0}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def files(folder: Path, marks: list[dict[str, Any]], num_answers: int) -> Given:
    answers = [{"question_id": k, "prompt": "Describe.", "text": "A dog."} for k in range(num_answers)]
    return Given(answers=write(folder / "answers.jsonl", answers), reviews=write(folder / "reviews.jsonl", marks))


def test_scores_by_hand_in_any_order(tmp_path: Path) -> None:
    marks = [{"question_id": k} | CLEAN for k in range(3)]
    marks[1] |= {"object": True, "number": 1}
    result = BENCHMARK.score(files(tmp_path, marks[::-1], 3))
    assert result.metrics == {"object": 33.3, "position": 0.0, "number": 33.3, "other": 0.0, "all": 33.3}
    assert result.counts["responses"] == 3
    assert result.protocol["judge"] == "people"
    assert result.warnings == ("There are 3 responses; the benchmark has 146 prompts.",)


def test_the_whole_benchmark_has_no_warning(tmp_path: Path) -> None:
    marks = [{"question_id": k} | CLEAN | {"other": k < 65} for k in range(146)]
    result = BENCHMARK.score(files(tmp_path, marks, 146))
    assert (result.metrics["all"], result.warnings, result.version) == (44.5, (), "146 prompts")


def test_missing_marks_are_refused_or_said(tmp_path: Path) -> None:
    given = files(tmp_path, [{"question_id": 1} | CLEAN], 2)
    with pytest.raises(ValueError, match=r"reviews.jsonl has no answer of the annotators for 0"):
        BENCHMARK.score(given)
    assert BENCHMARK.score(replace(given, allow_incomplete=True)).counts["missing"] == 1


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ([{"question_id": 0} | CLEAN | {"other": 2}], "Row 1 of"),
        ([{"question_id": 0, "object": True}], "has no field 'position'"),
        ([{"question_id": 0} | CLEAN] * 2, "has more than one row for 0"),
        ([CLEAN], "has no field 'question_id'"),
    ],
)
def test_broken_marks_are_refused(tmp_path: Path, marks: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BENCHMARK.score(files(tmp_path, marks, 1))


def test_items_and_answers_go_round(tmp_path: Path) -> None:
    rows = [{"question_id": "a", "question": "What?", "image": "1.jpg"}]
    given = Given(questions=write(tmp_path / "questions.jsonl", rows))
    items = BENCHMARK.items(given)
    assert items == [Item("a", "What?", ("1.jpg",))]
    assert BENCHMARK.answer_rows(given, items, ["A dog."]) == [
        {"question_id": "a", "prompt": "What?", "text": "A dog."}
    ]
