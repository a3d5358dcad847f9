"""Object HalBench from files in their official forms, with quirks O3 and O4."""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.judges import judge_answers
from rlaifv.benchmarks.object_halbench import BENCHMARK, TEMPLATE
from rlaifv.benchmarks.protocol import Given, Item
from rlaifv.engines.chat import Conversation, NoReply
from rlaifv.metrics.object_halbench import objects_of

ANSWERS = {11: "Two dogs and one more dog on a boat.", 12: "A man near a hot dog.", 13: "A cat."}
PHRASES = {"11": ["two dogs", "dog", "boat"], "12": ["man", "hot dog"]}


def files(folder: Path) -> Given:
    """Three questions with answers; a dog in each image."""
    folder.mkdir(exist_ok=True)
    truth = {
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [{"image_id": image, "category_id": 18} for image in ANSWERS],
    }
    questions = [
        {"org_idx": k, "image_id": image, "question": f"Describe {k}.", "image": base64.b64encode(b"picture").decode()}
        for k, image in enumerate(ANSWERS)
    ]
    answers = [
        {"question_id": k, "image_id": image, "prompt": f"Describe {k}.", "text": text, "model_id": "m"}
        for k, (image, text) in enumerate(ANSWERS.items())
    ]
    (folder / "instances_val2014.json").write_text(json.dumps(truth), encoding="utf-8")
    write(folder / "questions.jsonl", questions)
    write(folder / "answers.jsonl", answers)
    (folder / "objects.json").write_text(json.dumps(PHRASES), encoding="utf-8")
    return Given(
        questions=folder / "questions.jsonl",
        answers=folder / "answers.jsonl",
        annotations=folder,
        objects=folder / "objects.json",
    )


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def rows_of(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")]


def test_extracted_scores_by_hand(tmp_path: Path) -> None:
    """Objects: dog, boat; man, hot dog; none. False: boat; both. Truths: a dog in each of three images, named in one."""
    result = BENCHMARK.score(files(tmp_path))
    assert result.metrics == {
        "resp": 100.0,
        "ment": 75.0,
        "recall": 33.33,
        "chair_s": 66.67,
        "object_f1": 28.57,
        "response_f1": 0.0,
        "mean_words": 5.67,
    }
    assert (result.protocol["mode"], result.protocol["judge"]) == ("extracted", "unknown")
    assert any("There are 3 answers; the benchmark has 300 images" in warning for warning in result.warnings)


def test_without_objects_the_mode_is_plain_and_named(tmp_path: Path) -> None:
    """Mentions: dog, dog, boat; man, hot dog; cat. False: boat; both; cat."""
    result = BENCHMARK.score(replace(files(tmp_path), objects=None, rounding="none"))
    assert result.protocol["mode"] == "plain"
    assert result.metrics["ment"] == pytest.approx(400 / 6)
    assert any("not as the benchmark does" in warning for warning in result.warnings)


def test_replies_are_as_good_as_the_phrases_that_they_hold(tmp_path: Path) -> None:
    given = files(tmp_path)
    replies = {one: f"Objects:\n{json.dumps(phrases)}" for one, phrases in PHRASES.items()}
    assert objects_of(replies) == (PHRASES, [])
    reviews = write(tmp_path / "reviews.jsonl", [{"id": one, "reply": reply} for one, reply in replies.items()])
    replied = BENCHMARK.score(replace(given, objects=None, reviews=reviews, judge="some model"))
    assert replied.metrics == BENCHMARK.score(given).metrics
    assert replied.protocol["judge"] == "some model"
    with pytest.raises(ValueError, match=r"objects=… and reviews=… both say what the answers mention"):
        BENCHMARK.score(replace(given, reviews=reviews))


def test_unreadable_replies_are_refused_or_left_out(tmp_path: Path) -> None:
    given = replace(files(tmp_path), objects=None)
    reviews = write(tmp_path / "reviews.jsonl", ['["dog"]', "()"])
    for choice in ("official", "raise"):
        with pytest.raises(ValueError, match=r"has 1 replies that are no JSON list of phrases, the first for image 12"):
            BENCHMARK.score(replace(given, reviews=reviews, invalid_judge=choice))
    result = BENCHMARK.score(replace(given, reviews=reviews, invalid_judge="skip"))
    assert (result.num_invalid, result.counts["texts"], result.metrics["resp"]) == (1, 2, 0.0)


def test_the_extractor_is_asked_about_answers_of_more_than_three_words(tmp_path: Path) -> None:
    given = files(tmp_path)
    asked = BENCHMARK.conversations(given)
    assert [one for one, _ in asked] == ["11", "12"]
    assert 'Question: "Describe 1."\nAnswer: "A man near a hot dog."' in asked[1][1]
    assert BENCHMARK.conversations(given, "Q {question} A {answer}")[0] == ("11", f"Q Describe 0. A {ANSWERS[11]}")
    (stage,) = BENCHMARK.stages
    assert stage.template == TEMPLATE
    assert (stage.is_valid("[]"), stage.is_valid("()")) == (True, False)


def test_what_the_runner_of_judges_collects_can_be_scored(tmp_path: Path) -> None:
    class Extractor:
        def reply_all(self, conversations: Sequence[Conversation]) -> list[str | NoReply]:
            return [json.dumps(["dog", "boat"] if "boat" in one[0] else ["man", "hot dog"]) for one in conversations]

    given = files(tmp_path)
    judged = judge_answers(BENCHMARK, given, Extractor(), "a model", tmp_path / "journal.jsonl")
    assert (len(judged.reviews), judged.num_invalid, judged.silent) == (2, 0, {})
    reviews = write(tmp_path / "reviews.jsonl", judged.reviews)
    result = BENCHMARK.score(replace(given, objects=None, reviews=reviews))
    assert (result.metrics, result.protocol["judge"]) == (BENCHMARK.score(given).metrics, "a model")


def test_o3_a_path_with_coh_in_it_changes_nothing(tmp_path: Path) -> None:
    assert BENCHMARK.score(files(tmp_path / "coh")).metrics == BENCHMARK.score(files(tmp_path / "other")).metrics


def test_o4_rows_without_image_ids_are_those_of_the_questions_in_their_order(tmp_path: Path) -> None:
    given = files(tmp_path)
    expected = BENCHMARK.score(given)
    rows = rows_of(given.answers)
    write(tmp_path / "answers.jsonl", [{name: row[name] for name in ("prompt", "text")} for row in rows])
    assert BENCHMARK.score(given).metrics == expected.metrics
    with pytest.raises(ValueError, match=r"has no image_id, so questions=… must be given"):
        BENCHMARK.score(replace(given, questions=None))
    write(tmp_path / "answers.jsonl", [{"prompt": "", "text": "A dog."}])
    with pytest.raises(ValueError, match=r"so its 1 rows have to be those of the 3 questions, in order"):
        BENCHMARK.score(replace(given, allow_incomplete=True))


def test_rows_with_image_ids_may_be_in_any_order_and_without_questions(tmp_path: Path) -> None:
    given = files(tmp_path)
    expected = BENCHMARK.score(given).metrics
    write(tmp_path / "answers.jsonl", rows_of(given.answers)[::-1])
    assert BENCHMARK.score(given).metrics == expected
    assert BENCHMARK.score(replace(given, questions=None)).metrics == expected


def test_missing_answers_are_refused_or_said(tmp_path: Path) -> None:
    given = files(tmp_path)
    write(tmp_path / "answers.jsonl", rows_of(given.answers)[:2])
    with pytest.raises(ValueError, match=r"answers.jsonl has no answer for 13"):
        BENCHMARK.score(given)
    result = BENCHMARK.score(replace(given, allow_incomplete=True))
    assert (result.counts["texts"], result.counts["missing"]) == (2, 1)


def test_items_and_answers_go_round(tmp_path: Path) -> None:
    given = files(tmp_path)
    items = BENCHMARK.items(given)
    assert items[1] == Item("12", "Describe 1.", (b"picture",))
    expected = BENCHMARK.score(given).metrics
    write(tmp_path / "answers.jsonl", BENCHMARK.answer_rows(given, items, list(ANSWERS.values())))
    assert BENCHMARK.score(given).metrics == expected


def test_words_taken_for_names_are_said(tmp_path: Path) -> None:
    given = files(tmp_path)
    (tmp_path / "objects.json").write_text(json.dumps(PHRASES | {"12": ["Hot Dog", "Man"]}), encoding="utf-8")
    assert any("1 phrases have capitals within" in warning for warning in BENCHMARK.score(given).warnings)


def test_answers_that_nobody_listed_the_objects_of_are_refused_or_left_out(tmp_path: Path) -> None:
    given = files(tmp_path)
    (tmp_path / "objects.json").write_text(json.dumps({"11": ["dog"]}), encoding="utf-8")
    result = BENCHMARK.score(replace(given, allow_incomplete=True))
    assert (result.counts["texts"], result.counts["missing"], result.protocol["incomplete"]) == (2, 1, True)
    reviews = write(tmp_path / "reviews.jsonl", [{"id": "12", "reply": '["hot dog"]'}])
    replied = BENCHMARK.score(replace(given, objects=None, reviews=reviews, allow_incomplete=True))
    assert (replied.metrics["resp"], replied.counts["missing"]) == (100.0, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("objects.json", [], "has to be a JSON object of lists of phrases by image id"),
        ("objects.json", {"11": "dog"}, "Entry '11' of"),
        ("objects.json", {"11": ["dog"]}, "has no object list for 12"),
        ("objects.json", PHRASES | {"99": []}, "has an object list for 99, which the benchmark does not ask about"),
        ("answers.jsonl", {"image_id": 11, "prompt": ""}, "Row 1 of"),
        ("answers.jsonl", {"image_id": 99, "prompt": "", "text": ""}, "has an answer for 99"),
        ("questions.jsonl", {"question": "?"}, "Row 1 of"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, name: str, content: Any, message: str) -> None:
    given = files(tmp_path)
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        BENCHMARK.score(given)


def test_pictures_that_are_no_base64_are_refused(tmp_path: Path) -> None:
    given = files(tmp_path)
    write(tmp_path / "questions.jsonl", [{"image_id": 1, "question": "?", "image": "no picture!"}])
    with pytest.raises(ValueError, match=r"Field 'image' in row 1 of .*questions.jsonl is not base64"):
        BENCHMARK.items(given)
