"""The validator: silent on good data, a sentence for each wrong row, and all of them counted."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlaifv.data.rows import FORMATS
from tests.data.preferences import RED, cell, picture, rlaifv_rows, trl_rows, write_format, write_jsonl, write_parquet
from tools.validate_data import main


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], dict[str, int]]:
    """Exit status, messages, and the numbers of the table."""
    status = main(arguments)
    lines = capsys.readouterr().out.splitlines()
    numbers = {
        m[1].strip(): int(m[2].replace(",", ""))
        for line in lines
        if (m := re.fullmatch(r"(.*?)\s{2,}([\d,]+)\s*", line))
    }
    return status, [line for line in lines if re.match(r"\w+: ", line)], numbers


@pytest.mark.parametrize("form", FORMATS)
def test_good_data(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, messages, numbers = run(capsys, f"format={form}", f"path={write_format(form, tmp_path / 'data')}")
    assert (status, messages) == (0, [])
    assert (numbers["rows"], numbers["usable"], numbers["pairs"], numbers["wrong"]) == (3, 3, 3, 0)
    if form not in ("llamafactory", "swift"):  # whose files are told apart by name
        assert (numbers["distinct prompts"], numbers["distinct images"]) == (2, 2)


def test_every_wrong_row_is_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [rlaifv_rows()[0] | {"question": f"Question {k}?"} for k in range(9)]
    for k in (1, 3, 4):
        rows[k]["chosen"] = ""
    rows[5]["image"] = cell(RED[:40])
    rows[6]["image"] = cell(picture("blue", side=70))
    rows[7]["image"] = None
    path = write_parquet(tmp_path / "pairs.parquet", rows)
    status, messages, numbers = run(capsys, "format=rlaifv", f"path={path}", "show=2", "max_pixels=4096")
    assert status == 1
    assert messages[:2] == [f"empty: Column 'chosen' is empty in row {k} of {path}." for k in (1, 3)]
    assert messages[2].startswith(f"unknown_format: Row 5 of {path}: The embedded image is none of JPEG, PNG, ")
    assert messages[3].startswith(
        f"too_many_pixels: Row 6 of {path}: The embedded image has 4900 pixels, more than the 4096"
    )
    assert messages[4:] == [f"missing_image: Column 'image' holds no image in row 7 of {path}."]
    assert (numbers["rows"], numbers["usable"], numbers["wrong"], numbers["empty"]) == (9, 3, 6, 3)


def test_the_first_row_of_each_kind_is_shown_and_counts_end_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": "What?", "chosen": "Yes.", "rejected": "No.", "images": [f"../{k}\x1b[2J.png"]} for k in range(3)
    ]
    path = write_jsonl(tmp_path / "data" / "pairs.jsonl", [*rows, rows[0] | {"images": None, "chosen": ["a" * 900]}])
    assert main(["format=trl", f"path={path}", "show=1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "\x1b[2J" not in "".join(lines)
    at = next(k for k, line in enumerate(lines) if line.startswith("outside_root: "))
    assert r"/0\x1b[2J.png in row 0 of" in lines[at]
    assert lines[at + 1].startswith("    {'prompt': 'What?', 'chosen': ")
    assert r"'images': ['../0\x1b[2J.png']}" in lines[at + 1].replace("\\\\", "\\")
    assert lines[at + 2].startswith("wrong_type: ")
    assert len(lines[at + 3]) < 310
    assert lines[-2] == "3 rows: an image lies outside the data's folder; set data.image_root=DIR."
    assert lines[-1].startswith("1 row: a column holds something else than its format says; ")


def test_a_stream_is_checked_as_far_as_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = trl_rows()
    rows[2]["chosen"] = []
    path = write_parquet(tmp_path / "pairs.parquet", rows)
    asked = ("format=trl", f"path={path}", "streaming=true")
    assert run(capsys, *asked, "num_rows=2")[0] == 0
    status, messages, _ = run(capsys, *asked, "num_rows=3")
    assert (status, len(messages)) == (1, 1)


def test_lists_of_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    path = write_jsonl(tmp_path / "prompts.jsonl", [{"image": ["a.png", "a.png"], "question": "Which?"}])
    status, _, numbers = run(capsys, "format=files", f"path={path}")
    assert (status, numbers["rows with several images"], numbers["pairs"]) == (0, 1, 0)
    path.write_text(json.dumps({"image": "b.png", "question": "Which?"}))
    assert main(["format=files", f"path={path}"]) == 2
    assert "which is not an existing file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["format=trl"], "path must be given, as in path=…."),
        (["format=dpo", "path=."], "'dpo' is no format of preference data"),
        (
            ["format=trl", "path=.", "show=few"],
            "show=few: Value 'few' of type 'str' could not be converted to Integer.",
        ),
        (
            ["format=trl", "path=.", "streaming=perhaps"],
            "streaming=perhaps: Value 'perhaps' is not a valid bool (type str).",
        ),
    ],
)
def test_what_cannot_be_checked_is_status_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().out
