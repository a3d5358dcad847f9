import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.llava_bench import BENCHMARK
from rlaifv.benchmarks.protocol import Given

CATEGORIES = ("conv", "detail", "complex")


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> Given:
    """Three questions about two images; the last image has two captions."""
    questions = [
        {"question_id": k, "image": f"00{k % 2}.jpg", "category": CATEGORIES[k], "text": f"What is {k}?"}
        for k in range(3)
    ]
    write(
        tmp_path / "context.jsonl",
        [{"image": "000.jpg", "caption": "A."}, {"image": "001.jpg", "caption": ["B.", "C."]}],
    )
    write(tmp_path / "answers_gpt4.jsonl", [{"question_id": k, "text": f"reference {k}"} for k in range(3)])
    return Given(
        questions=write(tmp_path / "questions.jsonl", questions),
        annotations=tmp_path,
        answers=write(tmp_path / "answers.jsonl", [{"question_id": k, "text": f"answer {k}"} for k in (2, 0, 1)]),
        reviews=write(tmp_path / "reviews.jsonl", ["9, 8", "8 6\nGood.", "10 9"]),  # in the order of the answers
    )


def test_official_numbers(files: Given) -> None:
    """Means (8 + 10 − 1) / 3 = 5.667 and (6 + 9 − 1) / 3 = 4.667."""
    result = BENCHMARK.score(files)
    assert result.metrics == {"all": 82.4, "conv": 75.0, "detail": 90.0, "complex": 100.0}
    assert (result.num_invalid, result.version) == (1, "3 questions")
    assert result.warnings == ("There are 3 questions, but LLaVA-Bench in the wild has 60.",)
    skipping = BENCHMARK.score(replace(files, invalid_judge="skip"))
    assert skipping.metrics == {"all": 83.3, "conv": 75.0, "detail": 90.0}
    assert skipping.protocol["invalid_judge"] == "skip"


def test_ports_read_more(files: Given) -> None:
    result = BENCHMARK.score(replace(files, parser="lmms_eval"))
    assert (result.metrics["complex"], result.num_invalid) == (88.9, 0)
    assert BENCHMARK.score(replace(files, parser="vlmevalkit")).num_invalid == 1
    assert result.protocol["parser"] == "lmms_eval"


def test_official_reviews_alone_are_enough(files: Given, tmp_path: Path) -> None:
    rows = [
        {"id": k + 1, "question_id": k, "category": f"llava_bench_{CATEGORIES[k]}", "content": text, "tuple": [0, 0]}
        for k, text in enumerate(["8 6\nGood.", "10 9", "9, 8"])
    ]
    reviews = write(tmp_path / "official.jsonl", rows)
    assert BENCHMARK.score(Given(reviews=reviews)).metrics == BENCHMARK.score(files).metrics
    with pytest.raises(ValueError, match=r"has no category, so questions=… must be given"):
        BENCHMARK.score(Given(reviews=files.reviews))
    rows[1]["category"] = "llava_bench_chat"
    with pytest.raises(
        ValueError, match=r"The category of question 1 in .* has to be one of .* not 'llava_bench_chat'"
    ):
        BENCHMARK.score(Given(reviews=write(tmp_path / "official.jsonl", rows)))


def test_what_the_judge_is_asked(files: Given) -> None:
    asked = BENCHMARK.conversations(files, "{context}|{question}|{reference}|{answer}")
    assert [one for one, _ in asked] == ["2", "0", "1"]
    assert asked[2] == ("1", "B.\nC.|What is 1?|reference 1|answer 1")
    (stage,) = BENCHMARK.stages
    assert stage.is_valid("8 7\nBoth")
    assert not stage.is_valid("Assistant 1: 8")


def test_files_that_lack_something_are_refused(files: Given, tmp_path: Path) -> None:
    write(tmp_path / "answers_gpt4.jsonl", [{"question_id": 0, "text": "r"}])
    with pytest.raises(ValueError, match=r"answers_gpt4\.jsonl has no answer to question 2"):
        BENCHMARK.conversations(files)
    write(tmp_path / "context.jsonl", [{"image": "001.jpg", "caption": "B."}])
    with pytest.raises(ValueError, match=r"context\.jsonl has no caption of 000\.jpg, which question 2 is about"):
        BENCHMARK.conversations(files)
    (tmp_path / "context.jsonl").unlink()
    with pytest.raises(ValueError, match=re.escape(f"annotations={tmp_path / 'context.jsonl'} does not exist")):
        BENCHMARK.conversations(files)
    assert files.answers is not None
    write(files.answers, [{"question_id": 1, "text": "b"}])
    with pytest.raises(ValueError, match="has no answer for 0, 2"):
        BENCHMARK.score(files)
    assert files.reviews is not None
    write(files.reviews, ["9 8"])
    result = BENCHMARK.score(replace(files, allow_incomplete=True))
    assert (result.metrics["detail"], result.counts["missing"], result.protocol["incomplete"]) == (88.9, 2, True)
    write(files.reviews, ["0 8"])
    with pytest.raises(ValueError, match="all is undefined: the reference is rated 0 on average"):
        BENCHMARK.score(replace(files, allow_incomplete=True))


def test_questions_go_out_and_answers_come_back(files: Given, tmp_path: Path) -> None:
    items = BENCHMARK.items(files)
    assert [(item.id, item.question, item.images) for item in items][1] == ("1", "What is 1?", ("001.jpg",))
    rows = BENCHMARK.answer_rows(files, items, ["a", "b", "c"])
    assert rows[1] == {"question_id": 1, "prompt": "What is 1?", "text": "b", "answer_id": "1"}
    answers = write(tmp_path / "mine.jsonl", [rows[2], rows[0], rows[1]])
    assert BENCHMARK.score(replace(files, answers=answers)).metrics == BENCHMARK.score(files).metrics
    assert files.questions is not None
    write(files.questions, [{"question_id": 1, "image": "a", "category": "conv", "text": "b"}] * 2)
    with pytest.raises(ValueError, match=r"Row 2 of .* has the question_id 1, which row 1 has too"):
        BENCHMARK.items(files)
