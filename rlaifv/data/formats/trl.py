"""TRL's preference data: texts or conversations, with the prompt in its own column or as a prefix of both answers."""

from collections.abc import Mapping
from typing import Any

from rlaifv.data.formats.turns import (
    Message,
    Preference,
    RowError,
    answer_messages,
    compare,
    marked,
    read_messages,
    text_of,
    with_system,
)


def parse_trl(fields: Mapping[str, Any], where: str) -> Preference:
    """Parse columns prompt, chosen and rejected, or the latter two alone, which then begin with the prompt.

    In conversations, images precede the text whether or not blocks mark them; image markers count in plain texts only.
    """
    prompt = fields.get("prompt")
    if prompt is None:
        return with_system(_implicit(fields, where), fields, where)
    if isinstance(prompt, list):
        asked = read_messages(prompt, "prompt", where)
    else:
        asked = [Message("user", marked(prompt, "prompt", where))]
    chosen, rejected = (answer_messages(fields.get(name), name, where) for name in ("chosen", "rejected"))
    return with_system(compare(asked, chosen, rejected, "prompt", where), fields, where)


def _implicit(fields: Mapping[str, Any], where: str) -> Preference:
    values = {name: fields.get(name) for name in ("chosen", "rejected")}
    for name, value in values.items():
        if value is None:
            raise RowError(f"Columns 'prompt' and {name!r} are missing in {where}.", "half_a_pair")
    if not any(isinstance(value, str) for value in values.values()):
        chosen, rejected = (answer_messages(value, name, where) for name, value in values.items())
        return compare([], chosen, rejected, "chosen", where)
    chosen_text, rejected_text = (text_of(value, name, where) for name, value in values.items())
    start = len(_common_words(chosen_text, rejected_text))
    if not chosen_text[:start].strip():
        raise RowError(
            f"Columns 'chosen' and 'rejected' begin with no common words in {where}, so there is no prompt.",
            "no_prompt",
        )
    asked = [Message("user", marked(chosen_text[:start].strip(), "chosen", where))]
    chosen, rejected = (
        answer_messages(text[start:], name, where)
        for name, text in (("chosen", chosen_text), ("rejected", rejected_text))
    )
    return compare(asked, chosen, rejected, "chosen", where)


def _common_words(first: str, second: str) -> str:
    """Return the common prefix of two texts, cut back to a word boundary of both.

    >>> _common_words("What is it? A red cat.", "What is it? A red car.")
    'What is it? A red '
    """
    same = 0
    for k, (one, other) in enumerate(zip(first, second, strict=False), start=1):
        if one != other:
            break
        same = k if one.isspace() else same
    return first[:same]
