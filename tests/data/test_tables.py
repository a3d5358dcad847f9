"""Data sets where they lie: kinds of files, directories, streams, what the hub is asked for, and what is refused."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from rlaifv.data.rows import FORMATS, Row, RowError
from rlaifv.data.tables import Table, count_rows
from tests.data.preferences import (
    CHOSEN,
    PICTURES,
    QUESTIONS,
    RED,
    REJECTED,
    llamafactory_rows,
    rlaifv_rows,
    rlhfv_rows,
    trl_rows,
    write_format,
    write_jsonl,
    write_parquet,
    write_tsv,
)


def contents(rows: list[Row]) -> list[tuple[Any, ...]]:
    images = [[image if isinstance(image, bytes) else Path(image).read_bytes() for image in row.images] for row in rows]
    return [(row.question, row.chosen, row.rejected, *some) for row, some in zip(rows, images, strict=True)]


EXPECTED = list(zip(QUESTIONS, CHOSEN, REJECTED, PICTURES, strict=True))


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_a_directory_and_a_stream_hold_the_same(form: str, tmp_path: Path) -> None:
    path = write_format(form, tmp_path / "data")
    for table in (Table(form, str(path)), Table(form, str(path.parent))):
        assert (len(table), contents(list(table))) == (3, EXPECTED)
    assert contents(Table(form, str(path), num_rows=2)[:]) == EXPECTED[:2]
    stream = Table(form, str(path), streaming=True, num_rows=2)
    assert (len(stream), contents(list(stream))) == (2, EXPECTED[:2])
    assert stream[-1] == stream[1]
    with pytest.raises(IndexError, match="has 2 rows, so there is no row 2"):
        stream[2]


def test_a_bare_table_needs_no_features(tmp_path: Path) -> None:
    for form, rows in (("rlaifv", rlaifv_rows()), ("trl", trl_rows()), ("rlhfv", rlhfv_rows())):
        path = write_parquet(tmp_path / f"{form}.parquet", rows, has_features=False)
        assert contents(list(Table(form, str(path)))) == EXPECTED
        assert contents(list(Table(form, str(path), streaming=True, num_rows=9))) == EXPECTED


@pytest.mark.parametrize("with_logps", [False, True])
def test_tab_separated_rows(tmp_path: Path, with_logps: bool) -> None:
    path = write_tsv(tmp_path / "pairs-3.tsv", rlhfv_rows(), with_logps)
    rows = list(Table("rlhfv", str(path)))
    assert contents(rows) == EXPECTED
    assert rows[0].id == "7"
    assert json.loads(rows[0].origin)["origin_split"] == rlhfv_rows()[0]["origin_split"]


def test_a_json_list_and_mixed_kinds_of_prompts(tmp_path: Path) -> None:
    """`datasets` has a type for columns that hold texts in one row and conversations in another."""
    rows = [{**row, "images": ["a.png"]} for row in (trl_rows()[0], trl_rows(is_conversational=False)[1])]
    rows[0]["prompt"] = [{"role": "user", "content": QUESTIONS[0]}]
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    assert contents(list(Table("trl", str(tmp_path / "pairs.json")))) == EXPECTED[:2]


def test_directories_are_read_by_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", rlaifv_rows()[:1])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", rlaifv_rows()[1:2])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rlaifv_rows()[2:])
    (tmp_path / "dataset_info.json").write_text("{}")
    assert contents(list(Table("rlaifv", str(tmp_path)))) == EXPECTED[:2]
    test = Table("rlaifv", str(tmp_path), split="test")
    assert contents(list(test)) == EXPECTED[2:]
    assert test.name == f"{tmp_path}, split test"


def test_images_may_lie_elsewhere(tmp_path: Path) -> None:
    rows = llamafactory_rows(tmp_path / "pictures")
    path = write_jsonl(tmp_path / "lists" / "pairs.jsonl", rows)
    for root in ("../pictures", str(tmp_path / "pictures")):
        assert contents(list(Table("llamafactory", str(path), image_root=root))) == EXPECTED
    with pytest.raises(RowError, match="is not an existing file"):
        Table("llamafactory", str(path))[0]
    with pytest.raises(ValueError, match=r"^data\.image_root=nowhere is not a directory\.$"):
        Table("llamafactory", str(path), image_root="nowhere")


@pytest.mark.parametrize("streaming", [False, True])
def test_what_the_hub_is_asked_for(monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    asked: list[dict[str, Any]] = []
    rows = rlaifv_rows()
    plain = [{name: value for name, value in row.items() if name != "image"} for row in rows]
    features = datasets.Features({**datasets.Dataset.from_list(plain).features, "image": datasets.Image()})

    def load_dataset(**options: Any) -> Any:
        asked.append(options)
        data = datasets.Dataset.from_list(rows, features)
        return data.to_iterable_dataset() if streaming else data

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = Table("rlaifv", "openbmb/RLAIF-V-Dataset", revision="abc", split="train", streaming=streaming, num_rows=2)
    assert contents(list(table)) == EXPECTED[:2]
    assert asked == [{"path": "openbmb/RLAIF-V-Dataset", "revision": "abc", "split": "train", "streaming": streaming}]
    assert table.name == "openbmb/RLAIF-V-Dataset, split train"


def test_without_a_network_the_hub_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^nobody/nothing, split train cannot be read: \S.*\.$"):
        Table("rlaifv", "nobody/nothing")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "text", r"a\.txt does not end with one of \.parquet, \.jsonl, \.json, \.tsv\.$"),
        ("a.parquet", "text", r"a\.parquet cannot be read: \S.*\.$"),
        ("a.jsonl", '{"question": ', r"a\.jsonl cannot be read: \S.*\.$"),
        ("a.jsonl", "", r"a\.jsonl cannot be read: \S.*\.$"),
        ("a.jsonl", '{"answer": "a", "image": "b"}', r"a\.jsonl has no column question, which data=rlaifv needs; its columns "
         r"are answer, image\.$"),
    ],
)  # fmt: skip
def test_what_is_no_such_data_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        Table("rlaifv", str(tmp_path / name))


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no data for split train: no file that ends with \.parquet, "):
        Table("rlaifv", str(tmp_path))
    with pytest.raises(ValueError, match=r"^data\.streaming=true needs data\.num_rows"):
        Table("rlaifv", str(tmp_path), streaming=True)
    with pytest.raises(ValueError, match=r"^'dpo' is no format of preference data; there are rlaifv, rlhfv, "):
        Table("dpo", str(tmp_path))


def test_a_wrong_row_is_wrong_only_when_it_is_read(tmp_path: Path) -> None:
    rows = rlaifv_rows()
    rows[1]["chosen"] = " "
    table = Table("rlaifv", str(write_parquet(tmp_path / "pairs.parquet", rows)))
    assert table[2].chosen == CHOSEN[2]
    with pytest.raises(RowError, match=rf"^Column 'chosen' is empty in row 1 of {tmp_path}/pairs\.parquet\.$"):
        table[1]


def test_a_broken_line_costs_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    rows = [{"prompt": f"What is {k}?", "chosen": "Yes.", "rejected": "No.", "images": ["a.png"]} for k in range(3)]
    lines = [json.dumps(row) for row in rows]
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "\n".join([lines[0], '{"prompt": "Wh', lines[1], "[1]", '{"prompt": "\\ud800", "chosen": "a"}', lines[2]])
    )
    table = Table("trl", str(path))
    found = list(table.rows_and_errors())
    assert [row.question for row in found if not isinstance(row, RowError)] == [
        "What is 0?",
        "What is 1?",
        "What is 2?",
    ]
    errors = [(error.reason, str(error)) for error in found if isinstance(error, RowError)]
    assert [reason for reason, _ in errors] == ["not_json", "not_json", "not_text"]
    assert errors[0][1] == f"The line of row 1 of {path} is no JSON object."
    assert len(Table("trl", str(path), num_rows=2)) == 2


def test_rows_are_counted_without_reading_them(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "data" / "a.parquet", rlaifv_rows())
    assert (count_rows(path), count_rows(tmp_path)) == (3, 3)
    assert count_rows(write_jsonl(tmp_path / "lists" / "a.jsonl", [{}, {}])) == 2
    assert count_rows(tmp_path / "lists") is None
    assert count_rows(tmp_path / "openbmb/RLHF-V-Dataset") is None
