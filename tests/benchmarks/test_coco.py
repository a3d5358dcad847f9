"""What is in images, by annotation files in COCO's form."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.coco import image_id_of, read_objects, read_truth
from rlaifv.benchmarks.files import digest
from rlaifv.metrics.coco_objects import coco_objects

CATEGORIES = [
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 9, "name": "boat", "supercategory": "vehicle"},
]


def instances(*rows: tuple[int, int], images: tuple[int, ...] = ()) -> dict[str, Any]:
    """Annotations (image, category), in COCO's form."""
    return {
        "images": [{"id": image} for image in images],
        "categories": CATEGORIES,
        "annotations": [
            {"id": k, "image_id": image, "category_id": category, "segmentation": [[1.0, 2.0]], "bbox": [0, 0, 1, 1]}
            for k, (image, category) in enumerate(rows)
        ],
    }


def captions(*rows: tuple[int, str]) -> dict[str, Any]:
    return {
        "images": [{"id": image} for image, _ in rows],
        "annotations": [{"id": k, "image_id": image, "caption": caption} for k, (image, caption) in enumerate(rows)],
    }


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_truth_is_what_is_segmented_and_what_people_say_in_both_splits(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        instances_train2014=instances((11, 18), (11, 18), (3, 9)),
        instances_val2014=instances((12, 9), images=(13,)),
        captions_train2014=captions((11, "Two men and a baby elephant."), (3, "A cat.")),
        captions_val2014=captions((12, "A sunny day.")),
    )
    truth = read_truth(folder, {11, 12, 13}, coco_objects())
    assert truth.classes == {11: {"dog", "person", "elephant"}, 12: {"boat"}, 13: set()}
    assert truth.warnings == ()
    assert truth.files == (
        "instances_train2014.json",
        "instances_val2014.json",
        "captions_train2014.json",
        "captions_val2014.json",
    )


def test_what_there_is_of_the_files_is_used_and_said(tmp_path: Path) -> None:
    folder = write(tmp_path, instances_val2014=instances((12, 9)))
    for path in (folder, folder / "instances_val2014.json"):
        truth = read_truth(path, {12}, coco_objects())
        assert truth.classes == {12: {"boat"}}
        assert truth.files == ("instances_val2014.json",)
        assert truth.warnings == (f"annotations={path} has no human captions, so the truth is not the official one.",)
    write(tmp_path, captions_val2014=captions((12, "A boat.")))
    truth = read_truth(folder / "captions_val2014.json", {12}, coco_objects())
    assert (truth.classes, len(truth.warnings)) == ({12: {"boat"}}, 1)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has none of COCO's files instances_train2014.json, instances_val2014.json"):
        read_truth(tmp_path, {1}, coco_objects())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is no annotation file of COCO: it has no list 'annotations'"),
        ({"annotations": 1}, "is no annotation file of COCO"),
        (instances((12, 9)), "says nothing about 1 images, among them image 11; it has instances_val2014.json"),
        (instances((11, 7)), "has category 7, which the file does not name"),
        ({"annotations": [{"image_id": "11", "caption": "A dog."}]}, "Field 'image_id' in row 1 of"),
        ({"annotations": [{"image_id": 11}]}, "has no field 'caption'"),
        (
            {"categories": [{"id": 1, "name": "unicorn"}], "annotations": [{"image_id": 11, "category_id": 1}]},
            "Category 'unicorn' of row 1 of",
        ),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    folder = write(tmp_path, instances_val2014=content)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_truth(folder, {11}, coco_objects())


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "instances_val2014.json").write_text('{"annotations": [', encoding="utf-8")
    with pytest.raises(ValueError, match=r"instances_val2014.json is not valid JSON"):
        read_truth(tmp_path, {11}, coco_objects())


@pytest.mark.parametrize(
    ("row", "image_id"),
    [({"image_id": 42}, 42), ({"image_id": "042"}, 42), ({"image": "val2014/COCO_val2014_000000000042.jpg"}, 42)],
)
def test_image_ids_are_numbers_or_in_the_name_of_the_file(row: dict[str, Any], image_id: int) -> None:
    assert image_id_of(row, 1, Path("x.jsonl")) == image_id


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "Row 3 of x.jsonl has no field 'image_id' or 'image'"),
        ({"image": "dog.jpg"}, "Row 3 of x.jsonl has no image_id, and its image dog.jpg has no number in its name"),
        ({"image_id": "dog"}, "Field 'image_id' in row 3 of x.jsonl has to be a number, but it is 'dog'"),
        ({"image_id": 1.5}, "Field 'image_id' in row 3 of x.jsonl has to be int or str, but it is 1.5"),
    ],
)
def test_rows_without_an_image_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        image_id_of(row, 3, Path("x.jsonl"))


def test_synonyms_are_our_own_or_given(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_text("dog, puppy,  hot dog\nremote, remote control\n", encoding="utf-8")
    objects, whose, warnings = read_objects(path, "chair")
    assert objects.class_of == {w: w.split()[0] for w in ("dog", "remote", "remote control")} | {
        "puppy": "dog",
        " hot dog": "dog",
    }
    assert (whose, warnings) == (f"given, sha256 {digest(path)}", (f"{path} has 2 classes, not 80.",))
    stripped, _, _ = read_objects(path, "object_halbench")
    assert "hot dog" in stripped.class_of
    assert ("remote control" in stripped.pairs, "remote control" in objects.pairs) == (True, False)
    assert read_objects(None, "chair")[1] == "own"
    with pytest.raises(ValueError, match=r"synonyms=.*none.txt does not exist"):
        read_objects(tmp_path / "none.txt", "chair")
