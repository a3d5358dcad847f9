"""Preference data as prompts and pairs: fresh slices, pictures on disk only where they are used, and the same every time."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

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


def test_wrong_rows_are_dropped_and_too_many_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = rlaifv_rows()
    rows[2]["image"] = None
    source = make(tmp_path, rows, max_drop_rate=0.4)
    assert [prompt.question for prompt in source.prompts(0, None)] == ["What is it?"]
    assert caplog.messages == [
        f"Dropped from {tmp_path}/pairs.parquet: 1 row: an image is not there; set data.image_root=DIR where images lie "
        f"elsewhere. The first: Column 'image' holds no image in row 2 of {tmp_path}/pairs.parquet."
    ]
    with pytest.raises(
        ValueError, match=r"^1 of the 3 rows of .*pairs\.parquet cannot be used, more than iteration.*=0\.3 al"
    ):
        make(tmp_path, rows, max_drop_rate=0.3)
    for row in rows:
        row["image"] = None
    with pytest.raises(
        ValueError, match=r"^3 of the 3 rows of .* 3 rows: an image is not there; .* The first: .*row 0 of"
    ):
        make(tmp_path, rows, max_drop_rate=1.0)


def test_other_history_is_another_prompt(tmp_path: Path) -> None:
    def turns(*texts: str) -> list[dict[str, str]]:
        return [{"role": "assistant" if k % 2 else "user", "content": text} for k, text in enumerate(texts)]

    prompts = [turns("What?"), turns("Who?", "A cat.", "What?"), turns("Who?", "A dog.", "What?"), turns("What?")]
    system = {"role": "system", "content": "Be brief."}
    prompts[3] = [system, *prompts[3]]
    rows = [
        {"prompt": one, "chosen": "Yes.", "rejected": "No.", "images": [cell(RED)]} for one in (*prompts, prompts[2])
    ]
    source = make(tmp_path, rows, form="trl", run="train")
    found = {(prompt.system, prompt.history): source.answers(prompt) for prompt in source.prompts(0, None)}
    assert {key: len(answers) for key, answers in found.items()} == {
        ("", ()): 1,
        ("", ("Who?", "A cat.")): 1,
        ("", ("Who?", "A dog.")): 2,
        ("Be brief.", ()): 1,
    }
    digests = {make(tmp_path / str(k), rows[: k + 1], form="trl", run="train").digest for k in range(5)}
    assert len(digests) == 5


def test_text_alone_is_for_training_and_never_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": f"What is {k}?", "chosen": "Yes.", "rejected": "No.", "images": []} for k in range(4)]
    rows[2]["images"] = [cell(RED)]
    caplog.set_level("INFO")
    source = make(tmp_path, rows, form="trl", run="train", num_held_out=1)
    assert [prompt.question for prompt in source.held_out()] == ["What is 2?"]
    assert {prompt.image_paths for prompt in source.prompts(0, None)} == {()}
    with pytest.raises(ValueError, match=r"^data\.num_held_out=2 needs as many prompts with an image, but .* has 1\.$"):
        make(tmp_path, rows, form="trl", run="train", num_held_out=2)
    assert caplog.messages[:1] == [
        f"3 of the 4 rows of {tmp_path}/pairs.parquet have no image and are trained on as text."
    ]
    with pytest.raises(
        ValueError, match=r"3 rows: there is no image, .*only run=train takes rows of text alone\. The first: "
    ):
        make(tmp_path, rows, form="trl", max_drop_rate=0.5)


def test_rows_without_answers_are_dropped_where_answers_are_trained_on(tmp_path: Path) -> None:
    rows = many(4)
    rows[1] |= {"chosen": None, "rejected": None}
    assert len(make(tmp_path, rows).prompts(0, None)) == 4
    assert len(make(tmp_path, rows, run="train", max_drop_rate=0.25).prompts(0, None)) == 3


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
