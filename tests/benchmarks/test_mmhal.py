import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.mmhal import BENCHMARK, TEMPLATE
from rlaifv.benchmarks.protocol import Given
from rlaifv.metrics.mmhal import TYPES


def question(number: int) -> dict[str, Any]:
    return {
        "question_type": TYPES[number % 8],
        "question_topic": "outdoor",
        "image_id": f"x{number}",
        "image_src": f"https://example.org/a/{number}_o.jpg",
        "image_content": ["Kettle", "Cup"],
        "question": f"Which colour is kettle {number}?",
        "gt_answer": "It is red.",
        "model_answer": "",
    }


def write(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> Given:
    questions = [question(k) for k in range(96)]
    answers = [{**row, "model_answer": f"The kettle is red {k}."} for k, row in enumerate(questions)]
    reviews = [f"So. Rating: {k % 7}" for k in range(95)] + ["?"]
    return Given(
        questions=write(tmp_path / "questions.json", questions),
        answers=write(tmp_path / "answers.json", answers),
        reviews=write(tmp_path / "reviews.json", reviews),
    )


def test_official_numbers(files: Given) -> None:
    """Ratings 0 to 6, 13 times each, then 0, 1, 2, 3 and nothing: 279 / 96 = 2.906; 39 + 4 of 96 hallucinate."""
    result = BENCHMARK.score(files)
    assert result.metrics["score"] == 2.91
    assert result.metrics["hallucination_rate"] == 0.45
    assert result.metrics["informativeness"] == round((13 * 9 + 3) / 96 / 3 * 100, 2)
    assert list(result.metrics["types"]) == list(TYPES)
    assert result.metrics["types"]["attribute"]["score"] == round(sum(k % 7 for k in range(0, 96, 8)) / 12, 2)
    assert (result.num_invalid, result.version, result.warnings) == (1, "MMHal-Bench", ())
    assert result.counts == {"questions": 96, "reviews": 96, "missing": 0}
    assert result.protocol["incomplete"] is False


def test_reviews_alone_are_enough(files: Given) -> None:
    assert BENCHMARK.score(Given(reviews=files.reviews)).metrics == BENCHMARK.score(files).metrics


def test_quirk_display_rounds_half_to_even(tmp_path: Path) -> None:
    """5 of 8 hallucinate: 0.625 is printed as 0.62."""
    reviews = write(tmp_path / "reviews.json", ["Rating: 2"] * 5 + ["Rating: 6"] * 3)
    assert BENCHMARK.score(Given(reviews=reviews)).metrics["hallucination_rate"] == 0.62
    unrounded = BENCHMARK.score(Given(reviews=reviews, rounding="none"))
    assert unrounded.metrics["hallucination_rate"] == 0.625
    assert unrounded.warnings == ("There are 8 questions, but MMHal-Bench has 96.",)
    assert unrounded.version == "8 questions"


def test_another_order_is_warned_about(files: Given, tmp_path: Path) -> None:
    rows = [question(k) for k in range(96)]
    write(tmp_path / "questions.json", [rows[1], rows[0], *rows[2:]])
    result = BENCHMARK.score(Given(questions=files.questions, reviews=files.reviews))
    (warning,) = result.warnings
    assert warning.startswith("Question 0 is of type 'adversarial', but the scores by type go by position")


def test_missing_reviews(files: Given, tmp_path: Path) -> None:
    reviews = write(tmp_path / "reviews.json", [{"id": 95, "reply": "Rating: 6"}, {"id": "3", "reply": "Rating: 2"}])
    with pytest.raises(ValueError, match="has no answer of the judge for 0, 1, 2, 4, 5 and 89 more"):
        BENCHMARK.score(Given(answers=files.answers, reviews=reviews))
    result = BENCHMARK.score(Given(answers=files.answers, reviews=reviews, allow_incomplete=True))
    assert result.metrics["types"] == {
        "counting": {"score": 2.0, "hallucination_rate": 1.0},
        "other": {"score": 6.0, "hallucination_rate": 0.0},
    }
    assert result.counts["missing"] == 94
    assert result.protocol["incomplete"] is True


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([question(0)], "has 1 answers, but {questions} has 96 questions."),
        ([question(1), *map(question, range(1, 96))], "Row 1 of {answers} asks another question than that of"),
        ([{}] * 96, "Row 1 of {answers} has no field 'model_answer' or 'answer'"),
    ],
)
def test_answers_to_something_else_are_refused(files: Given, answers: list[Any], message: str) -> None:
    assert files.answers is not None
    write(files.answers, answers)
    message = message.replace("{answers}", str(files.answers)).replace("{questions}", str(files.questions))
    with pytest.raises(ValueError, match=re.escape(message)):
        BENCHMARK.score(files)


def test_a_review_of_no_position_is_refused(tmp_path: Path) -> None:
    reviews = write(tmp_path / "reviews.json", [{"id": "x1", "reply": "Rating: 6"}])
    with pytest.raises(ValueError, match="has to be the position of a question, from 0, but it is 'x1'"):
        BENCHMARK.score(Given(reviews=reviews))
    with pytest.raises(ValueError, match="has no reviews"):
        BENCHMARK.score(Given(reviews=write(tmp_path / "empty.json", [])))
    with pytest.raises(ValueError, match=r"reviews=… must be given for benchmark=mmhal"):
        BENCHMARK.score(Given())


def test_questions_go_out_and_answers_come_back(files: Given, tmp_path: Path) -> None:
    items = BENCHMARK.items(files)
    assert (items[7].id, items[7].question, items[7].images) == ("7", "Which colour is kettle 7?", ("7_o.jpg",))
    rows = BENCHMARK.answer_rows(files, items, [f"red {item.id}" for item in items])
    assert rows[7] == {**question(7), "model_answer": "red 7"}
    answers = write(tmp_path / "mine.json", rows)
    assert BENCHMARK.score(Given(answers=answers, reviews=files.reviews)).metrics == BENCHMARK.score(files).metrics


def test_what_the_judge_is_asked(files: Given) -> None:
    conversations = BENCHMARK.conversations(files, "{contents}|{question}|{human_answer}|{answer}")
    assert conversations[2] == ("2", "Kettle, Cup|Which colour is kettle 2?|It is red.|The kettle is red 2.")
    _, own = BENCHMARK.conversations(files)[2]
    assert '"The kettle is red 2."' in own
    assert own.startswith(TEMPLATE[:80])


def test_the_own_template_names_every_rating_in_the_official_form() -> None:
    (stage,) = BENCHMARK.stages
    assert all(f"\n{rating}: " in TEMPLATE for rating in range(7))
    assert stage.is_valid("It adds a cup.\nRating: 2")
    assert not stage.is_valid("2")
    assert not stage.is_valid(TEMPLATE)
