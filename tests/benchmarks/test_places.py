"""How a directory becomes files of a benchmark."""

import re
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.places import PLACES, given_in
from tests.benchmarks.fakes import Exam


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"questions": ("first.json", "deep/second.json", "*.jsonl"), "images": ("deep/mark.txt/.", "images")}
    monkeypatch.setitem(PLACES, "exam", {**names, "nouns": ("nouns.json",)})


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["first.json", "deep/second.json"], ("first.json", None)),
        (["deep/second.json", "images/a.png"], ("deep/second.json", "images")),
        (["any.jsonl", "deep/mark.txt", "images/a.png"], ("any.jsonl", "deep")),
        (["one.jsonl", "two.jsonl", "nouns.json"], (None, None)),
    ],
)
def test_the_first_that_is_there_counts(files: list[str], found: tuple[Any, Any], tmp_path: Path) -> None:
    """A pattern counts where one file fits it; what the benchmark has no use for is not looked for."""
    for name in files:
        path = tmp_path / "exam" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    given = given_in(Exam(), tmp_path)
    expected = [None if name is None else tmp_path / "exam" / name for name in found]
    assert [given.questions, given.images] == expected
    assert given.nouns is None


def test_own_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    given = given_in(Exam(), tmp_path, {"questions": Path("own.json")})
    assert (given.questions, given.images) == (Path("own.json"), None)


def test_no_directory_and_no_field(tmp_path: Path) -> None:
    message = f"data_root={tmp_path} holds no directory exam, where its files would be."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        given_in(Exam(), tmp_path)
    with pytest.raises(
        ValueError, match=r"^exam\.parser=… is not one of questions, answers, annotations, images, nouns"
    ):
        given_in(Exam(), tmp_path, {"parser": Path("strict")})
