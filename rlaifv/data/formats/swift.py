"""ms-swift's preference data: a conversation that ends with the chosen answer, and a rejected answer."""

from collections.abc import Mapping
from typing import Any

from rlaifv.data.formats.llamafactory import earlier_turns
from rlaifv.data.formats.turns import (
    Message,
    Preference,
    RowError,
    answer_messages,
    compare,
    marked,
    read_messages,
    with_system,
)


def parse_swift(fields: Mapping[str, Any], where: str) -> Preference:
    """Parse columns messages, or query, response and history; rejected_response or rejected_messages; system.

    A conversation that ends with a user turn, or that has no rejected answer, becomes a prompt without answers.
    """
    if fields.get("rejected_images"):
        raise RowError(
            f"Column 'rejected_images' is not empty in {where}, but both answers are about the same images here.",
            "image_count",
        )
    if fields.get("messages") is not None:
        column, messages = "messages", read_messages(fields["messages"], "messages", where, is_marked=True)
    else:
        column, messages = "query", _query(fields, where)
    answered = bool(messages) and messages[-1].role == "assistant"
    asked, chosen = (messages[:-1], messages[-1:]) if answered else (messages, None)
    name = "rejected_response" if fields.get("rejected_messages") is None else "rejected_messages"
    rejected = answer_messages(fields.get(name), name, where, is_marked=True)
    if rejected is None:
        chosen = None
    return with_system(compare(asked, chosen, rejected, column, where), fields, where)


def _query(fields: Mapping[str, Any], where: str) -> list[Message]:
    question = Message("user", marked(fields.get("query"), "query", where))
    response = answer_messages(fields.get("response"), "response", where, is_marked=True)
    return [*earlier_turns(fields.get("history"), where), question, *(response or ())]
