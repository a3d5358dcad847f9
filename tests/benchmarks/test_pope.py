"""POPE's files: one or several splits, their edition, and what is refused."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.pope import BENCHMARK
from rlaifv.benchmarks.protocol import Given

LABELS = ["yes", "no", "yes", "no"]


def question(number: int, label: str, text: str = "Is there a kettle in the image?") -> dict[str, Any]:
    return {"question_id": number, "image": f"synthetic_{number}.png", "text": text, "label": label}


QUESTIONS = [question(number, label) for number, label in enumerate(LABELS, start=1)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def answers_of(*texts: str) -> list[dict[str, Any]]:
    return [{"question": QUESTIONS[0]["text"], "answer": text} for text in texts]


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(
        questions=write(tmp_path / "coco_pope_random.json", QUESTIONS),
        answers=write(tmp_path / "answers.jsonl", answers_of("Yes", "Yes", "Yes", "No.")),
    )


@pytest.fixture
def splits(tmp_path: Path) -> Given:
    """Three splits; in all of them the first two answers say yes, and one label is another in each."""
    for split, label in (("adversarial", "no"), ("popular", "yes"), ("random", "no")):
        questions = [question(1, "yes"), question(2, label), question(3, "yes"), question(4, "no")]
        write(tmp_path / "questions" / f"coco_pope_{split}.json", questions)
        texts = ("Yes", "Yes", "Yes" if split == "random" else "No", "No")
        write(tmp_path / "answers" / f"{split}_answers.jsonl", answers_of(*texts))
    return Given(questions=tmp_path / "questions", answers=tmp_path / "answers")


def refused(given: Given, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BENCHMARK.score(given)


def test_one_split_with_answers_in_order(given: Given) -> None:
    result = BENCHMARK.score(given)
    expected = {"accuracy": 0.75, "precision": 2 / 3, "recall": 1.0, "f1": 0.8, "yes_ratio": 0.75}
    assert {name: result.metrics[name] for name in ("random", "mean")} == dict.fromkeys(
        ("random", "mean"), pytest.approx(expected)
    )
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected)
    assert result.counts == {"random_questions": 4, "random_answers": 4, "random_misspelt": 0, "missing": 0}
    assert result.num_invalid == 0
    assert given.questions is not None
    sha256 = hashlib.sha256(given.questions.read_bytes()).hexdigest()
    assert result.protocol == {"parser": "official", "questions_sha256": {"random": sha256}, "complete": True}
    assert "has 3000 questions, or 2910 in its first edition, but" in result.warnings[0]


def test_splits_and_their_mean(splits: Given) -> None:
    metrics = BENCHMARK.score(splits).metrics
    splits_and_mean = ["random", "popular", "adversarial", "mean"]
    assert list(metrics)[:4] == splits_and_mean
    assert [metrics[split]["accuracy"] for split in splits_and_mean] == pytest.approx([0.75, 0.75, 0.5, 2 / 3])
    assert metrics["accuracy"] == metrics["mean"]["accuracy"]
    # Two of three yes are right, two of two, one of two.
    precisions = [2 / 3, 1.0, 0.5]
    assert [metrics[split]["precision"] for split in splits_and_mean] == pytest.approx(
        [*precisions, sum(precisions) / 3]
    )


def test_answers_by_id_in_any_order_and_any_name(given: Given) -> None:
    rows = [{"question_id": number, "text": text} for number, text in ((4, "No."), (2, "Yes"), (1, "Yes"), (3, "Yes"))]
    assert given.answers is not None
    expected = BENCHMARK.score(given).metrics
    write(given.answers, rows)
    assert BENCHMARK.score(given).metrics == expected


def test_answer_rows_come_back_as_answers(splits: Given, tmp_path: Path) -> None:
    items = BENCHMARK.items(splits)
    assert (items[4].id, items[4].question, items[4].images) == (
        "popular/1",
        QUESTIONS[0]["text"],
        ("synthetic_1.png",),
    )
    texts = ["Yes", "Yes", "Yes", "No"] + ["Yes", "Yes", "No", "No"] * 2
    rows = BENCHMARK.answer_rows(splits, items, texts)
    assert rows[4] == {
        "question_id": 1,
        "category": "popular",
        "question": QUESTIONS[0]["text"],
        "answer": "Yes",
    }
    together = replace(splits, answers=write(tmp_path / "together.jsonl", rows[::-1]))
    assert BENCHMARK.score(together).metrics == BENCHMARK.score(splits).metrics


def test_a_question_may_have_a_request_appended(given: Given) -> None:
    rows = answers_of("Yes", "Yes", "Yes", "No.")
    for row in rows:
        row["question"] = f"<image>\n{row['question']}\nAnswer with one word."
    assert given.answers is not None
    write(given.answers, rows)
    assert BENCHMARK.score(given).metrics["random"]["accuracy"] == 0.75


def test_parsers_go_through(given: Given) -> None:
    result = BENCHMARK.score(replace(given, parser="lmms_eval"))
    assert (result.num_invalid, result.metrics["random"]["accuracy"]) == (1, 0.5)  # "No." is not "no"
    assert result.metrics["random"]["yes_ratio"] == 0.5
    strict = BENCHMARK.score(replace(given, parser="strict"))
    assert (strict.num_invalid, strict.metrics["random"]["accuracy"]) == (0, 0.75)
    refused(replace(given, parser="first"), "POPE has the parsers")


def test_an_undefined_share_is_named_with_its_split(given: Given) -> None:
    assert given.answers is not None
    write(given.answers, answers_of("No", "No", "No", "No"))
    refused(given, "Split random: precision is undefined: no answer was read as yes;")


@pytest.mark.parametrize(
    ("split", "size", "misspelt", "version"),
    [
        ("random", 2910, 144, "first"),
        ("popular", 3000, 44, "first"),
        ("adversarial", 3000, 58, "first"),
        ("adversarial", 3000, 57, "october 2023"),
        ("random", 3000, 0, "current"),
        ("random", 3000, 144, "unknown"),
    ],
)
def test_the_version_trap(given: Given, tmp_path: Path, split: str, size: int, misspelt: int, version: str) -> None:
    rows = [question(number, LABELS[number % 2]) for number in range(size)]
    for row in rows[:misspelt]:
        row["text"] = "Is there an oven in the imange?"
    answers = [{"question_id": row["question_id"], "answer": row["label"]} for row in rows]
    questions = write(tmp_path / f"coco_pope_{split}.json", rows)
    given = replace(given, questions=questions, answers=write(tmp_path / "answers.jsonl", answers))
    result = BENCHMARK.score(given)
    assert (result.version, result.counts[f"{split}_misspelt"]) == (version, misspelt)
    assert [("first edition" in warning) for warning in result.warnings] == ([True] if version == "first" else [])
    assert BENCHMARK.items(given)[0].question == rows[0]["text"]  # as it is, typing errors and all


def test_missing_answers_are_told_where_they_are_allowed(given: Given) -> None:
    assert given.answers is not None
    write(given.answers, answers_of("Yes", "Yes"))
    refused(given, "has 2 answers in order to 4 questions")
    result = BENCHMARK.score(replace(given, allow_incomplete=True))
    assert (result.metrics["random"]["yes_ratio"], result.counts["missing"]) == (1.0, 2)
    assert result.protocol["complete"] is False
    write(given.answers, [{"question_id": 3, "answer": "Yes"}])
    refused(given, "has no answer for 1, 2, 4")
    assert BENCHMARK.score(replace(given, allow_incomplete=True)).counts["random_answers"] == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (answers_of(*["Yes"] * 5), "has 5 answers in order to 4 questions"),
        ([*answers_of("Yes", "Yes", "Yes"), {"question": "Is there a cat?", "answer": "No"}], "Row 4 of"),
        ([{"question_id": 1, "answer": "Yes"}, *answers_of("Yes", "Yes", "No")], "either all do or none"),
        ([{"question_id": 1, "answer": "Yes"}] * 4, "has more than one answer for 1"),
        ([{"question_id": 9, "answer": "Yes"}], "has an answer for 9"),
        ([{"question_id": 1, "reply": "Yes"}, *({"question_id": n} for n in (2, 3, 4))], "no field 'answer' or 'text'"),
    ],
)
def test_answers_that_do_not_fit_are_refused(given: Given, rows: list[dict[str, Any]], message: str) -> None:
    assert given.answers is not None
    write(given.answers, rows)
    refused(given, message)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([question(1, "Yes")], "Field 'label' in row 1 of"),
        ([question(1, "yes"), question(1, "no")], "has the question_id 1, which row 1 has too"),
        ([{"question_id": 1, "image": "a.png", "text": "Is there?"}], "has no field 'label'"),
    ],
)
def test_broken_questions_are_refused(given: Given, rows: list[dict[str, Any]], message: str) -> None:
    assert given.questions is not None
    write(given.questions, rows)
    refused(given, message)


def test_splits_that_do_not_fit_are_refused(splits: Given, tmp_path: Path) -> None:
    assert splits.answers is not None
    assert splits.questions is not None
    one = write(tmp_path / "one.jsonl", [{"question_id": 1, "category": "rare", "answer": "Yes"}])
    refused(replace(splits, answers=one), "is 'rare', but the questions are random, popular, adversarial")
    write(splits.questions / "gqa_pope_random.json", QUESTIONS)
    refused(splits, "has two files of the split 'random': coco_pope_random.json and gqa_pope_random.json")
    (splits.questions / "gqa_pope_random.json").unlink()
    (splits.answers / "random_answers.jsonl").unlink()
    refused(splits, "has answers to popular, adversarial, but the questions are random, popular, adversarial")
    for file in splits.answers.iterdir():
        file.unlink()
    refused(splits, "has no .json or .jsonl file")
