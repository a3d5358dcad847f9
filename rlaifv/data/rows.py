"""One schema for the preference data of others: what a row is, and how the rows of four published formats become one.

    rlaifv         columns question, chosen, rejected, image (bytes inside); idx, origin_* if there
    rlhfv          columns text (JSON: question, chosen, rejected) and image; or seven tab-separated fields, base64 inside
    trl            columns prompt, chosen, rejected, each a text or a conversation, and images (or image)
    llamafactory   columns conversations, chosen, rejected (ShareGPT turns, <image> where an image stands) and images

Images come before the question, in their order. A format that lets words stand between images says something else then,
and such a row is refused.
"""

import base64
import binascii
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaifv.data.image_root import path_inside

MARKER = "<image>"
TSV_COLUMNS = ("ds_name", "image", "text", "origin_dataset", "origin_split", "idx", "image_path")
_ORIGIN_COLUMNS = ("ds_name", "origin_dataset", "origin_split", "image_path", "provenance")


@dataclass(frozen=True, slots=True)
class Row:
    """A question about images, and maybe a preference between two answers.

    `images` are files (absolute paths) or their bytes; `chosen` and `rejected` are both there or both None; `origin` is what
    else the data say of the row, as JSON, empty where they say nothing. `id` need not be unique.
    """

    id: str
    question: str
    images: tuple[str | bytes, ...]
    chosen: str | None
    rejected: str | None
    origin: str = ""


class RowError(ValueError):
    """A row that cannot be used; the message is one sentence that names data, row and column.

    `reason` is the name under which it is counted: wrong_type, empty, not_text, not_json, not_base64, conversation,
    image_position, image_count, missing_image, outside_root or half_a_pair.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Turn:
    """The words of one speaker, and how many images are marked in them (0 also where the format marks none)."""

    text: str
    num_images: int


@dataclass(frozen=True, slots=True)
class Format:
    """How rows of one format are read.

    Attributes:
        required: columns without which it is another format; of a tuple, one of them.
        parse: (fields, where) to (question, chosen, rejected), the last two None where they are absent.
    """

    required: tuple[str | tuple[str, ...], ...]
    parse: Callable[[Mapping[str, Any], str], tuple[Turn, str | None, str | None]]

    def missing(self, columns: Sequence[str]) -> list[str]:
        """Required columns that are not among `columns`."""
        wanted = [name if isinstance(name, tuple) else (name,) for name in self.required]
        return [" or ".join(names) for names in wanted if not {*names} & {*columns}]


def parse_row(form: str, fields: Mapping[str, Any], number: int, where: str, image_root: Path | None) -> Row:
    """Read one row.

    Args:
        form: a key of `FORMATS`.
        fields: the row's columns.
        number: of the row, which is its id where the data have none.
        where: what messages call it, as in "row 3 of pairs.parquet".
        image_root: directory that image paths are relative to and may not lead out of; None where there can be no files.

    Raises:
        RowError: see there.
    """
    question, chosen, rejected = FORMATS[form].parse(fields, where)
    if (chosen is None) != (rejected is None):
        there, absent = ("rejected", "chosen") if chosen is None else ("chosen", "rejected")
        raise RowError(f"Column {absent!r} is missing in {where}, though {there!r} is there.", "half_a_pair")
    column = "images" if "images" in fields else "image"
    images = _images(fields.get(column), column, where, image_root)
    if question.num_images not in (0, len(images)):
        raise RowError(
            f"The question marks {question.num_images} images in {where}, but column {column!r} holds {len(images)}.",
            "image_count",
        )
    key = next((fields[name] for name in ("id", "idx") if fields.get(name) not in (None, "")), number)
    return Row(str(key), question.text, images, chosen, rejected, _origin(fields))


def from_tsv(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Undo base64 in a row of the older, tab-separated form."""
    decoded = dict(fields)
    for name in ("image", "text", "origin_split"):
        try:
            content = base64.b64decode(_text(fields[name], name, where), validate=True)
            decoded[name] = content if name == "image" else content.decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise RowError(
                f"Column {name!r} is not base64 of what it should hold in {where}: {error}.", "not_base64"
            ) from error
    return decoded


def _parse_rlaifv(fields: Mapping[str, Any], where: str) -> tuple[Turn, str | None, str | None]:
    return Turn(_text(fields["question"], "question", where), 0), *_answers(fields, where, _text)


def _parse_rlhfv(fields: Mapping[str, Any], where: str) -> tuple[Turn, str | None, str | None]:
    try:
        found = json.loads(_text(fields["text"], "text", where))
    except (ValueError, RecursionError) as error:
        if isinstance(error, RowError):
            raise
        raise RowError(f"Column 'text' is not JSON in {where}: {error}.", "not_json") from error
    if isinstance(found, list):  # the older form; reference log-probs may stand behind the three
        found = dict(zip(("question", "chosen", "rejected"), found, strict=False))
    if not isinstance(found, dict) or "question" not in found:
        raise RowError(f"Column 'text' holds no question in {where}.", "not_json")
    question = _marked(_text(found["question"], "question of text", where), "question of text", where)
    return question, *_answers(found, where, _text)


def _parse_trl(fields: Mapping[str, Any], where: str) -> tuple[Turn, str | None, str | None]:
    prompt = fields["prompt"]
    if isinstance(prompt, list):
        question = _only_turn(prompt, "prompt", where, "user", "role", "content")
    else:
        question = _marked(_text(prompt, "prompt", where), "prompt", where)
    return question, *_answers(fields, where, _trl_answer)


def _trl_answer(value: Any, column: str, where: str) -> str:
    if isinstance(value, list):
        return _only_turn(value, column, where, "assistant", "role", "content").text
    return _text(value, column, where)


def _parse_llamafactory(fields: Mapping[str, Any], where: str) -> tuple[Turn, str | None, str | None]:
    if fields.get("system"):
        raise RowError(
            f"Column 'system' is not empty in {where}, but prompts have no system turn here.", "conversation"
        )
    question = _only_turn(fields["conversations"], "conversations", where, "human", "from", "value", is_marked=True)
    return question, *_answers(fields, where, _llamafactory_answer)


def _llamafactory_answer(value: Any, column: str, where: str) -> str:
    turn = _only_turn([value], column, where, "gpt", "from", "value", is_marked=True)
    if turn.num_images:
        raise RowError(f"Column {column!r} marks an image in {where}, but answers have none here.", "image_position")
    return turn.text


FORMATS = {
    "rlaifv": Format(("question", "image"), _parse_rlaifv),
    "rlhfv": Format(("text", "image"), _parse_rlhfv),
    "trl": Format(("prompt", ("images", "image")), _parse_trl),
    "llamafactory": Format(("conversations", ("images", "image")), _parse_llamafactory),
}


def _answers(
    fields: Mapping[str, Any], where: str, read: Callable[[Any, str, str], str]
) -> tuple[str | None, str | None]:
    chosen, rejected = (
        None if fields.get(name) is None else read(fields[name], name, where) for name in ("chosen", "rejected")
    )
    return chosen, rejected


def _only_turn(
    turns: Any, column: str, where: str, speaker: str, role: str, content: str, is_marked: bool = False
) -> Turn:
    """The one message of a conversation that has to be the speaker's: of its words, or of blocks of words and images."""
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise RowError(f"Column {column!r} has to hold a conversation in {where}.", "wrong_type")
    speakers = [turn.get(role) for turn in turns]
    if speakers != [speaker]:
        raise RowError(
            f"Column {column!r} has to hold one turn, of {speaker}, in {where}, but it holds {len(turns)}, of "
            f"{', '.join(map(str, speakers)) or 'nobody'}.",
            "conversation",
        )
    value = turns[0].get(content)
    if not isinstance(value, list):
        text = _text(value, column, where)
        return _marked(text, column, where) if is_marked else Turn(text, 0)
    pieces = [_block(block, column, where) for block in value]
    return _joined(pieces, column, where)


def _block(block: Any, column: str, where: str) -> str | None:
    """The text of a block, None for an image."""
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind not in ("text", "image"):
        raise RowError(f"Column {column!r} holds a block that is neither text nor image in {where}.", "wrong_type")
    return None if kind == "image" else _text(block.get("text"), column, where)


def _marked(text: str, column: str, where: str) -> Turn:
    """A text in which markers stand for images."""
    first, *others = text.split(MARKER)
    pieces: list[str | None] = [first]
    for piece in others:
        pieces += [None, piece]
    return _joined([piece for piece in pieces if piece is None or piece.strip()], column, where)


def _joined(pieces: Sequence[str | None], column: str, where: str) -> Turn:
    words = [k for k, piece in enumerate(pieces) if piece is not None]
    if not words:
        raise RowError(f"Column {column!r} is empty in {where}.", "empty")
    if words[-1] - words[0] >= len(words):
        raise RowError(
            f"Column {column!r} has an image between words in {where}; images have to come before the question.",
            "image_position",
        )
    num_images = len(pieces) - len(words)
    text = "\n".join(piece for piece in pieces if piece is not None)
    return Turn(text.strip() if num_images else text, num_images)


def _images(value: Any, column: str, where: str, image_root: Path | None) -> tuple[str | bytes, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or values == [None]:
        raise RowError(f"Column {column!r} holds no image in {where}.", "missing_image")
    return tuple(_image(item, column, where, image_root) for item in values)


def _image(value: Any, column: str, where: str, image_root: Path | None) -> str | bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str):
        kind = "nothing" if not value else f"type {type(value).__name__}"
        raise RowError(f"Column {column!r} has to hold images in {where}, but one is of {kind}.", "missing_image")
    if image_root is None:
        raise RowError(f"Column {column!r} names the file {value!r} in {where}, but holds no bytes.", "missing_image")
    named, found = image_root / value, path_inside(image_root, value)
    if found is None:
        raise RowError(
            f"Column {column!r} names {named} in {where}, which lies outside {image_root}; data.image_root=DIR allows "
            "another place.",
            "outside_root",
        )
    if not os.path.isfile(found):
        raise RowError(f"Column {column!r} names {named} in {where}, which is not an existing file.", "missing_image")
    return str(found)


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise RowError(
            f"Column {column!r} has to be a text in {where}, but it is of type {type(value).__name__}.", "wrong_type"
        )
    if not value.strip():
        raise RowError(f"Column {column!r} is empty in {where}.", "empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            f"Column {column!r} has half of a surrogate pair in {where}, which is no text.", "not_text"
        ) from error
    return value


def _origin(fields: Mapping[str, Any]) -> str:
    found = {name: fields[name] for name in _ORIGIN_COLUMNS if fields.get(name) not in (None, "")}
    return json.dumps(found, ensure_ascii=False, sort_keys=True, default=str) if found else ""
