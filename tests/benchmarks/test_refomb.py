import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.protocol import Given
from rlaifv.benchmarks.refomb import BENCHMARK, SECOND_TEMPLATE, TEMPLATE
from rlaifv.benchmarks.templates import fill


def question(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "image_url": f"https://example.org/{number % 3}.jpg",
        "question": f"What is on table {number}?",
        "description": "A table with a red kettle.",
        "type": "OCR" if number else "Creative Generation",
        "split": "dev",
        "answer": "",
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> Given:
    """Three questions. The candidate's answers come in another order."""
    questions = [question(k) for k in range(3)]
    answers = [{name: row[name] for name in ("question", "image_url", "type")} for row in questions]
    return Given(
        questions=write(tmp_path / "questions.jsonl", questions),
        annotations=write(tmp_path / "gpt4v.jsonl", [{**row, "answer": f"A kettle {row['id']}."} for row in questions]),
        answers=write(
            tmp_path / "answers.jsonl", [{**row, "answer": f"{row['question']}<|endoftext|>"} for row in answers[::-1]]
        ),
        reviews=write(
            tmp_path / "reviews.jsonl",
            [
                {"id": 2, "overall": "[[A]]", "hallucination": "[[B]]"},
                {"id": 0, "overall": "[[C]]", "hallucination": "[[A]]"},
                {"id": 1, "overall": "[[B]]", "hallucination": "[[B]]"},
            ],
        ),
    )


def test_official_numbers(files: Given) -> None:
    result = BENCHMARK.score(files)
    assert {name: result.metrics[name] for name in ("trust", "win")} == {"trust": 0.667, "win": 0.5}
    assert result.metrics["types"] == {
        "creative generation": {"trust": 0.0, "win": 0.5},
        "ocr": {"trust": 1.0, "win": 0.5},
    }
    assert (result.num_invalid, result.version) == (0, "3 questions")
    assert result.warnings == ("There are 3 questions, but RefoMB has 99.",)
    assert BENCHMARK.score(replace(files, rounding="none")).metrics["trust"] == pytest.approx(2 / 3)


def test_reviews_alone_are_enough_also_as_the_official_script_leaves_them(files: Given, tmp_path: Path) -> None:
    whole = BENCHMARK.score(files).metrics
    found = BENCHMARK.score(Given(reviews=files.reviews)).metrics
    assert (found["trust"], found["win"]) == (whole["trust"], whole["win"])
    assert found["types"] == {}
    official = [
        {
            "score": 1,
            "review_text": "[[B]]",
            "review_res": "[[B]]",
            "type_name": "OCR",
            "modelA": "GPT-4V",
            "modelB": "m",
        },
        {"score": -1, "review_text": "[[C]]", "review_res": "[[A]]", "type_name": "Creative Generation"},
    ]
    found = BENCHMARK.score(Given(reviews=write(tmp_path / "hall.json", official))).metrics
    assert (found["trust"], found["win"]) == (0.5, 0.75)
    assert found["types"]["ocr"] == {"trust": 1.0, "win": 1.0}


def test_quirk_a_review_without_verdict_shrinks_the_denominator(files: Given, tmp_path: Path) -> None:
    reviews = write(tmp_path / "reviews.jsonl", [["[[A]]", "[[B]]"], ["so?", "[[A]]"], ["[[B]]", "so?"]])
    result = BENCHMARK.score(replace(files, reviews=reviews))
    assert (result.metrics["win"], result.metrics["trust"], result.num_invalid) == (0.5, 1.0, 2)
    with pytest.raises(ValueError, match="A review has no verdict: 'so"):
        BENCHMARK.score(replace(files, reviews=reviews, invalid_judge="raise"))
    none = write(tmp_path / "none.jsonl", [["so?", "so?"]] * 3)
    with pytest.raises(ValueError, match="trust is undefined: no second review has a verdict"):
        BENCHMARK.score(replace(files, reviews=none))


def test_quirk_answers_are_found_by_question_and_image(files: Given) -> None:
    asked = BENCHMARK.conversations(files, "{description}|{question}|{reference}|{answer}")
    assert asked[1] == ("1", "A table with a red kettle.|What is on table 1?|A kettle 1.|What is on table 1?<EOT>")
    assert [one for one, _ in asked] == ["2", "1", "0"]


def test_missing_answers_and_reviews(files: Given) -> None:
    assert files.answers is not None
    lines = files.answers.read_text(encoding="utf-8").splitlines()
    files.answers.write_text("\n".join(lines[:2]), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{files.answers} has no answer for 0;")):
        BENCHMARK.score(files)
    with pytest.raises(ValueError, match="for 0, which the benchmark does not ask about"):
        BENCHMARK.score(replace(files, allow_incomplete=True))
    assert files.reviews is not None
    write(files.reviews, [{"id": 2, "overall": "[[B]]", "hallucination": "[[B]]"}])
    result = BENCHMARK.score(replace(files, allow_incomplete=True))
    assert result.counts == {"questions": 3, "reviews": 1, "missing": 2}
    assert result.protocol["incomplete"] is True


def test_files_of_another_kind_are_refused(files: Given) -> None:
    assert files.questions is not None
    assert files.answers is not None
    with pytest.raises(ValueError, match=f"{files.questions} has no answer of GPT-4V to question 2; annotations=…"):
        BENCHMARK.conversations(replace(files, annotations=None))
    write(files.answers, [{"question": "Who?", "image_url": "x", "answer": "me"}])
    with pytest.raises(ValueError, match="has an answer for row 1, which the benchmark does not ask about"):
        BENCHMARK.score(files)
    write(files.questions, [question(0), question(0)])
    with pytest.raises(ValueError, match=f"Row 2 of {files.questions} has the id 0, which row 1 has too"):
        BENCHMARK.items(files)


def test_questions_go_out_and_answers_come_back(files: Given, tmp_path: Path) -> None:
    items = BENCHMARK.items(files)
    assert (items[1].id, items[1].question, items[1].images) == ("1", "What is on table 1?", ("1.jpg",))
    rows = BENCHMARK.answer_rows(files, items, ["a", "b", "c"])
    answers = write(tmp_path / "mine.jsonl", rows[::-1])
    found = BENCHMARK.conversations(replace(files, answers=answers), "{description}{question}{reference} {answer}")
    assert [text[-2:] for _, text in found] == [" c", " b", " a"]


def test_the_own_templates_have_their_places() -> None:
    assert all(stage.is_valid("so [[B]]") and not stage.is_valid("so [B]") for stage in BENCHMARK.stages)
    assert [stage.template for stage in BENCHMARK.stages] == [TEMPLATE, SECOND_TEMPLATE]
    assert '"it \\"is\\""' in fill(SECOND_TEMPLATE, {"review": 'it "is"'})
