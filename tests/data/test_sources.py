"""Prompt lists on disk: what is read, what is refused and in which words, and how iterations share the prompts."""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rlaifv.data.images import load_image
from rlaifv.data.sources import FilesSource, PromptSource, check_images, read_prompts
from rlaifv.records import Prompt


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 6), "teal").save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def write_list(folder: Path, rows: Sequence[Mapping[str, object]]) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def numbered(folder: Path, count: int) -> str:
    return write_list(folder, [{"id": k, "image": "images/a.png", "question": f"Question {k}?"} for k in range(count)])


def ids(prompts: list[Prompt]) -> list[str]:
    return [prompt.id for prompt in prompts]


def test_rows_become_prompts(folder: Path) -> None:
    absolute = str(folder / "images" / "b.png")
    rows: list[dict[str, object]] = [
        {"id": "first", "image": "images/a.png", "question": "What is this?", "note": "ignored"},
        {"id": 17, "image": absolute, "question": " Où est-ce ? "},
        {"image": ["images/a.png", absolute], "question": "Which is larger?"},
    ]
    assert read_prompts(write_list(folder, rows)) == [
        Prompt("first", "What is this?", (str(folder / "images" / "a.png"),)),
        Prompt("17", " Où est-ce ? ", (absolute,)),
        Prompt("3", "Which is larger?", (str(folder / "images" / "a.png"), absolute)),
    ]


def test_paths_are_absolute_even_from_a_relative_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(folder, 1)
    monkeypatch.chdir(folder)
    assert read_prompts("prompts.jsonl")[0].image_paths == (str(folder / "images" / "a.png"),)


def test_byte_order_mark_blank_lines_and_carriage_returns_are_read_over(folder: Path) -> None:
    row = b'{"image": "images/a.png", "question": "What is this?"}'
    (folder / "windows.jsonl").write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\r\n" + row)
    assert ids(read_prompts(folder / "windows.jsonl")) == ["1", "3"]


GOOD = '{"id": "a", "image": "images/a.png", "question": "What is this?"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "images/a.png"', "The line 2 of {path} is not JSON in UTF-8: Expecting ',' delimiter"),
        ("[" * 100_000, "The line 2 of {path} is not JSON in UTF-8"),
        ('["images/a.png", "What?"]', "The line 2 of {path} is not a JSON object with fields, but of type list."),
        ('{"image": "images/a.png"}', "Field 'question' is missing in line 2 of {path}."),
        ('{"question": "What?"}', "Field 'image' is missing in line 2 of {path}."),
        (
            '{"image": "images/a.png", "question": 3}',
            "Field 'question' in line 2 of {path} has to be a string, but it is of type int.",
        ),
        ('{"image": "images/a.png", "question": " \\n"}', "Field 'question' is empty in line 2 of {path}."),
        (
            '{"image": "images/a.png", "question": "\\ud800"}',
            "Field 'question' in line 2 of {path} has half of a surrogate pair, which is no text.",
        ),
        (
            '{"image": null, "question": "What?"}',
            "Field 'image' in line 2 of {path} has to be a path or a list of paths, but it is of type NoneType.",
        ),
        ('{"image": [], "question": "What?"}', "Field 'image' is empty in line 2 of {path}."),
        ('{"image": ["images/a.png", ""], "question": "What?"}', "Field 'image' is empty in line 2 of {path}."),
        (
            '{"image": "images/c.png", "question": "What?"}',
            "Field 'image' in line 2 of {path} names {folder}/images/c.png, which is not an existing file.",
        ),
        (
            '{"image": "images", "question": "What?"}',
            "Field 'image' in line 2 of {path} names {folder}/images, which is not an existing file.",
        ),
        (
            '{"id": true, "image": "images/a.png", "question": "What?"}',
            "Field 'id' in line 2 of {path} has to be a string or an integer, but it is of type bool.",
        ),
        (
            '{"id": "a", "image": "images/b.png", "question": "What?"}',
            "Field 'id' in line 2 of {path} repeats 'a' from line 1.",
        ),
        (
            '{"id": "a\\u001b[2J", "image": "images/b.png", "question": "What?"}',
            "Field 'id' in line 2 of {path} has characters that cannot be printed: 'a\\x1b[2J'.",
        ),
        (
            json.dumps({"id": "a" * 201, "image": "images/a.png", "question": "What?"}),
            "Field 'id' in line 2 of {path} has 201 characters, more than the 200 allowed.",
        ),
        (
            json.dumps({"image": "images/a.png", "question": "a" * 2**20}),
            "Field 'question' in line 2 of {path} has 1048576 characters, more than the 20000 allowed.",
        ),
        (
            '{"image": "images/a\\u0000.png", "question": "What?"}',
            "Field 'image' in line 2 of {path} names {folder}/images/a\0.png, which is not an existing file.",
        ),
        (
            json.dumps({"image": "a" * 5000, "question": "What?"}),
            "which is not an existing file.",
        ),
    ],
    ids=range(20),
)
def test_a_wrong_line_is_named_with_file_line_and_field(folder: Path, line: str, message: str) -> None:
    path = folder / "prompts.jsonl"
    path.write_text(f"{GOOD}\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message.format(path=path, folder=folder))):
        FilesSource(path=str(path), num_iterations=1, seed=0)


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of somebody else's."""
    path = tmp_path_factory.mktemp("outside") / "private.png"
    Image.new("RGB", (8, 6), "black").save(path)
    return path


def refusal_of_image(folder: Path, image: str, **options: str) -> str:
    path = write_list(folder, [{"image": image, "question": "What is this?"}])
    with pytest.raises(ValueError, match=r"^Field 'image' in line 1 of .*\.$") as error:
        FilesSource(path=path, num_iterations=1, seed=0, **options)  # type: ignore[arg-type]
    return str(error.value)


def test_images_outside_the_folder_are_refused_and_not_opened(
    folder: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file_link.png").symlink_to(outside)
    (folder / "folder_link").symlink_to(outside.parent)
    (folder / "images" / "back").symlink_to("..")
    up = "../" * 30
    ways = (
        str(outside),
        f"{up}{str(outside)[1:]}",
        f"images/{up}{str(outside)[1:]}",
        "file_link.png",
        "folder_link/private.png",
        "images/back/folder_link/private.png",
        "folder_link/no_such_file.png",  # nor does the message tell what is there
        "/dev/zero",
        "/proc/self/environ",
    )
    for way in ways:
        with monkeypatch.context() as patch:
            patch.setattr("rlaifv.data.sources.check_header", lambda *arguments: pytest.fail("opened"))
            assert f"which lies outside {folder}; data.image_root=DIR allows" in refusal_of_image(folder, way)


def test_without_the_rule_they_would_be_opened(folder: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_relative_to", lambda self, other: True)
    path = write_list(folder, [{"image": str(outside), "question": "What is this?"}])
    assert FilesSource(path=path, num_iterations=1, seed=0).prompts(0, None)[0].image_paths == (str(outside),)


def test_links_that_stay_inside_are_followed(folder: Path) -> None:
    (folder / "link.png").symlink_to("images/a.png")
    (folder / "images" / "back").symlink_to("..")
    rows = [
        {"image": image, "question": "?"}
        for image in ("link.png", "images/back/images/a.png", "images/../images/a.png")
    ]
    assert {prompt.image_paths for prompt in read_prompts(write_list(folder, rows))} == {(f"{folder}/images/a.png",)}


@pytest.mark.parametrize("name", ["loop.png", "loops/loop.png", "images", "pipe", "absent.png"])
def test_loops_directories_and_pipes_are_no_images(folder: Path, name: str) -> None:
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "loops").symlink_to("loops")
    os.mkfifo(folder / "pipe")
    assert "which is not an existing file" in refusal_of_image(folder, name)


def test_an_image_root_takes_the_folders_place(folder: Path, outside: Path, tmp_path: Path) -> None:
    rows = [{"image": "private.png", "question": "What is this?"}]
    root = str(outside.parent)
    assert read_prompts(write_list(folder, rows), root)[0].image_paths == (str(outside),)
    assert f"which lies outside {root}" in refusal_of_image(folder, str(folder / "images" / "a.png"), image_root=root)
    (folder / "photos").symlink_to(outside.parent)  # the root itself may be a link
    for relative in ("photos", "images/../photos"):
        assert read_prompts(write_list(folder, rows), relative)[0].image_paths == (str(outside),)
    with pytest.raises(ValueError, match=r"data\.image_root=absent is not a directory\."):
        read_prompts(write_list(folder, rows), "absent")


def test_lists_that_give_nothing_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.jsonl cannot be read: No such file"):
        read_prompts(folder / "absent.jsonl")
    with pytest.raises(ValueError, match=r"prompts\.jsonl has no prompts"):
        read_prompts(write_list(folder, []))
    (folder / "latin.jsonl").write_bytes(b'{"question": "O\xf9?"}\n')
    with pytest.raises(ValueError, match=r"The line 1 of .*latin\.jsonl is not JSON in UTF-8"):
        read_prompts(folder / "latin.jsonl")


def test_iterations_get_disjoint_shares_of_all_prompts(folder: Path) -> None:
    source: PromptSource = FilesSource(path=numbered(folder, 11), num_iterations=3, seed=7, num_held_out=1)
    shares = [ids(source.prompts(iteration, None)) for iteration in range(3)]
    assert sorted(map(len, shares)) == [3, 3, 4]
    everything = [*shares[0], *shares[1], *shares[2], *ids(source.held_out())]
    assert sorted(everything, key=int) == [str(k) for k in range(11)]
    assert everything != sorted(everything, key=int)


def test_a_given_number_is_taken_fresh_each_iteration(folder: Path) -> None:
    source = FilesSource(path=numbered(folder, 10), num_iterations=2, seed=7)
    first, second = ids(source.prompts(0, 4)), ids(source.prompts(1, 4))
    assert len(first) == len(second) == 4
    assert not set(first) & set(second)


def test_seed_alone_decides_whatever_was_asked_before(folder: Path) -> None:
    path = numbered(folder, 10)
    used = FilesSource(path=path, num_iterations=2, seed=7, num_held_out=2)
    used.prompts(0, 3)
    resumed = FilesSource(path=path, num_iterations=2, seed=7, num_held_out=2)
    other = FilesSource(path=path, num_iterations=2, seed=8, num_held_out=2)
    assert used.prompts(1, 3) == resumed.prompts(1, 3) != other.prompts(1, 3)
    assert used.held_out() == resumed.held_out()


def test_more_held_out_prompts_contain_the_fewer(folder: Path) -> None:
    path = numbered(folder, 10)
    few, many = (FilesSource(path=path, num_iterations=1, seed=3, num_held_out=n).held_out() for n in (2, 5))
    assert len(few) == 2
    assert len(many) == 5
    assert set(few) < set(many)
    assert ids(many) == sorted(ids(many), key=int)


def test_a_held_out_question_is_not_trained_on_under_another_id(folder: Path) -> None:
    rows = [{"image": f"images/{'ab'[k % 2]}.png", "question": "What is this?"} for k in range(4)]
    source = FilesSource(path=write_list(folder, rows), num_iterations=1, seed=0, num_held_out=1)
    held_out = source.held_out()[0]
    training = source.prompts(0, None)
    assert len(training) == 2
    assert held_out.image_paths not in {prompt.image_paths for prompt in training}


def test_asking_for_too_many_names_both_numbers_at_the_first_iteration(folder: Path) -> None:
    source = FilesSource(path=numbered(folder, 10), num_iterations=3, seed=0, num_held_out=2)
    with pytest.raises(ValueError, match=r"3 iterations of 3 prompts need 9, but .*prompts\.jsonl has 8 to train on"):
        source.prompts(0, 3)
    crowded = FilesSource(path=numbered(folder, 2), num_iterations=3, seed=0)
    with pytest.raises(ValueError, match=r"3 iterations of 1 prompts need 3, but .* has 2"):
        crowded.prompts(0, None)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(num_prompts=st.integers(1, 12), num_iterations=st.integers(1, 4), seed=st.integers(0, 5))
def test_reuse_is_even_and_keeps_ids_distinct(folder: Path, num_prompts: int, num_iterations: int, seed: int) -> None:
    source = FilesSource(path=numbered(folder, 5), num_iterations=num_iterations, seed=seed, reuse_prompts=True)
    uses: Counter[str] = Counter()
    for iteration in range(num_iterations):
        prompts = source.prompts(iteration, num_prompts)
        assert len(set(ids(prompts))) == num_prompts
        uses.update(prompt.question for prompt in prompts)
    total = num_prompts * num_iterations
    assert sum(uses.values()) == total
    assert set(uses.values()) <= {total // 5, -(-total // 5)}


def test_reuse_shuffles_anew_and_ids_cannot_collide(folder: Path) -> None:
    source = FilesSource(path=numbered(folder, 8), num_iterations=2, seed=1, reuse_prompts=True)
    assert ids(source.prompts(0, 8)) != ids(source.prompts(1, 8))
    rows = [{"id": name, "image": "images/a.png", "question": f"{name}?"} for name in ("a", "a~1")]
    twice = FilesSource(path=write_list(folder, rows), num_iterations=1, seed=1, reuse_prompts=True).prompts(0, 4)
    assert len(set(ids(twice))) == 4
    assert Counter(prompt.question for prompt in twice) == {"a?": 2, "a~1?": 2}
    crowded = FilesSource(path=numbered(folder, 2), num_iterations=3, seed=0, reuse_prompts=True)
    assert [len(crowded.prompts(iteration, None)) for iteration in range(3)] == [1, 1, 1]


def test_impossible_numbers_are_refused(folder: Path) -> None:
    path = numbered(folder, 3)
    with pytest.raises(ValueError, match="has 3 prompts, so holding out 3 of them leaves none"):
        FilesSource(path=path, num_iterations=1, seed=0, num_held_out=3)
    with pytest.raises(ValueError, match="they are 0 and 0"):
        FilesSource(path=path, num_iterations=0, seed=0)
    source = FilesSource(path=path, num_iterations=2, seed=0)
    with pytest.raises(ValueError, match="Iteration 2 is not one of the 2"):
        source.prompts(2, None)
    with pytest.raises(ValueError, match="num_prompts has to be at least 1, but it is 0"):
        source.prompts(0, 0)


def test_damaged_images_cost_their_prompts_only(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = (folder / "images" / "a.png").read_bytes()
    (folder / "images" / "half.png").write_bytes(whole[: len(whole) // 2 + 10])
    (folder / "images" / "page.jpg").write_text("<html>", encoding="utf-8")
    images: list[object] = ["images/a.png", "images/half.png", ["images/b.png", "images/page.jpg"], "images/b.png"]
    rows = [{"image": image, "question": "What is this?"} for image in images]
    with caplog.at_level(logging.WARNING):
        source = FilesSource(path=write_list(folder, rows), num_iterations=1, seed=0)
    assert [record.getMessage() for record in caplog.records] == [
        f"1 of the 4 images of {folder}/prompts.jsonl are unusable and will cost their prompts; about the first: "
        f"The image {folder}/images/page.jpg is none of JPEG, PNG, WEBP, BMP, GIF, TIFF, or its header is damaged."
    ]
    caplog.clear()
    prompts = sorted(source.prompts(0, None), key=lambda prompt: prompt.id)
    with caplog.at_level(logging.WARNING):
        good, dropped, sizes = source.check_images(prompts)
    assert ids(good) == ["1", "4"]
    assert dropped == {"incomplete": 1, "unknown_format": 1}
    assert sizes.keys() == {str(folder / "images" / name) for name in ("a.png", "b.png")}
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [
        "Prompt 2 is dropped",
        "Prompt 3 is dropped",
    ]


def test_an_image_of_several_prompts_is_decoded_once_and_measured_upright(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (30, 20)).save(folder / "images" / "turned.jpg", exif=exif)
    rows = [{"image": ["images/turned.jpg", "images/a.png"], "question": f"What is {k}?"} for k in range(3)]
    source = FilesSource(path=write_list(folder, rows), num_iterations=1, seed=0)
    read: list[str] = []
    monkeypatch.setattr("rlaifv.data.sources.load_image", lambda path, *_: read.append(path) or load_image(path))
    checked = source.check_images(source.prompts(0, None))
    assert len(checked.good) == 3
    turned = str(folder / "images" / "turned.jpg")
    assert sorted(read) == sorted([turned, str(folder / "images" / "a.png")])
    assert checked.sizes[turned] == (20, 30)


def test_limits_of_the_source_hold_when_images_are_checked(folder: Path) -> None:
    Image.new("RGB", (100, 100)).save(folder / "images" / "large.png")
    rows = [{"image": f"images/{name}.png", "question": "What is this?"} for name in ("a", "large")]
    source = FilesSource(path=write_list(folder, rows), num_iterations=1, seed=0, max_pixels=1000)
    assert source.check_images(source.prompts(0, None)).dropped == {"too_many_pixels": 1}
    assert check_images(source.prompts(0, None)).dropped == {}


def test_a_list_without_one_usable_image_is_refused(folder: Path) -> None:
    (folder / "images" / "page.jpg").write_text("version https://git-lfs.github.com/spec/v1", encoding="utf-8")
    path = write_list(folder, [{"image": "images/page.jpg", "question": "What is this?"}])
    with pytest.raises(ValueError, match=r"None of the 1 images of .* is usable; about the first: The image .*page"):
        FilesSource(path=path, num_iterations=1, seed=0)
