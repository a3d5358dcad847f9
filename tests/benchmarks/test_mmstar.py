import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.mmstar import BENCHMARK
from rlaifv.benchmarks.protocol import Given

PICTURE = bytes(range(100))
HEAD = ("index", "question", "image", "answer", "category", "l2_category", "bench")
ROWS = [
    ("0", "How many? A: 1, B: 2", base64.b64encode(PICTURE).decode(), "B", "math", "geometry", "MathVista"),
    ("1", "Which? A: x, B: y", "0", "A", "math", "statistics", "MMMU"),
    ("2", "What? A: x, B: y", "0", "C", "instance reasoning", "single", "MMMU"),
]


def write_table(path: Path, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in [head, *rows]), encoding="utf-8")
    return path


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> Given:
    predictions = ["Because A", "the answer is B", "The correct answer is C"]
    return Given(
        questions=write_table(tmp_path / "MMStar.tsv", HEAD, ROWS),
        answers=write(tmp_path / "a.jsonl", [{"index": k, "prediction": text} for k, text in enumerate(predictions)]),
    )


def test_official_numbers(files: Given) -> None:
    result = BENCHMARK.score(files)
    assert result.metrics["accuracy"] == 1 / 1500
    assert result.metrics["math"] == 1 / 250
    assert result.metrics["instance reasoning"] == 0
    assert result.metrics["subcategories"] == {
        "math": {"geometry": 1.0, "statistics": 0.0},
        "instance reasoning": {"single": 0.0},
    }
    assert (result.num_invalid, result.version) == (1, "3 questions")
    assert result.warnings == (
        "There are 3 questions, but MMStar has 1500.",
        "The official scorer divides by 1500 and 250, however many answers there are.",
    )


def test_lmms_eval(files: Given) -> None:
    """Subcategories: geometry A for B, statistics B for A, single C for C."""
    result = BENCHMARK.score(replace(files, parser="lmms_eval"))
    assert result.metrics["accuracy"] == pytest.approx(1 / 3)
    assert (result.metrics["math"], result.metrics["instance reasoning"]) == (0, 1)
    assert (result.num_invalid, result.protocol["parser"]) == (0, "lmms_eval")


def test_answers_may_be_a_table_and_say_themselves_what_is_right(files: Given, tmp_path: Path) -> None:
    texts = [row["prediction"] for row in map(json.loads, files.answers.read_text().splitlines())]  # type: ignore[union-attr]
    rows = [(row[0], *row[3:], text) for row, text in zip(ROWS, texts, strict=True)]
    table = write_table(tmp_path / "answers.tsv", (HEAD[0], *HEAD[3:], "prediction"), rows)
    assert BENCHMARK.score(Given(answers=table)).metrics == BENCHMARK.score(files).metrics
    with pytest.raises(ValueError, match=re.escape(f"Row 1 of {files.answers} has no field 'answer'")):
        BENCHMARK.score(Given(answers=files.answers))


def test_a_short_image_is_that_of_another_row(files: Given) -> None:
    items = BENCHMARK.items(files)
    assert [item.images for item in items] == [(PICTURE,)] * 3
    assert items[1].question == "Which? A: x, B: y"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("7", "The image of index 1 in {path} is neither a picture nor the index of a row with one."),
        ("1", "The image of index 1 in {path} is neither a picture"),
        ("", "The image of index 1 in {path} is neither a picture"),
        ("%" * 80, "The image of index 1 in {path} is not base64"),
    ],
)
def test_images_that_are_none_are_refused(files: Given, image: str, message: str) -> None:
    assert files.questions is not None
    write_table(files.questions, HEAD, [ROWS[0], (*ROWS[1][:2], image, *ROWS[1][3:])])
    with pytest.raises(ValueError, match=re.escape(message.replace("{path}", str(files.questions)))):
        BENCHMARK.items(files)


def test_questions_go_out_and_answers_come_back(files: Given, tmp_path: Path) -> None:
    rows = BENCHMARK.answer_rows(files, BENCHMARK.items(files), ["B", "A", "C"])
    assert rows[1] == {
        "index": 1, "question": "Which? A: x, B: y", "answer": "A", "category": "math", "l2_category": "statistics",
        "bench": "MMMU", "prediction": "A",
    }  # fmt: skip
    answers = write(tmp_path / "mine.jsonl", rows)
    assert BENCHMARK.score(Given(answers=answers)).metrics["accuracy"] == 3 / 1500


def test_missing_and_doubled_answers(files: Given) -> None:
    assert files.answers is not None
    write(files.answers, [{"index": 1, "prediction": "A"}])
    with pytest.raises(ValueError, match="has no answer for 0, 2"):
        BENCHMARK.score(files)
    result = BENCHMARK.score(replace(files, allow_incomplete=True))
    assert result.counts == {"questions": 3, "scored": 1, "missing": 2}
    assert result.protocol["incomplete"] is True
    write(files.answers, [{"index": 1, "prediction": "A"}] * 2)
    with pytest.raises(ValueError, match=f"Row 2 of {files.answers} has the index 1, which row 1 has too"):
        BENCHMARK.score(files)
    write(files.answers, [{"index": 1, "prediction": None}])
    with pytest.raises(ValueError, match="Field 'prediction' in row 1"):
        BENCHMARK.score(files)
