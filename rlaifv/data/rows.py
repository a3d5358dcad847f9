"""A common schema for preference data, and the mapping of five published formats to it.

    rlaifv         columns question, chosen, rejected, image (bytes inside); idx, origin_* if there
    rlhfv          columns text (JSON: question, chosen, rejected) and image; or seven tab-separated fields, base64 inside
    trl            columns prompt, chosen, rejected, or the latter two alone, each a text or a conversation; images
    llamafactory   columns conversations or instruction, chosen, rejected, system, images (<image> where one stands)
    swift          columns messages or query, rejected_response or rejected_messages, images

Images precede the first question, in order. A row whose format places text between images would change its meaning and
cannot be used.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaifv.data.formats.llamafactory import parse_llamafactory
from rlaifv.data.formats.openbmb import parse_rlaifv, parse_rlhfv
from rlaifv.data.formats.pictures import is_empty, read_images
from rlaifv.data.formats.swift import parse_swift
from rlaifv.data.formats.trl import parse_trl
from rlaifv.data.formats.turns import Preference, RowError, Turn

_ORIGIN_COLUMNS = ("ds_name", "origin_dataset", "origin_split", "image_path", "provenance")


@dataclass(frozen=True, slots=True)
class Row:
    """A question, usually about images, and optionally a preference between two answers.

    `images` are files (absolute paths) or their bytes, empty for text-only rows; `chosen` and `rejected` are both
    present or both None; `origin` is any further data of the row as JSON, empty if there are none; `system` and
    `history` precede the question, see `records.Prompt`. `id` need not be unique.
    """

    id: str
    question: str
    images: tuple[str | bytes, ...]
    chosen: str | None
    rejected: str | None
    origin: str = ""
    system: str = ""
    history: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """How to parse rows of one format.

    Attributes:
        required: columns that identify the format; of a tuple, any one suffices.
        parse: maps (fields, where) to a parsed row.
        needs_image: whether every row must have an image.
    """

    required: tuple[str | tuple[str, ...], ...]
    parse: Callable[[Mapping[str, Any], str], Preference]
    needs_image: bool = False

    def missing(self, columns: Sequence[str]) -> list[str]:
        """Return the required columns that are not among `columns`."""
        wanted = [name if isinstance(name, tuple) else (name,) for name in self.required]
        return [" or ".join(names) for names in wanted if not {*names} & {*columns}]


FORMATS = {
    "rlaifv": Format(("question", "image"), parse_rlaifv, needs_image=True),
    "rlhfv": Format(("text", "image"), parse_rlhfv, needs_image=True),
    "trl": Format((("prompt", "chosen"),), parse_trl),
    "llamafactory": Format((("conversations", "messages", "instruction"),), parse_llamafactory),
    "swift": Format((("messages", "query"),), parse_swift),
}


def parse_row(form: str, fields: Mapping[str, Any], number: int, where: str, image_root: Path | None) -> Row:
    """Parse one row.

    Args:
        form: a key of `FORMATS`.
        fields: the row's columns.
        number: row number, used as the id if the data have none.
        where: name of the row in messages, as in "row 3 of pairs.parquet".
        image_root: directory that image paths are relative to and must stay inside; None if files are not allowed.

    Raises:
        RowError: the row cannot be used; see there.
    """
    said = FORMATS[form].parse(fields, where)
    images = _images(said.question, fields, FORMATS[form].needs_image, where, image_root)
    key = next((fields[name] for name in ("id", "idx") if fields.get(name) not in (None, "")), number)
    answers = said.chosen, said.rejected
    return Row(str(key), said.question.text, images, *answers, _origin(fields), said.system, said.history)


def _images(
    question: Turn, fields: Mapping[str, Any], is_needed: bool, where: str, image_root: Path | None
) -> tuple[str | bytes, ...]:
    column = next((name for name in ("images", "image") if fields.get(name) is not None), None)
    column = column or ("image" if "image" in fields and "images" not in fields else "images")
    if is_empty(fields.get(column)):
        if question.images:
            return read_images(list(question.images), "content", where, image_root)
        if not question.num_images and not is_needed:
            return ()
    images = read_images(fields.get(column), column, where, image_root)
    if question.num_images not in (0, len(images)):
        raise RowError(
            f"The question marks {question.num_images} images in {where}, but column {column!r} holds {len(images)}.",
            "image_count",
        )
    return images


def _origin(fields: Mapping[str, Any]) -> str:
    found = {name: fields[name] for name in _ORIGIN_COLUMNS if fields.get(name) not in (None, "")}
    return json.dumps(found, ensure_ascii=False, sort_keys=True, default=str) if found else ""
