"""CHAIR from files in their official forms."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.chair import BENCHMARK
from rlaifv.benchmarks.protocol import Given, Item

TEXTS = {11: "Two dogs rest on a boat.", 12: "A motor bike and a dog.", 13: "A dog, a cat."}


def files(folder: Path, texts: dict[int, str] = TEXTS) -> Given:
    """Three captions; dogs in each image, and a motorcycle in the second by its caption."""
    (folder / "instances_val2014.json").write_text(
        json.dumps(
            {
                "categories": [{"id": 18, "name": "dog"}],
                "annotations": [{"image_id": image, "category_id": 18} for image in (11, 12, 13)],
            }
        ),
        encoding="utf-8",
    )
    (folder / "captions_val2014.json").write_text(
        json.dumps({"annotations": [{"image_id": 12, "caption": "A motorcycle."}]}), encoding="utf-8"
    )
    rows = [{"image_id": image, "caption": text} for image, text in texts.items()]
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return Given(answers=folder / "answers.jsonl", annotations=folder)


def with_questions(given: Given, *rows: dict[str, Any], **others: Any) -> Given:
    path = given.answers.parent / "questions.jsonl"  # type: ignore[union-attr]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return Given(questions=path, answers=given.answers, annotations=given.annotations, **others)


def test_scores_by_hand(tmp_path: Path) -> None:
    """Mentions: dog, boat; motor bike, dog; dog, cat. Classes: dog; dog, motorcycle; dog."""
    result = BENCHMARK.score(files(tmp_path))
    assert result.metrics == {"chair_s": 66.7, "chair_i": 33.3, "recall": 100.0, "mean_words": 5.3}
    assert result.counts["mentions"] == 6
    assert result.counts["missing"] == result.num_invalid == 0
    assert result.version == "COCO 2014, 3 images"
    assert result.protocol["synonyms"] == "own"
    assert any("There are 3 captions" in warning for warning in result.warnings)
    assert any("this project's own" in warning for warning in result.warnings)


def test_nothing_is_rounded_if_asked(tmp_path: Path) -> None:
    given = files(tmp_path)
    result = BENCHMARK.score(Given(answers=given.answers, annotations=given.annotations, rounding="none"))
    assert result.metrics["chair_s"] == pytest.approx(200 / 3)


def test_the_script_s_caption_file_is_read_with_or_without_its_caption_metrics(tmp_path: Path) -> None:
    given = files(tmp_path)
    expected = BENCHMARK.score(given).metrics
    rows = {str(k): {"image_id": k, "caption": text, "Bleu_1": 0.0, "SPICE": 0.1} for k, text in TEXTS.items()}
    for content in ({"overall": {"CIDEr": 1.0}, "imgToEval": rows}, {"imgToEval": rows}):
        (tmp_path / "answers.jsonl").write_text(json.dumps(content), encoding="utf-8")
        assert BENCHMARK.score(given).metrics == expected


def test_one_row_of_json_lines_is_no_caption_file(tmp_path: Path) -> None:
    assert BENCHMARK.score(files(tmp_path, {11: "A dog."})).metrics["chair_s"] == 0.0


def test_c1_and_c5_official_lists_are_read_by_the_option_of_this_command(tmp_path: Path) -> None:
    """C1: the second space after a comma keeps "motor bike" from matching. C5: the script's own option does not exist."""
    given = files(tmp_path)
    (tmp_path / "synonyms.txt").write_text("dog\nmotorcycle, scooter,  motor bike\nboat\ncat\n", encoding="utf-8")
    with_list = Given(answers=given.answers, annotations=given.annotations, synonyms=tmp_path / "synonyms.txt")
    result = BENCHMARK.score(with_list)
    assert result.counts["mentions"] == 5
    assert result.metrics["recall"] == 75.0
    assert result.protocol["synonyms"].startswith("given, sha256 ")


def test_questions_say_which_captions_there_must_be(tmp_path: Path) -> None:
    given = files(tmp_path, {12: TEXTS[12], 11: TEXTS[11]})
    asked = [{"image_id": 11}, {"image": "COCO_val2014_000000000012.jpg"}, {"image_id": "13"}]
    with pytest.raises(
        ValueError, match=r"answers.jsonl has no answer for 13; allow_incomplete=true scores what is there"
    ):
        BENCHMARK.score(with_questions(given, *asked))
    result = BENCHMARK.score(with_questions(given, *asked, allow_incomplete=True))
    assert (result.counts["texts"], result.counts["missing"]) == (2, 1)
    assert result.protocol["incomplete"] is True
    with pytest.raises(ValueError, match=r"has an answer for 12, which the benchmark does not ask about"):
        BENCHMARK.score(with_questions(given, {"image_id": 11}))


def test_items_and_answers_go_round(tmp_path: Path) -> None:
    rows = [{"image_id": 11, "question": "Describe."}, {"image": "COCO_val2014_000000000012.jpg", "text": "What?"}]
    given = with_questions(files(tmp_path), *rows)
    items = BENCHMARK.items(given)
    assert items == [
        Item("11", "Describe.", ("COCO_val2014_000000000011.jpg",)),
        Item("12", "What?", ("COCO_val2014_000000000012.jpg",)),
    ]
    written = BENCHMARK.answer_rows(given, items, ["A dog.", "A dog and a cat."])
    assert written == [{"image_id": 11, "caption": "A dog."}, {"image_id": 12, "caption": "A dog and a cat."}]
    (tmp_path / "answers.jsonl").write_text(json.dumps(written), encoding="utf-8")
    assert BENCHMARK.score(given).metrics["chair_s"] == 50.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no caption, so nothing can be scored"),
        ('{"image_id": 11}\n', "Row 1 of"),
        ('{"image_id": 11, "caption": 3}', "Field 'caption' in row 1 of"),
        ('{"image_id": 11, "caption": "A dog."}\n' * 2, "has more than one answer for 11"),
        ('{"image_id": 11, "caption": "A dog."}\n{', "Line 2 of"),
        ('{"imgToEval": []}', "has to hold one object per image"),
        ('{"image_id": 99, "caption": "A dog."}', "says nothing about 1 images, among them image 99"),
        ('{"image_id": 11, "caption": "A sky."}', "chair_i is undefined: no caption mentions an object of the list"),
    ],
)
def test_broken_answers_are_refused(tmp_path: Path, content: str, message: str) -> None:
    given = files(tmp_path)
    (tmp_path / "answers.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        BENCHMARK.score(given)


def test_missing_files_are_named() -> None:
    with pytest.raises(ValueError, match="answers=… must be given for benchmark=chair"):
        BENCHMARK.score(Given())
    with pytest.raises(ValueError, match="questions=… must be given for benchmark=chair"):
        BENCHMARK.items(Given())
