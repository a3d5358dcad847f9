"""The RLAIF-V and RLHF-V data sets: a question about one image, and two answers."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from rlaifv.data.formats.turns import Message, Preference, RowError, Turn, answer_messages, compare, marked, text_of

TSV_COLUMNS = ("ds_name", "image", "text", "origin_dataset", "origin_split", "idx", "image_path")


def parse_rlaifv(fields: Mapping[str, Any], where: str) -> Preference:
    """Parse columns question, chosen and rejected, whose texts contain no image markers."""
    return _preference(Turn(text_of(fields["question"], "question", where), 0), fields, "question", where)


def parse_rlhfv(fields: Mapping[str, Any], where: str) -> Preference:
    """Parse column text: JSON of an object, or in the older form of a list, of question, chosen and rejected."""
    try:
        found = json.loads(text_of(fields["text"], "text", where))
    except (ValueError, RecursionError) as error:
        if isinstance(error, RowError):
            raise
        raise RowError(f"Column 'text' is not JSON in {where}: {error}.", "not_json") from error
    if isinstance(found, list):  # the older form; reference log-probs may follow the three
        found = dict(zip(("question", "chosen", "rejected"), found, strict=False))
    if not isinstance(found, dict) or "question" not in found:
        raise RowError(f"Column 'text' holds no question in {where}.", "not_json")
    return _preference(marked(found["question"], "question of text", where), found, "text", where)


def from_tsv(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Decode the base64 fields of a row in the older, tab-separated form."""
    decoded = dict(fields)
    for name in ("image", "text", "origin_split"):
        try:
            content = base64.b64decode(text_of(fields[name], name, where), validate=True)
            decoded[name] = content if name == "image" else content.decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise RowError(
                f"Column {name!r} is not base64 of what it should hold in {where}: {error}.", "not_base64"
            ) from error
    return decoded


def _preference(question: Turn, fields: Mapping[str, Any], column: str, where: str) -> Preference:
    chosen, rejected = (
        None if fields.get(name) is None else answer_messages(text_of(fields[name], name, where), name, where)
        for name in ("chosen", "rejected")
    )
    return compare([Message("user", question)], chosen, rejected, column, where)
