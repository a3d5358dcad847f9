"""MME's tables: read, scored, and refused with the line that is wrong."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rlaifv.benchmarks.mme import BENCHMARK
from rlaifv.benchmarks.protocol import Given
from rlaifv.metrics.mme import TASKS

# Image, question, right answer, response. One image with both right (200), and one with one of two: 75 + 50.
LINES = [
    ("kettle.png", "Is there a kettle? Please answer yes or no.", "Yes", "Yes"),
    ("kettle.png", "Is there a cat? Please answer yes or no.", "No", "nothing like it"),
    ("boat.png", "Is there a boat? Please answer yes or no.", "Yes", " yes"),
    ("boat.png", "Is there a dog? Please answer yes or no.", "No", "  yes"),
]


def write(folder: Path, task: str, lines: list[tuple[str, ...]]) -> None:
    folder.mkdir(exist_ok=True)
    text = "".join("\t".join(line) + "\n" for line in lines)
    (folder / f"{task}.txt").write_text(text, encoding="utf-8")


@pytest.fixture
def given(tmp_path: Path) -> Given:
    for task in TASKS:
        write(tmp_path / "answers", task, LINES)
        write(tmp_path / "questions", task, [line[:3] for line in LINES])
    return Given(questions=tmp_path / "questions", answers=tmp_path / "answers")


def refused(given: Given, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BENCHMARK.score(given)


def test_by_hand(given: Given) -> None:
    result = BENCHMARK.score(given)
    assert result.metrics == {
        **dict.fromkeys(TASKS, 125.0),
        "total": 500.0,
        "object_level": 250.0,
        "attribute_level": 250.0,
        "accuracy": dict.fromkeys(TASKS, 75.0),
        "accuracy_plus": dict.fromkeys(TASKS, 50.0),
    }
    assert (result.num_invalid, result.version) == (4, "unknown")
    assert result.counts == {**{f"{task}_questions": 4 for task in TASKS}, "missing": 0}
    assert result.protocol == {"parser": "official", "complete": True}
    assert "MME has 60 questions on existence, but" in result.warnings[0]
    assert BENCHMARK.score(replace(given, questions=None)) == result


def test_the_official_size_is_known(tmp_path: Path) -> None:
    for task in TASKS:
        write(tmp_path, task, LINES * 15)
    result = BENCHMARK.score(Given(answers=tmp_path))
    assert (result.version, result.warnings, result.metrics["total"]) == ("v1", (), 500.0)


def test_parsers_go_through(given: Given) -> None:
    lmms = BENCHMARK.score(replace(given, parser="lmms_eval"))
    assert (lmms.num_invalid, lmms.metrics["count"]) == (0, 125.0)  # "  yes" is read, and wrong
    kit = BENCHMARK.score(replace(given, parser="vlmevalkit"))
    assert (kit.num_invalid, kit.metrics["count"]) == (4, 50.0)  # "nothing like it" is not read
    strict = BENCHMARK.score(replace(given, parser="strict"))
    assert (strict.num_invalid, strict.metrics["count"]) == (4, 50.0)
    refused(replace(given, parser="first"), "MME has the parsers")


def test_answer_rows_come_back_as_answers(given: Given, tmp_path: Path) -> None:
    items = BENCHMARK.items(given)
    assert (items[4].id, items[4].question, items[4].images) == ("count/1", LINES[0][1], ("count/kettle.png",))
    rows = BENCHMARK.answer_rows(given, items, [line[3] for line in LINES] * 4)
    assert rows[4] == {
        "task": "count",
        "image": "kettle.png",
        "question": LINES[0][1],
        "answer": "Yes",
        "response": "Yes",
    }
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert BENCHMARK.score(replace(given, answers=path)).metrics == BENCHMARK.score(given).metrics
    rows[4]["task"] = "posters"
    path.write_text(json.dumps(rows), encoding="utf-8")
    refused(replace(given, answers=path), "Field 'task' in row 5 of")


def test_missing_tasks_are_told_where_they_are_allowed(given: Given) -> None:
    assert given.answers is not None
    (given.answers / "count.txt").unlink()
    refused(given, "has no answers to count; allow_incomplete=true scores the other tasks, and says so.")
    result = BENCHMARK.score(replace(given, allow_incomplete=True))
    assert result.metrics.keys() == {"existence", "position", "color", "attribute_level", "accuracy", "accuracy_plus"}
    assert (result.counts["missing"], result.protocol["complete"]) == (1, False)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*LINES[:3], (*LINES[3], "more")], "Line 4 of"),
        ([*LINES[:3], LINES[3][:3]], "has 3 columns in place of 4 (image, question, answer, response)"),
        ([*LINES[:3], (*LINES[3][:2], "Maybe", "No")], "has to be Yes or No, but it is 'Maybe'"),
        (LINES[:3], "has 3 lines on one task; there are two for each image"),
        ([LINES[0], LINES[2], LINES[1], LINES[3]], "Lines 1 and 2 of"),
        (LINES[:2], "has 2 answers to the 4 questions on color"),
        ([*LINES[2:], *LINES[:2]], "Line 1 on color of"),
        ([*LINES[:3], (*LINES[3][:2], "Yes", "No")], "or their right answers differ"),
    ],
)
def test_tables_that_do_not_fit_are_refused(given: Given, lines: list[tuple[str, ...]], message: str) -> None:
    assert given.answers is not None
    write(given.answers, "color", lines)
    refused(given, message)


def test_a_directory_without_tables_is_refused(given: Given, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(replace(given, answers=tmp_path / "empty"), "has none of existence.txt, count.txt, position.txt, color.txt")
    refused(replace(given, questions=tmp_path / "answers" / "color.txt"), "has to be a directory with existence.txt")
    with pytest.raises(ValueError, match="questions=… must be given for benchmark=mme"):
        BENCHMARK.items(Given())
