"""LLaMA-Factory's preference data in ShareGPT and Alpaca form; `<image>` marks the position of an image."""

from collections.abc import Iterator, Mapping
from typing import Any

from rlaifv.data.formats.turns import (
    Message,
    Preference,
    RowError,
    Turn,
    answer_messages,
    compare,
    marked,
    read_messages,
    text_of,
    with_system,
)


def parse_llamafactory(fields: Mapping[str, Any], where: str) -> Preference:
    """Parse conversations or messages, else instruction and input; chosen and rejected as texts or turns; system."""
    column = next((name for name in ("conversations", "messages") if fields.get(name) is not None), None)
    if column is not None:
        asked = read_messages(fields[column], column, where, is_marked=True)
    else:
        column, asked = "instruction", _alpaca(fields, where)
    chosen, rejected = (
        answer_messages(fields.get(name), name, where, is_marked=True) for name in ("chosen", "rejected")
    )
    return with_system(compare(asked, chosen, rejected, column, where), fields, where)


def earlier_turns(value: Any, where: str) -> Iterator[Message]:
    """Yield the messages of a history given as a list of [user text, assistant text].

    Raises:
        RowError: the value is not such a list.
    """
    for couple in value or ():
        if not isinstance(couple, list) or len(couple) != 2:
            raise RowError(f"Column 'history' has to hold couples of turns in {where}.", "wrong_type")
        yield Message("user", marked(couple[0], "history", where))
        yield Message("assistant", Turn(text_of(couple[1], "history", where), 0))


def _alpaca(fields: Mapping[str, Any], where: str) -> list[Message]:
    said = [fields.get(name) for name in ("instruction", "input")]
    texts = [text_of(text, name, where) for name, text in zip(("instruction", "input"), said, strict=True) if text]
    question = marked("\n".join(texts), "instruction", where)
    return [*earlier_turns(fields.get("history"), where), Message("user", question)]
