"""Forms of a prompt list: one list written in each of them, and what is said of a wrong entry."""

import json
from pathlib import Path

import pytest
from PIL import Image

from rlaifv.data.sources import read_prompts

ROWS = [{"id": "a", "image": ["a.png"], "question": "What, then?"}, {"id": "b", "image": "a.png", "question": "Why?"}]
TALK = [
    {"from": "human", "value": "<image>\nWhat?"},
    {"from": "gpt", "value": "A thing."},
    {"from": "human", "value": "Why?"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 6), "teal").save(tmp_path / "a.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.jsonl", "\n".join(map(json.dumps, ROWS))),
        ("a.csv", 'id,image,question\na,"[""a.png""]","What, then?"\nb,a.png,Why?\n'),
        ("a.tsv", "image\tquestion\tid\na.png\tWhat, then?\ta\na.png\tWhy?\tb\n"),
    ],
)
def test_every_form_gives_the_same_prompts(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    found = [(prompt.id, prompt.question, prompt.image_paths) for prompt in read_prompts(folder / name)]
    image = (str(folder / "a.png"),)
    assert found == [("a", "What, then?", image), ("b", "Why?", image)]


def test_conversations_give_their_first_question_or_all(folder: Path) -> None:
    (folder / "a.json").write_text(json.dumps([{"id": 7, "image": "a.png", "conversations": TALK}]))
    first, every = (read_prompts(folder / "a.json", turns=turns) for turns in ("first", "all"))  # type: ignore[arg-type]
    assert [(prompt.id, prompt.question) for prompt in first] == [("7", "What?")]
    assert [(prompt.id, prompt.question) for prompt in every] == [("7/1", "What?"), ("7/2", "Why?")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[{"image": "a.png"}]', "Field 'question' is missing in entry 1 of"),
        ("a.json", "[3]", "The entry 1 of .* is not a JSON object with fields, but of type int"),
        ("a.json", "[{", "The prompt list .* is not JSON in UTF-8"),
        ("a.json", "[]", "has no prompts"),
        ("a.json", '[{"image": "a.png", "conversations": []}]', "'conversations' in entry 1 of .* has no turn from"),
        ("a.json", '[{"image": "a.png", "conversations": 3}]', "has to be a list of turns"),
        ("a.csv", "image,text\na.png,x\n", "The header of .* has no column 'question'"),
        ("a.csv", "image,question\na.png\n", "The line 2 of .* has another number of fields than the header"),
        ("a.csv", "image,question\nb.png,x\n", "Field 'image' in line 2 of .* which is not an existing file"),
        ("a.csv", "", "The header of .* has no column 'image'"),
    ],
)
def test_a_wrong_entry_is_named(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prompts(folder / name)
