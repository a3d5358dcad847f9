"""Rows as they exist in the wild, written out: what goes in, and what it becomes."""

import base64
from pathlib import Path
from typing import Any

import pytest

from rlaifv.data.formats.pictures import read_images
from rlaifv.data.formats.turns import RowError
from rlaifv.data.rows import Row, parse_row
from tests.data.preferences import BLUE, RED

WHO, CAT, WHAT = "Who is it?", "A cat.", "What does it do?"
BASE64 = base64.b64encode(RED).decode()


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
# Format, columns, and what they become: question, chosen, rejected, system, history.
SAID: list[tuple[str, dict[str, Any], tuple[str, str | None, str | None, str, tuple[str, ...]]]] = [
    (  # TRL's implicit prompt, conversations
        "trl",
        {"chosen": [user(WHAT), assistant("It sits.")], "rejected": [user(WHAT), assistant("It runs.")]},
        (WHAT, "It sits.", "It runs.", "", ()),
    ),
    (  # and texts, whose common beginning ends with a word
        "trl",
        {"chosen": "What is it? A red cat.", "rejected": "What is it? A red car."},
        ("What is it? A red", "cat.", "car.", "", ()),
    ),
    (  # several turns with a system message, explicit
        "trl",
        {
            "prompt": [SYSTEM, user(WHO), assistant(CAT), user(WHAT)],
            "chosen": [assistant("It sits.")],
            "rejected": "No.",
        },
        (WHAT, "It sits.", "No.", "Be brief.", (WHO, CAT)),
    ),
    (  # and implicit
        "trl",
        {
            "chosen": [SYSTEM, user(WHO), assistant(CAT), user(WHAT), assistant("It sits.")],
            "rejected": [SYSTEM, user(WHO), assistant(CAT), user(WHAT), assistant("No.")],
        },
        (WHAT, "It sits.", "No.", "Be brief.", (WHO, CAT)),
    ),
    (  # answers of several turns, the last of which differ
        "trl",
        {
            "prompt": [user(WHO)],
            "chosen": [assistant(CAT), user(WHAT), assistant("It sits.")],
            "rejected": [assistant(CAT), user(WHAT), assistant("No.")],
        },
        (WHAT, "It sits.", "No.", "", (WHO, CAT)),
    ),
    (  # the prompt as a text, and again in both conversations
        "trl",
        {"prompt": WHAT, "chosen": [user(WHAT), assistant("It sits.")], "rejected": [user(WHAT), assistant("No.")]},
        (WHAT, "It sits.", "No.", "", ()),
    ),
    (
        "llamafactory",
        {
            "conversations": [
                {"from": "human", "value": WHO},
                {"from": "gpt", "value": CAT},
                {"from": "human", "value": WHAT},
            ],
            "chosen": {"from": "gpt", "value": "It sits."},
            "rejected": {"from": "gpt", "value": "No."},
            "system": "Be brief.",
        },
        (WHAT, "It sits.", "No.", "Be brief.", (WHO, CAT)),
    ),
    (
        "llamafactory",
        {"messages": [SYSTEM, user(WHAT)], "chosen": "It sits.", "rejected": [assistant("No.")], "system": ""},
        (WHAT, "It sits.", "No.", "Be brief.", ()),
    ),
    (
        "llamafactory",
        {
            "instruction": "Look.",
            "input": WHAT,
            "chosen": "It sits.",
            "rejected": "No.",
            "system": "Be brief.",
            "history": [[WHO, CAT]],
        },
        (f"Look.\n{WHAT}", "It sits.", "No.", "Be brief.", (WHO, CAT)),
    ),
    (
        "llamafactory",
        {"instruction": WHAT, "input": "", "chosen": "It sits.", "rejected": "No.", "history": None},
        (WHAT, "It sits.", "No.", "", ()),
    ),
    (
        "swift",
        {
            "messages": [SYSTEM, user(WHO), assistant(CAT), user(WHAT), assistant("It sits.")],
            "rejected_response": "No.",
        },
        (WHAT, "It sits.", "No.", "Be brief.", (WHO, CAT)),
    ),
    (
        "swift",
        {
            "messages": [user(WHO), assistant(CAT), user(WHAT), assistant("It sits.")],
            "rejected_messages": [user(WHO), assistant(CAT), user(WHAT), assistant("No.")],
        },
        (WHAT, "It sits.", "No.", "", (WHO, CAT)),
    ),
    (
        "swift",
        {
            "query": WHAT,
            "response": "It sits.",
            "rejected_response": "No.",
            "history": [[WHO, CAT]],
            "system": "Be brief.",
        },
        (WHAT, "It sits.", "No.", "Be brief.", (WHO, CAT)),
    ),
    ("swift", {"messages": [user(WHAT), assistant("It sits.")]}, (WHAT, None, None, "", ())),
    ("swift", {"messages": [user(WHAT)]}, (WHAT, None, None, "", ())),
]


@pytest.mark.parametrize(("form", "fields", "said"), SAID)
def test_what_rows_say(form: str, fields: dict[str, Any], said: tuple[Any, ...]) -> None:
    row = parse_row(form, fields, 3, "row 3", None)
    assert row.images == ()
    assert (row.question, row.chosen, row.rejected, row.system, row.history) == said


def test_the_first_user_turn_shows_the_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    turns = [
        {"from": "human", "value": f"<image>{WHO}"},
        {"from": "gpt", "value": CAT},
        {"from": "human", "value": WHAT},
    ]
    fields = {"conversations": turns, "chosen": "It sits.", "rejected": "No.", "images": ["a.png"]}
    row = parse_row("llamafactory", fields, 3, "row 3", tmp_path)
    assert row == Row("3", WHAT, (str(tmp_path / "a.png"),), "It sits.", "No.", history=(WHO, CAT))
    turns[0]["value"], turns[2]["value"] = WHO, f"<image>{WHAT}"
    with pytest.raises(
        RowError, match=r"^Column 'conversations' marks an image in a later turn in row 3; images have to"
    ):
        parse_row("llamafactory", fields, 3, "row 3", tmp_path)


def test_sides_that_part_earlier_are_no_preference() -> None:
    fields = {
        "chosen": [user(WHO), assistant(CAT), user(WHAT), assistant("It sits.")],
        "rejected": [user(WHO), assistant("A dog."), user(WHAT), assistant("No.")],
    }
    with pytest.raises(
        RowError, match=r"^Columns 'chosen' and 'rejected' differ before their last turn in row 3; only"
    ):
        parse_row("trl", fields, 3, "row 3", None)
    with pytest.raises(RowError, match=r"^Columns 'chosen' and 'rejected' begin with no common words in row 3, so"):
        parse_row("trl", {"chosen": "Yes, it is.", "rejected": "Not at all."}, 3, "row 3", None)
    with pytest.raises(RowError, match=r"^Columns 'prompt' and 'rejected' are missing in row 3\.$"):
        parse_row("trl", {"chosen": "Yes, it is."}, 3, "row 3", None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (RED, (RED,)),
        ([{"bytes": RED, "path": None}, BLUE], (RED, BLUE)),
        ([BASE64], (RED,)),
        ({"bytes": f"{BASE64[:76]}\n{BASE64[76:]}"}, (RED,)),
        (f"data:image/png;base64,{BASE64}", (RED,)),
        ("a b.png", ("a b.png",)),
        ([{"bytes": None, "path": "a b.png"}], ("a b.png",)),
        ("file://ROOT/a%20b.png", ("a b.png",)),
        ("file://localhostROOT/a%20b.png", ("a b.png",)),
    ],
)
def test_images_in_every_wrapping(value: Any, expected: tuple[str | bytes, ...], tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(BLUE)
    value = value.replace("ROOT", str(tmp_path)) if isinstance(value, str) else value
    found = read_images(value, "images", "row 3", tmp_path)
    assert found == tuple(one if isinstance(one, bytes) else str(tmp_path / one) for one in expected)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BASE64}"}},
        {"type": "image", "image": BASE64},
        {"type": "image", "path": "a.png"},
    ],
)
def test_images_inside_the_conversation(block: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    fields = {"prompt": [user([block, {"type": "text", "text": WHO}])], "chosen": CAT, "rejected": "No."}
    (image,) = parse_row("trl", fields, 3, "row 3", tmp_path).images
    assert (image if isinstance(image, bytes) else Path(image).read_bytes()) == RED
