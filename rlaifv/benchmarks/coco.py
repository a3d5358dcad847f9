"""Objects in COCO's images, from its annotation files: segmented ones, and ones in human captions."""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlaifv.benchmarks.files import digest, field_of, read_text, required
from rlaifv.metrics.coco_objects import CocoObjects, coco_objects, objects_from, read_synonyms

FILES = tuple(f"{kind}_{split}2014.json" for kind in ("instances", "captions") for split in ("train", "val"))
NUM_CLASSES = 80


@dataclass(frozen=True, slots=True)
class Truth:
    """The classes in each image, by image id.

    Attributes:
        classes: of the images that were asked for.
        files: names of the annotation files that were read.
        warnings: full sentences on what the truth lacks.
    """

    classes: dict[int, set[str]]
    files: tuple[str, ...]
    warnings: tuple[str, ...]


def read_truth(path: Path, image_ids: Collection[int], objects: CocoObjects) -> Truth:
    """Return the classes in some images: those segmented, and those that `objects` finds in their human captions.

    Args:
        path: directory with any of `FILES`, or one such file.
        image_ids: the images.
        objects: the words that count in captions.

    Raises:
        ValueError: no such file is there, one is not of its form, or an image is in none of them.
    """
    paths = [path] if path.is_file() else [path / name for name in FILES if (path / name).is_file()]
    if not paths:
        raise ValueError(f"annotations={path} has none of COCO's files {', '.join(FILES)}.")
    classes: dict[int, set[str]] = {image_id: set() for image_id in image_ids}
    known: set[int] = set()
    kinds = set()
    for one in paths:
        content = _read(one)
        images = _listed(content, "images", one)
        known.update(field_of(row, "id", int, number, one) for number, row in enumerate(images, start=1))
        kinds.add(_add(content, one, classes, known, objects))
    if unknown := sorted(set(classes) - known):
        raise ValueError(
            f"annotations={path} says nothing about {len(unknown)} images, among them image {unknown[0]}; "
            f"it has {', '.join(one.name for one in paths)}."
        )
    missing = {"instances": "segmented objects", "captions": "human captions"}
    warnings = [
        f"annotations={path} has no {what}, so the truth is not the official one."
        for kind, what in missing.items()
        if kind not in kinds
    ]
    return Truth(classes, tuple(one.name for one in paths), tuple(warnings))


def read_objects(
    path: Path | None, official: Literal["chair", "object_halbench"]
) -> tuple[CocoObjects, str, tuple[str, ...]]:
    """Return the words that count for a benchmark, whose list they are ("own" or "given"), and warnings.

    Args:
        path: a list of synonyms; None for this project's own.
        official: "chair" keeps the script's reading of rows (a second space after a comma stays) and its pairs of words;
            "object_halbench" strips words and takes pairs from the list.

    Raises:
        ValueError: the file does not exist, or a row is not of its form.
    """
    pairs: Literal["fixed", "listed"] = "fixed" if official == "chair" else "listed"
    if path is None:
        warning = (
            "The synonyms are this project's own; numbers compare with published ones only with the official list, "
            "as synonyms=FILE."
        )
        return coco_objects(pairs), "own", (warning,)
    text = read_text(required(path, "synonyms", official))
    rows = read_synonyms(text, str(path), strip=official != "chair")
    warnings = () if len(rows) == NUM_CLASSES else (f"{path} has {len(rows)} classes, not {NUM_CLASSES}.",)
    return objects_from(rows, pairs), f"given, sha256 {digest(path)}", warnings


def image_id_of(row: dict[str, Any], number: int, path: Path) -> int:
    """Return the image id of a row, a number or its digits; or the number that the name of its image file ends in.

    Raises:
        ValueError: there is neither.
    """
    if "image_id" not in row:
        name = field_of(row, ("image_id", "image"), str, number, path)
        if digits := re.search(r"(\d+)\.\w+$", name):
            return int(digits[1])
        raise ValueError(f"Row {number} of {path} has no image_id, and its image {name:.60} has no number in its name.")
    value = field_of(row, "image_id", (int, str), number, path)
    if isinstance(value, str) and not value.isdecimal():
        raise ValueError(f"Field 'image_id' in row {number} of {path} has to be a number, but it is {value!r:.60}.")
    return int(value)


def image_ids(rows: Sequence[dict[str, Any]], path: Path) -> list[str]:
    """Return the image ids of the rows of a file, as text.

    Raises:
        ValueError: see `image_id_of`.
    """
    return [str(image_id_of(row, number, path)) for number, row in enumerate(rows, start=1)]


def _read(path: Path) -> dict[str, Any]:
    def without_outlines(row: dict[str, Any]) -> dict[str, Any]:
        row.pop("segmentation", None)  # most of the file, and not needed
        return row

    text = read_text(path)
    try:
        content = json.loads(text, object_hook=without_outlines)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise ValueError(f"{path} is no annotation file of COCO: it has no list 'annotations'.")
    return content


def _listed(content: dict[str, Any], name: str, path: Path) -> list[Any]:
    found = content.get(name, [])
    if not isinstance(found, list):
        raise ValueError(f"{path} is no annotation file of COCO: its {name!r} is no list.")
    return found


def _add(
    content: dict[str, Any], path: Path, classes: dict[int, set[str]], known: set[int], objects: CocoObjects
) -> str:
    """Add a file's classes to those of the images, and its images to those known; returns the file's kind."""
    rows = content["annotations"]
    kind = "instances" if "categories" in content else "captions"
    names = {
        field_of(row, "id", int, number, path): field_of(row, "name", str, number, path)
        for number, row in enumerate(_listed(content, "categories", path), start=1)
    }
    for number, row in enumerate(rows, start=1):
        image_id = field_of(row, "image_id", int, number, path)
        known.add(image_id)
        if image_id not in classes:
            continue
        if kind == "captions":
            caption = field_of(row, "caption", str, number, path)
            classes[image_id].update(name for _, name in objects.mentions(caption))
            continue
        category = field_of(row, "category_id", int, number, path)
        if category not in names:
            raise ValueError(f"Row {number} of {path} has category {category}, which the file does not name.")
        if names[category] not in objects.class_of:
            raise ValueError(f"Category {names[category]!r} of row {number} of {path} is in no row of the synonyms.")
        classes[image_id].add(objects.class_of[names[category]])
    return kind
