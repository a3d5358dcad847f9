"""Rows of four formats: what they become, and how what is wrong in one is said."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from rlaifv.data.formats.openbmb import from_tsv
from rlaifv.data.formats.turns import RowError, Turn
from rlaifv.data.rows import FORMATS, Row, parse_row
from tests.data.preferences import (
    CHOSEN,
    PICTURES,
    QUESTIONS,
    RED,
    REJECTED,
    TEAL,
    cell,
    llamafactory_rows,
    rlaifv_rows,
    rlhfv_rows,
    swift_rows,
    trl_rows,
)


def rows_of(form: str, folder: Path) -> list[dict[str, Any]]:
    if form in ("llamafactory", "swift"):
        return {"llamafactory": llamafactory_rows, "swift": swift_rows}[form](folder)
    return {"rlaifv": rlaifv_rows, "rlhfv": rlhfv_rows, "trl": trl_rows}[form]()


def parse(form: str, fields: dict[str, Any], root: Path | None = None) -> Row:
    return parse_row(form, fields, 3, "row 3 of pairs", root)


def error_of(form: str, fields: dict[str, Any], root: Path | None = None) -> RowError:
    with pytest.raises(RowError) as raised:
        parse(form, fields, root)
    assert "row 3 of pairs" in str(raised.value)
    assert str(raised.value).endswith(".")
    return raised.value


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_the_same(form: str, tmp_path: Path) -> None:
    for k, fields in enumerate(rows_of(form, tmp_path)):
        row = parse(form, fields, tmp_path)
        assert (row.question, row.chosen, row.rejected) == (QUESTIONS[k], CHOSEN[k], REJECTED[k])
        (image,) = row.images
        assert (image if isinstance(image, bytes) else Path(image).read_bytes()) == PICTURES[k]


def test_ids_and_origins_are_kept() -> None:
    assert [parse("rlaifv", fields).id for fields in rlaifv_rows()] == ["7", "8", "9"]
    assert [parse("rlhfv", fields).id for fields in rlhfv_rows()] == ["7", "8", "9"]
    assert parse("trl", trl_rows()[0]).id == "3"  # it has none, so its number is
    origin = json.loads(parse("rlaifv", rlaifv_rows()[1]).origin)
    assert json.loads(origin["origin_split"]) == {"model": "LLaVA-1.5", "type": "question answering"}
    assert (origin["origin_dataset"], origin["image_path"]) == ("COCO", "1.jpg")
    assert parse("trl", trl_rows()[0]).origin == ""


def test_plain_texts_of_trl() -> None:
    row = parse("trl", trl_rows(is_conversational=False)[2])
    assert (row.question, row.chosen, row.rejected) == (QUESTIONS[2], CHOSEN[2], REJECTED[2])


def test_a_single_image_column_and_texts_as_content() -> None:
    fields = {"prompt": [{"role": "user", "content": "What?"}], "image": cell(RED)}
    assert parse("trl", fields) == Row("3", "What?", (RED,), None, None)


def test_words_of_a_conversation_are_words() -> None:
    """TRL puts images before the words itself; only in plain texts and in LLaMA-Factory's do markers stand for them."""
    fields = {"prompt": [{"role": "user", "content": "What does <image> mean?"}], "image": cell(RED)}
    assert parse("trl", fields).question == "What does <image> mean?"


def test_several_images_keep_their_order() -> None:
    blocks = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is redder?"}]
    fields = {"prompt": [{"role": "user", "content": blocks}], "images": [cell(TEAL), cell(RED)]}
    assert parse("trl", fields).images == (TEAL, RED)


def test_markers_are_taken_off_at_either_end(tmp_path: Path) -> None:
    fields = llamafactory_rows(tmp_path)[0] | {"images": ["images/2.png", "images/0.png"]}
    for text in ("<image>\n<image>\nWhich?", "Which?\n<image><image>", "<image><image> Which?"):
        fields["conversations"] = [{"from": "human", "value": text}]
        row = parse("llamafactory", fields, tmp_path)
        assert row.question == "Which?"
        assert [Path(str(image)).name for image in row.images] == ["2.png", "0.png"]


def test_the_older_form_is_base64(tmp_path: Path) -> None:
    text = base64.b64encode(json.dumps(["<image>\nWhat?", "Yes.", "No.", [0.0]]).encode()).decode()
    encoded = {"image": base64.b64encode(RED).decode(), "text": text, "origin_split": base64.b64encode(b"{}").decode()}
    assert parse("rlhfv", from_tsv(encoded, "row 3 of pairs")) == Row(
        "3", "What?", (RED,), "Yes.", "No.", '{"origin_split": "{}"}'
    )
    with pytest.raises(RowError, match=r"^Column 'image' is not base64 of what it should hold in row 3 of pairs: "):
        from_tsv(encoded | {"image": "%%%"}, "row 3 of pairs")


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("rlaifv", {"question": 3}, "wrong_type", "Column 'question' has to be a text in row 3 of pairs, but it is of type int."),
    ("rlaifv", {"question": None}, "wrong_type", "of type NoneType"),
    ("rlaifv", {"chosen": " \n"}, "empty", "Column 'chosen' is empty in row 3 of pairs."),
    ("rlaifv", {"rejected": ""}, "empty", "Column 'rejected' is empty"),
    ("rlaifv", {"rejected": None}, "half_a_pair", "Column 'rejected' is missing in row 3 of pairs, though 'chosen' is there."),
    ("rlaifv", {"chosen": "\ud800"}, "not_text", "Column 'chosen' has half of a surrogate pair"),
    ("rlaifv", {"image": None}, "missing_image", "Column 'image' holds no image in row 3 of pairs."),
    ("rlaifv", {"image": cell(None)}, "missing_image", "Column 'image' has to hold images in row 3 of pairs, but one is of"),
    ("rlaifv", {"image": cell(b"")}, "missing_image", "but one is of nothing"),
    ("rlaifv", {"image": 7}, "missing_image", "but one is of type int"),
    ("rlaifv", {"image": cell(None, "a.jpg")}, "missing_image", "names the file 'a.jpg' in row 3 of pairs, but"),
    ("rlhfv", {"text": "{"}, "not_json", "Column 'text' is not JSON in row 3 of pairs: "),
    ("rlhfv", {"text": "[" * 100_000}, "not_json", "Column 'text' is not JSON"),
    ("rlhfv", {"text": "[]"}, "not_json", "Column 'text' holds no question"),
    ("rlhfv", {"text": '["What?", "", "No."]'}, "empty", "Column 'chosen' is empty"),
    ("trl", {"prompt": []}, "conversation", "the user's first and last, in row 3 of pairs, but it holds nobody."),
    ("trl", {"prompt": ["What?"]}, "wrong_type", "Column 'prompt' has to hold a conversation"),
    ("trl", {"prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, "conversation", "user, user."),
    ("trl", {"prompt": [{"role": "tool", "content": "a"}]}, "conversation", "holds a turn of 'tool' in row 3 of pairs; there"),
    ("trl", {"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "conversation", "go on"),
    ("trl", {"prompt": [{"role": "user", "content": [{"type": "video"}]}]}, "wrong_type", "neither text nor image"),
    ("trl", {"chosen": [{"role": "user", "content": "a"}]}, "conversation", "turn of assistant in row 3 of pairs, but"),
    ("trl", {"images": []}, "missing_image", "Column 'images' holds no image"),
    ("trl", {"images": [cell(RED), cell(TEAL)]}, "image_count", "marks 1 images in row 3 of pairs, but column 'images' holds"),
    ("trl", {"prompt": "Is <image> like this?"}, "image_position", "has an image between words in row 3 of pairs"),
    ("llamafactory", {"system": 3}, "wrong_type", "Column 'system' has to be a text"),
    ("llamafactory", {"conversations": None, "instruction": "What?", "history": [["a"]]}, "wrong_type", "couples of turns"),
    ("llamafactory", {"images": ["https://a/b.png"]}, "remote_image", "names https://a/b.png in row 3 of pairs, but nothing"),
    ("llamafactory", {"images": ["file://far/b.png"]}, "remote_image", "a file of another machine"),
    ("llamafactory", {"images": ["file:///b/c.png"]}, "outside_root", "lies outside"),
    ("llamafactory", {"images": ["data:image/png;base64,%%"]}, "not_base64", "holds a data URL in row 3 of pairs that is not"),
    ("llamafactory", {"images": ["\x1b[2J.png"]}, "missing_image", "\\x1b[2J.png in row 3 of pairs"),
    ("swift", {"rejected_response": None, "rejected_messages": [{"role": "user", "content": "a"}]}, "conversation", "to end"),
    ("swift", {"rejected_images": ["a.png"]}, "image_count", "Column 'rejected_images' is not empty"),
    ("llamafactory", {"chosen": {"from": "gpt", "value": "<image>Yes."}}, "image_position", "Column 'chosen' marks an image"),
    ("llamafactory", {"chosen": 3}, "wrong_type", "Column 'chosen' has to hold a conversation"),
    ("llamafactory", {"conversations": [{"from": "human", "value": "<image>"}]}, "empty", "'conversations' is empty"),
    ("llamafactory", {"images": ["images/9.png"]}, "missing_image", "images/9.png in row 3 of pairs, which is not an"),
    ("llamafactory", {"images": ["a\0b"]}, "missing_image", "which is not an existing file"),
    ("llamafactory", {"images": ["../secret.png"]}, "outside_root", "lies outside"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "change", "reason", "message"), WRONG)
def test_what_is_wrong_is_named(form: str, change: dict[str, Any], reason: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(RED)
    folder = tmp_path / "data"
    fields = rows_of(form, folder)[0]
    root = folder if form in ("llamafactory", "swift") else None
    parse(form, fields, root)
    error = error_of(form, fields | change, root)
    assert (error.reason, message in str(error)) == (reason, True), str(error)


def test_missing_columns() -> None:
    assert FORMATS["trl"].missing(["prompt", "image"]) == []
    assert FORMATS["trl"].missing(["chosen", "rejected"]) == []
    assert FORMATS["trl"].missing(["text"]) == ["prompt or chosen"]
    assert FORMATS["swift"].missing(["conversations"]) == ["messages or query"]


def test_a_turn_counts_its_images() -> None:
    text = {"question": "<image>What?", "chosen": "a", "rejected": "b"}
    question, *_ = FORMATS["rlhfv"].parse({"text": json.dumps(text)}, "row 3")
    assert question == Turn("What?", 1)
