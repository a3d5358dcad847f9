import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.hallusionbench import BENCHMARK
from rlaifv.benchmarks.protocol import Given

# category, visual_input, figure, question, truth, answer, reply of the judge
ROWS = [
    ("VD", "1", "0", "0", "1", "Yes", "Correct"),
    ("VD", "1", "0", "1", "0", "No.", "correct"),
    ("VD", "2", "1", "0", "0", "Yes", "Incorrect"),
    ("VD", "2", "1", "1", "1", "yes, both", "correct"),
    ("VS", "0", "0", "0", "1", "I do not see it.", "unclear"),
    ("VS", "1", "1", "0", "1", "It may be", "unclear"),
]


def question(row: tuple[str, ...]) -> dict[str, Any]:
    category, visual, figure, number, truth, *_ = row
    return {
        "category": category,
        "subcategory": "chart",
        "visual_input": visual,
        "set_id": "0",
        "figure_id": figure,
        "question_id": number,
        "sample_note": "",
        "question": "Is the left bar longer?",
        "gt_answer": truth,
        "gt_answer_details": "The left bar is longer.",
        "filename": None if visual == "0" else f"./{category}/chart/0_{figure}.png",
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> Given:
    questions = [question(row) for row in ROWS]
    return Given(
        questions=write(tmp_path / "questions.json", questions),
        answers=write(
            tmp_path / "answers.json",
            [{**one, "model_prediction": row[5]} for one, row in zip(questions, ROWS, strict=True)],
        ),
        reviews=write(tmp_path / "reviews.json", [row[6] for row in ROWS]),
    )


def test_official_numbers(files: Given) -> None:
    """Right are three of VD and the unclear one without a figure. Figures: VD 0 of two, VS's is not; pairs: VD's second."""
    result = BENCHMARK.score(files)
    assert {name: result.metrics[name] for name in ("a_acc", "f_acc", "q_acc")} == {
        "a_acc": 66.6667,
        "f_acc": 33.3333,
        "q_acc": 33.3333,
    }
    assert result.metrics["vd"]["f_acc"] == 50
    assert result.metrics["vs"] == {"a_acc": 50.0, "f_acc": 0.0, "q_acc": 0.0, "easy_acc": 0.0}
    assert (result.num_invalid, result.protocol["verdicts"], result.counts["scored"]) == (0, "judge", 6)
    assert result.warnings == ("There are 6 questions, but HallusionBench has 1129, 951 of them with an image.",)
    assert BENCHMARK.score(replace(files, rounding="none")).metrics["a_acc"] == pytest.approx(200 / 3)
    assert BENCHMARK.score(replace(files, questions=None)).metrics == result.metrics


def test_without_reviews_words_are_read_and_said_to_be(files: Given) -> None:
    result = BENCHMARK.score(replace(files, reviews=None))
    assert result.metrics["a_acc"] == 66.6667
    assert (result.protocol["verdicts"], result.num_invalid) == ("words", 2)
    assert "Answers were read by the words yes and no; official figures are those of a judge." in result.warnings


def test_quirk_vlmevalkit_scores_questions_with_an_image_only(files: Given) -> None:
    result = BENCHMARK.score(replace(files, reviews=None, parser="vlmevalkit"))
    assert result.metrics["a_acc"] == 60
    assert result.counts == {"questions": 5, "scored": 5, "missing": 0}
    with pytest.raises(ValueError, match="parser=vlmevalkit reads the answers' own words, not reviews="):
        BENCHMARK.score(replace(files, parser="vlmevalkit"))


def test_quirk_lmms_eval_judges_questions_with_an_image_only(files: Given) -> None:
    """Three of VD are right; VS's unclear answer without a figure is not asked for."""
    result = BENCHMARK.score(replace(files, parser="lmms_eval"))
    assert (result.metrics["a_acc"], result.counts["scored"]) == (60, 5)
    assert (result.protocol["parser"], result.protocol["incomplete"]) == ("lmms_eval", False)
    with pytest.raises(ValueError, match=r"parser=lmms_eval rests on a judge, so reviews=… must be given"):
        BENCHMARK.score(replace(files, reviews=None, parser="lmms_eval"))


def test_quirk_a_reply_without_a_verdict_is_unclear(files: Given) -> None:
    assert files.reviews is not None
    replies = [row[6] for row in ROWS]
    write(files.reviews, [*replies[:4], "Well.", "Hm."])
    result = BENCHMARK.score(files)
    assert (result.metrics["vs"]["a_acc"], result.num_invalid) == (50, 2)
    result = BENCHMARK.score(replace(files, invalid_judge="skip"))
    assert "vs" not in result.metrics
    assert result.counts == {"questions": 6, "scored": 4, "missing": 0}
    with pytest.raises(ValueError, match=r"The review of VS_chart_0_0_0 in .* has no verdict"):
        BENCHMARK.score(replace(files, invalid_judge="raise"))


def test_missing_answers_and_reviews(files: Given) -> None:
    assert files.answers is not None
    assert files.reviews is not None
    rows = json.loads(files.answers.read_text(encoding="utf-8"))
    write(files.answers, rows[1:])
    with pytest.raises(ValueError, match="has no answer for VD_chart_0_0_0;"):
        BENCHMARK.score(files)
    write(files.reviews, [{"id": "VD_chart_0_0_1", "reply": "correct"}])
    result = BENCHMARK.score(replace(files, allow_incomplete=True))
    assert result.metrics["a_acc"] == 100
    assert (result.counts["missing"], result.protocol["incomplete"]) == (5, True)
    result = BENCHMARK.score(replace(files, reviews=None, allow_incomplete=True))
    assert (result.counts["missing"], result.protocol["incomplete"]) == (1, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": "VX"}, "Field 'category' in row 2 of {path} has to be one of VD VS: 'VX'."),
        ({"gt_answer": "2"}, "Field 'gt_answer' in row 2 of {path} has to be one of 0 1: '2'."),
        ({"visual_input": "3"}, "Field 'visual_input' in row 2 of {path} has to be one of 0 1 2: '3'."),
        ({"question_id": "0"}, "Row 2 of {path} has the id VD_chart_0_0_0, which row 1 has too."),
        ({"set_id": None}, "Field 'set_id' in row 2 of {path} has to be str or int"),
        ({"model_prediction": None}, "Field 'model_prediction' in row 2 of {path} has to be str"),
    ],
)
def test_rows_of_another_kind_are_refused(files: Given, change: dict[str, Any], message: str) -> None:
    assert files.answers is not None
    rows = json.loads(files.answers.read_text(encoding="utf-8"))
    rows[1] |= change
    write(files.answers, rows)
    with pytest.raises(ValueError, match=re.escape(message.replace("{path}", str(files.answers)))):
        BENCHMARK.score(files)


def test_questions_go_out_and_answers_come_back(files: Given, tmp_path: Path) -> None:
    items = BENCHMARK.items(files)
    assert [item.images for item in items[3:5]] == [("VD/chart/0_1.png",), ()]
    assert items[4].id == "VS_chart_0_0_0"
    rows = BENCHMARK.answer_rows(files, items, [row[5] for row in ROWS])
    answers = write(tmp_path / "mine.json", rows)
    assert BENCHMARK.score(replace(files, answers=answers)).metrics == BENCHMARK.score(files).metrics


def test_what_the_judge_is_asked(files: Given) -> None:
    asked = BENCHMARK.conversations(files, "{question}|{reference}|{answer}")
    assert asked[3] == ("VD_chart_0_1_1", "Is the left bar longer?|The left bar is longer.|yes, both")
