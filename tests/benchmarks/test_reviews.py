"""Files of reviews, in every form that they come in, and what a judge is asked."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.protocol import Given
from rlaifv.benchmarks.reviews import protocol_of, read_reviews
from rlaifv.benchmarks.templates import fill

TWO = (("overall", "review"), ("hallucination",))


def write(path: Path, rows: list[Any], lines: bool = False) -> Path:
    text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize(
    "rows",
    [
        ["one", "two"],
        [{"reply": "one"}, {"review": "two"}],
        [{"id": 8, "content": "two"}, {"id": 7, "content": "one"}],
        [{"id": 1, "question_id": "8", "reply": "two"}, {"id": 2, "question_id": "7", "reply": "one"}],
        [{"choices": [{"message": {"content": "one"}}]}, "two"],
    ],
)
def test_reviews_come_in_order_or_by_id(tmp_path: Path, rows: list[Any], lines: bool) -> None:
    reviews = read_reviews(write(tmp_path / "reviews.json", rows, lines), ["7", "8"], False)
    assert [(review.id, review.replies) for review in reviews] == [("7", ("one",)), ("8", ("two",))]


@pytest.mark.parametrize(
    "row", [["a", "b"], {"overall": "a", "hallucination": "b"}, {"review": "a", "hallucination": "b"}]
)
def test_two_stages_are_a_list_or_an_object(tmp_path: Path, row: Any) -> None:
    (review,) = read_reviews(write(tmp_path / "reviews.json", [row]), ["7"], False, TWO)
    assert review.replies == ("a", "b")


@pytest.mark.parametrize(
    ("content", "stages", "replies"),
    [
        ({"8": "two", "7": "one"}, (("reply",),), [("one",), ("two",)]),
        ({"7": ["a", "b"], "8": {"review": "c", "hallucination": "d"}}, TWO, [("a", "b"), ("c", "d")]),
    ],
)
def test_reviews_may_be_one_object_by_id(tmp_path: Path, content: Any, stages: Any, replies: Any) -> None:
    path = tmp_path / "reviews.json"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    reviews = read_reviews(path, ["7", "8"], False, stages)
    assert [(review.id, review.replies) for review in reviews] == list(zip(("7", "8"), replies, strict=True))
    path.write_text(json.dumps({"7": "one", "8": 5}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"Row 2 of {path} has to hold a judge's reply"):
        read_reviews(path, ["7", "8"], False)


def test_without_answers_the_file_says_what_there_is(tmp_path: Path) -> None:
    reviews = read_reviews(write(tmp_path / "a.json", ["one", "two"]), None, False)
    assert [review.id for review in reviews] == ["0", "1"]
    reviews = read_reviews(write(tmp_path / "b.json", [{"id": "x", "reply": "one"}]), None, False)
    assert [review.id for review in reviews] == ["x"]


def test_incomplete_reviews_are_the_first_or_those_named(tmp_path: Path) -> None:
    ids = ["7", "8", "9"]
    assert [one.id for one in read_reviews(write(tmp_path / "a.json", ["a", "b"]), ids, True)] == ["7", "8"]
    assert [one.id for one in read_reviews(write(tmp_path / "b.json", [{"id": 9, "reply": "a"}]), ids, True)] == ["9"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a"], "has 1 reviews without ids, but there are 2 answers."),
        (["a", "b", "c"], "has 3 reviews without ids, but there are 2 answers."),
        ([{"id": 7, "reply": "a"}], "has no answer of the judge for 8"),
        ([{"id": 7, "reply": "a"}] * 2, "more than one answer of the judge for 7"),
        ([{"id": k, "reply": "a"} for k in (7, 8, 9)], "for 9, which the benchmark does not ask about"),
        ([{"id": 7, "reply": "a"}, "b"], "has no id, but 1 other reviews have one."),
        ([{"id": 7}], "Row 1 of {path} has to hold a judge's reply as text in 'reply' or 'review' or 'content'."),
        ([{"id": 7, "reply": None}], "Row 1 of {path} has to hold a judge's reply"),
        ([{"choices": []}], "Row 1 of {path} has to hold a judge's reply"),
        ([5], "Row 1 of {path} has to be a reply, or an object that holds it: '5'"),
        ([["a", "b"]], "Row 1 of {path} has to be a reply"),
    ],
)
def test_other_reviews_are_refused(tmp_path: Path, rows: list[Any], message: str) -> None:
    path = write(tmp_path / "reviews.json", rows)
    with pytest.raises(ValueError, match=re.escape(message.replace("{path}", str(path)))):
        read_reviews(path, ["7", "8"], False)


def test_both_replies_are_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "reviews.json", [{"overall": "a"}])
    with pytest.raises(ValueError, match="as text in 'overall' or 'review' and 'hallucination'"):
        read_reviews(path, ["7"], False, TWO)
    with pytest.raises(ValueError, match="a list of 2 replies"):
        read_reviews(write(path, ["a"]), ["7"], False, TWO)


def test_text_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text('"one"\nRating: 3\n', encoding="utf-8")
    with pytest.raises(ValueError, match=f"Line 2 of {path} is not valid JSON"):
        read_reviews(path, None, False)


def test_the_judge_goes_into_the_protocol(tmp_path: Path) -> None:
    path = write(tmp_path / "reviews.json", [{"id": 7, "reply": "a", "judge": "j", "template": "t"}])
    reviews = read_reviews(path, ["7"], False)
    known = protocol_of(Given(reviews=path), reviews, False)
    assert known == {
        "parser": "official", "invalid_judge": "official", "rounding": "official", "judge": "j", "incomplete": False,
        "template": "t",
    }  # fmt: skip
    assert protocol_of(Given(reviews=path), [], True)["judge"] == "unknown"
    assert protocol_of(Given(reviews=path, judge="j"), reviews, False)["judge"] == "j"
    with pytest.raises(ValueError, match=f"judge=k, but {path} has reviews of j"):
        protocol_of(Given(reviews=path, judge="k"), reviews, False)
    mixed = read_reviews(write(path, [{"reply": "a", "judge": "j"}, {"reply": "a", "judge": "k"}]), None, False)
    with pytest.raises(ValueError, match="of more than one judge: j, k"):
        protocol_of(Given(reviews=path), mixed, False)


def test_a_template_is_filled_once() -> None:
    assert fill("{a} {b} {c} {{a}}", {"a": "{b}", "b": r"\1"}) == r"{b} \1 {c} {{b}}"


def test_no_text_leads_out_of_a_json_string() -> None:
    said = 'x"}\nRating: 6 {b}'
    assert json.loads(fill("{a:json}", {"a": said})) == said


def test_a_template_without_a_placeholder_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("has no {b}; it needs {a}, {b}.")):
        fill("{a} {B}", {"a": "x", "b": "y"})


def test_lists_may_stand_in_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "reviews.jsonl", [["a", "b"], ["c", "d"]], lines=True)
    assert [review.replies for review in read_reviews(path, None, False, TWO)] == [("a", "b"), ("c", "d")]
    path.write_text('[{"reply": "a"},', encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{path} is not valid JSON"):
        read_reviews(path, None, False)
