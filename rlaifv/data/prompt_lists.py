"""Readers of prompt lists: JSON Lines, a JSON array, CSV or TSV with a header, and LLaVA conversations.

Names ending in .csv or .tsv are tables; a file that begins with a bracket is an array; any other has one object per
line. In a table, several images are a JSON list in the `image` cell, and an empty `id` counts as missing.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

Turns = Literal["first", "all"]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
MARKER = re.compile(r"\s*<image>\s*")


def read_entries(path: str | Path, turns: Turns = "first") -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield (number, place, fields) of every entry: its line or array index from 1, and its name in messages.

    Args:
        path: the list.
        turns: which questions of a conversation to use: the first, or all, each as its own entry.

    Raises:
        ValueError: the file cannot be read or is not UTF-8 text, or an entry does not have the list's form.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"The prompt list {path} cannot be read: {error.strerror}.") from error
    if Path(path).suffix.lower() in DELIMITERS:
        entries = _rows(content, path)
    elif content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        entries = _array(content, path)
    else:
        entries = _lines(content, path)
    for number, where, fields in entries:
        if not isinstance(fields, dict):
            raise ValueError(f"The {where} is not a JSON object with fields, but of type {type(fields).__name__}.")
        for each in _asked(fields, number, where, turns) if _is_conversation(fields) else [fields]:
            yield number, where, each


def _lines(content: bytes, path: str | Path) -> Iterator[tuple[int, str, Any]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            where = f"line {number} of {path}"
            yield number, where, _parsed(line, where)


def _array(content: bytes, path: str | Path) -> Iterator[tuple[int, str, Any]]:
    for number, entry in enumerate(_parsed(content, f"prompt list {path}"), start=1):
        yield number, f"entry {number} of {path}", entry


def _rows(content: bytes, path: str | Path) -> Iterator[tuple[int, str, Any]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"The prompt list {path} is not text in UTF-8: {error}.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=DELIMITERS[Path(path).suffix.lower()], strict=True)
    try:
        if missing := [name for name in ("image", "question") if name not in (reader.fieldnames or ())]:
            raise ValueError(f"The header of {path} has no column {missing[0]!r}.")
        for row in reader:
            where = f"line {reader.line_num} of {path}"
            if None in row or None in row.values():
                raise ValueError(f"The {where} has another number of fields than the header.")
            if row["image"].lstrip().startswith("["):
                row["image"] = _parsed(row["image"].encode(), where)
            yield reader.line_num, where, {name: value for name, value in row.items() if name != "id" or value}
    except csv.Error as error:
        raise ValueError(f"The line {reader.line_num} of {path} is not of this form: {error}.") from error


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The {where} is not JSON in UTF-8: {error}.") from error


def _is_conversation(fields: dict[str, Any]) -> bool:
    return "conversations" in fields and "question" not in fields


def _asked(fields: dict[str, Any], number: int, where: str, turns: Turns) -> Iterator[dict[str, Any]]:
    """Yield the user's questions of a conversation, without image markers, and the replies to them."""
    said = fields["conversations"]
    if not isinstance(said, Sequence) or not all(isinstance(turn, dict) for turn in said):
        raise ValueError(f"Field 'conversations' in {where} has to be a list of turns with 'from' and 'value'.")
    asked = [
        (turn.get("value"), _reply(following))
        for turn, following in zip(said, [*said, {}][1:], strict=True)
        if turn.get("from") in ("human", "user")
    ]
    if not asked:
        raise ValueError(f"Field 'conversations' in {where} has no turn from 'human'.")
    for k, (question, reply) in enumerate(asked if turns == "all" else asked[:1]):
        text = MARKER.sub(" ", question).strip() if isinstance(question, str) else question
        own = {"id": f"{fields.get('id', number)}/{k + 1}"} if turns == "all" else {}
        yield {"demonstration": reply, **fields, "question": text, **own}


def _reply(turn: dict[str, Any]) -> str:
    """Return what the assistant said in a turn; empty if it is no reply in text, which only fine-tuning would miss."""
    said = turn.get("value") if turn.get("from") in ("gpt", "assistant") else ""
    return said if isinstance(said, str) and said.strip() else ""
