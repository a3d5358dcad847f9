"""Preference data as prompts and pairs: fresh slices, pictures on disk only where they are used, and the same every time."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlaifv.data.rows import RowError
from rlaifv.data.rows_source import RowsSource, ending
from rlaifv.data.sources import PromptSource
from rlaifv.records import Prompt
from tests.data.preferences import (
    BLUE,
    CHOSEN,
    PICTURES,
    QUESTIONS,
    RED,
    cell,
    llamafactory_rows,
    picture,
    rlaifv_rows,
    write_jsonl,
    write_parquet,
)


def make(tmp_path: Path, rows: list[dict[str, Any]] | None = None, **options: Any) -> RowsSource:
    path = write_parquet(tmp_path / "pairs.parquet", rows or rlaifv_rows())
    defaults: dict[str, Any] = {"num_iterations": 1, "seed": 0, "directory": tmp_path / "images"}
    return RowsSource(**{"form": "rlaifv", "path": str(path), **defaults, **options})


def many(num: int) -> list[dict[str, Any]]:
    """Rows with pictures and questions of their own."""
    row = rlaifv_rows()[0]
    colours = [(17 * k % 256, 31 * k % 256, 77) for k in range(num)]
    return [
        row | {"idx": str(k), "question": f"Question {k}?", "image": cell(picture(f"rgb{colour}"))}
        for k, colour in enumerate(colours)
    ]


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "images").glob("*"))


def test_rows_of_one_question_about_one_image_are_one_prompt(tmp_path: Path) -> None:
    source: PromptSource = make(tmp_path)
    assert sorted(prompt.id for prompt in source.prompts(0, None)) == ["7", "9"]
    asked = {prompt.id: prompt for prompt in source.prompts(0, 2)}
    assert asked["7"].question == QUESTIONS[0]
    assert isinstance(source, RowsSource)
    assert [(row.id, row.chosen) for row in source.answers(asked["7"])] == [("7", CHOSEN[0]), ("8", CHOSEN[1])]
    assert [row.images for row in source.answers(asked["9"])] == [()]


def test_pictures_are_named_by_their_content(tmp_path: Path) -> None:
    make(tmp_path).prompts(0, None)
    assert [path.read_bytes() for path in files(tmp_path)] == sorted(
        (RED, BLUE), key=lambda c: hashlib.sha256(c).digest()
    )
    assert {path.name for path in files(tmp_path)} == {
        f"{hashlib.sha256(RED).hexdigest()}.png",
        f"{hashlib.sha256(BLUE).hexdigest()}.jpg",
    }


def test_only_what_is_asked_for_is_written_and_nothing_twice(tmp_path: Path) -> None:
    source = make(tmp_path, many(6), num_iterations=3, num_held_out=0)
    assert files(tmp_path) == []
    first = source.prompts(0, 2)
    assert {str(path) for path in files(tmp_path)} == {path for prompt in first for path in prompt.image_paths}
    written = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    assert source.prompts(0, 2) == first
    assert {path: path.stat().st_mtime_ns for path in files(tmp_path)} == written
    files(tmp_path)[0].unlink()
    source.prompts(0, 2)
    assert set(files(tmp_path)) == {*written}


def test_iterations_take_fresh_prompts_and_held_out_ones_are_never_trained_on(tmp_path: Path) -> None:
    source = make(tmp_path, many(9), num_iterations=2, num_held_out=3)
    slices = [source.prompts(k, 3) for k in range(2)]
    used = Counter(prompt.question for some in (*slices, source.held_out()) for prompt in some)
    assert len(used) == 9
    assert set(used.values()) == {1}
    with pytest.raises(ValueError, match=r"2 iterations of 4 prompts need 8, but .*pairs\.parquet has 6 to train on"):
        source.prompts(0, 4)
    reused = make(tmp_path, many(9), num_iterations=2, num_held_out=3, reuse_prompts=True)
    assert len(reused.prompts(1, 4)) == 4
    twice = reused.prompts(0, 8)
    assert {row.id for prompt in twice for row in reused.answers(prompt)} == {p.id for p in twice if "~" not in p.id}


def test_the_same_arguments_give_the_same(tmp_path: Path) -> None:
    one, other = (make(tmp_path, many(6), num_iterations=2, seed=seed) for seed in (1, 1))
    assert (one.prompts(1, 3), one.digest) == (other.prompts(1, 3), other.digest)
    changed = many(6)
    changed[4]["chosen"] = "Something else."
    assert make(tmp_path / "changed", changed).digest != one.digest


def test_repeated_keys_get_the_row_number(tmp_path: Path) -> None:
    rows = [row | {"idx": "1"} for row in many(3)]
    assert {prompt.id for prompt in make(tmp_path, rows).prompts(0, None)} == {"1", "1~row-1", "1~row-2"}


def test_files_stay_where_they_are(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", llamafactory_rows(tmp_path))
    source = make(tmp_path / "other", form="llamafactory", path=str(path))
    paths = {path for prompt in source.prompts(0, None) for path in prompt.image_paths}
    assert {Path(path).parent for path in paths} == {tmp_path / "images"}
    assert not (tmp_path / "other" / "images").exists()


def test_a_stream_is_a_source_too(tmp_path: Path) -> None:
    source = make(tmp_path, many(6), streaming=True, num_rows=4)
    assert len(source.prompts(0, None)) == len(files(tmp_path)) == 4


def test_a_wrong_row_stops_it(tmp_path: Path) -> None:
    rows = rlaifv_rows()
    rows[2]["image"] = None
    with pytest.raises(RowError, match=r"^Column 'image' holds no image in row 2 of .*pairs\.parquet\.$"):
        make(tmp_path, rows)


def test_prompts_without_answers_are_prompts_but_no_pairs(tmp_path: Path) -> None:
    rows = [{name: row[name] for name in ("question", "image")} for row in rlaifv_rows()]
    source = make(tmp_path, rows)
    prompts = source.prompts(0, None)
    assert len(prompts) == 2
    with pytest.raises(ValueError, match=r"^Columns 'chosen' and 'rejected' are missing in row 0 of .*pairs\.parquet"):
        source.answers(prompts[0])


def test_damaged_pictures_cost_their_prompt(tmp_path: Path) -> None:
    rows = many(3)
    rows[1]["image"] = cell(PICTURES[0][:40])
    source = make(tmp_path, rows)
    good, drops, _ = source.check_images(source.prompts(0, None))
    assert {prompt.question for prompt in good} == {"Question 0?", "Question 2?"}
    assert sum(drops.values()) == 1


def test_a_prompt_of_no_such_source_has_no_answers(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        make(tmp_path).answers(Prompt("7", "Another question?", ()))


@pytest.mark.parametrize(
    ("content", "name"), [(b"BM\1", "bmp"), (b"RIFF1234WEBP", "webp"), (b"MM\0*", "tiff"), (b"", "img")]
)
def test_endings(content: bytes, name: str) -> None:
    assert ending(content) == name
