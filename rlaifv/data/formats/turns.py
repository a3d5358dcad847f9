"""Parsing of conversations in common formats into a prompt with two answers.

A turn is {"role": …, "content": …} or {"from": …, "value": …}; its content is a text, or a list of text and image
blocks. The last user turn of a conversation is the question, an optional leading system turn is kept, and the turns in
between are the history, with user and assistant alternating. Images precede the text of the first user turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MARKER = "<image>"
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
# Keys under which blocks hold their own image: Qwen's, that of transformers, and OpenAI's.
_IMAGE_KEYS = ("image", "path", "url", "base64", "image_url")


class RowError(ValueError):
    """An unusable row; the message is one sentence that names data, row and column.

    `reason` is the name under which it is counted, a key of `data.drops.REMEDIES`.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Turn:
    """The text of one turn, and the number of images marked in it (0 also if the format has no markers).

    `images` are those that the markers contain themselves; either all markers do, or none.
    """

    text: str
    num_images: int
    images: tuple[Any, ...] = ()


class Message(NamedTuple):
    """A turn and its role: system, user or assistant."""

    role: str
    turn: Turn


class Preference(NamedTuple):
    """A parsed row. `question` carries the images of the whole conversation; both answers are None, or neither.

    `history` holds the texts of earlier turns, user and assistant in alternation.
    """

    question: Turn
    chosen: str | None
    rejected: str | None
    system: str = ""
    history: tuple[str, ...] = ()


def read_messages(value: Any, column: str, where: str, is_marked: bool = False) -> list[Message]:
    """Parse a conversation.

    Args:
        value: list of turns.
        column: column that holds it.
        where: name of the row in messages.
        is_marked: whether `MARKER` stands for an image in texts; in blocks it never does.

    Raises:
        RowError: it is not a list of turns, a role is unknown, a text is empty, or an image is where none is allowed.
    """
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise RowError(f"Column {column!r} has to hold a conversation in {where}.", "wrong_type")
    return [_message(turn, column, where, is_marked) for turn in value]


def answer_messages(value: Any, column: str, where: str, is_marked: bool = False) -> list[Message] | None:
    """Parse an answer given as a text, a turn, or a conversation that ends with it; return None if there is none."""
    if value is None:
        return None
    if isinstance(value, str):
        turn = marked(value, column, where) if is_marked else Turn(text_of(value, column, where), 0)
        return [_without_images(Message("assistant", turn), column, where)]
    return read_messages(value if isinstance(value, list) else [value], column, where, is_marked)


def compare(
    asked: list[Message], chosen: list[Message] | None, rejected: list[Message] | None, column: str, where: str
) -> Preference:
    """Combine two answers to one conversation; everything before the last turn must be the same on both sides.

    Args:
        asked: turns of the prompt; empty if the answers' conversations begin with it.
        chosen: turns that follow the prompt, or the whole conversation; the last one is the answer.
        rejected: the same.
        column: column that holds the prompt.
        where: name of the row in messages.

    Raises:
        RowError: an answer is missing or not by the assistant, the sides differ earlier, or turns do not alternate.
    """
    whole = {"chosen": chosen, "rejected": rejected}
    absent = [name for name, side in whole.items() if side is None]
    if len(absent) == 1:
        (there,) = {*whole} - {*absent}
        raise RowError(f"Column {absent[0]!r} is missing in {where}, though {there!r} is there.", "half_a_pair")
    if absent:
        return _split(asked, None, None, column, where)
    sides = {name: _whole(asked, side or [], name, where) for name, side in whole.items()}
    first, second = sides.values()
    if first[:-1] != second[:-1]:
        raise RowError(
            f"Columns 'chosen' and 'rejected' differ before their last turn in {where}; only last turns are compared.",
            "conversation",
        )
    return _split(first[:-1], first[-1].turn.text, second[-1].turn.text, column, where)


def with_system(preference: Preference, fields: Mapping[str, Any], where: str) -> Preference:
    """Return `preference` with the system message from column `system`, if present and not empty."""
    found = fields.get("system")
    if found is None or (isinstance(found, str) and not found.strip()):
        return preference
    return preference._replace(system=text_of(found, "system", where))


def text_of(value: Any, column: str, where: str) -> str:
    """Return `value` if it is a non-empty text. Raises RowError for anything else."""
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


def marked(value: Any, column: str, where: str) -> Turn:
    """Parse a text in which markers stand for images."""
    first, *others = text_of(value, column, where).split(MARKER)
    pieces: list[Any] = [first]
    for piece in others:
        pieces += [_Image(), piece]
    return _joined([piece for piece in pieces if isinstance(piece, _Image) or piece.strip()], column, where)


class _Image(NamedTuple):
    """An image in a text, with the image that its marker contains, if any."""

    content: Any = None


def _message(turn: Mapping[str, Any], column: str, where: str, is_marked: bool) -> Message:
    name = next((turn[key] for key in ("role", "from") if turn.get(key) is not None), None)
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise RowError(
            f"Column {column!r} holds a turn of {str(name)[:40]!r} in {where}; there can be system, user and assistant.",
            "conversation",
        )
    value = next((turn[key] for key in ("content", "value") if turn.get(key) is not None), None)
    if isinstance(value, list):
        found = _joined([_block(block, column, where) for block in value], column, where)
    else:
        found = marked(value, column, where) if is_marked else Turn(text_of(value, column, where), 0)
    return _without_images(Message(role, found), column, where)


def _without_images(message: Message, column: str, where: str) -> Message:
    if message.role != "user" and message.turn.num_images:
        raise RowError(
            f"Column {column!r} marks an image in {where} in a turn of {message.role}, but only users show images here.",
            "image_position",
        )
    return message


def _block(block: Any, column: str, where: str) -> Any:
    """Return the text or the image of a block."""
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind not in ("text", "image", "image_url"):
        raise RowError(f"Column {column!r} holds a block that is neither text nor image in {where}.", "wrong_type")
    if kind == "text":
        return text_of(block.get("text"), column, where)
    content = next((block[key] for key in _IMAGE_KEYS if block.get(key) is not None), None)
    if isinstance(content, Mapping) and content.get("url") is not None:
        content = content["url"]
    return _Image(content)


def _joined(pieces: Sequence[Any], column: str, where: str) -> Turn:
    words = [k for k, piece in enumerate(pieces) if not isinstance(piece, _Image)]
    if not words:
        raise RowError(f"Column {column!r} is empty in {where}.", "empty")
    if words[-1] - words[0] >= len(words):
        raise RowError(
            f"Column {column!r} has an image between words in {where}; images have to come before the question.",
            "image_position",
        )
    images = [piece.content for piece in pieces if isinstance(piece, _Image)]
    held = tuple(content for content in images if content is not None)
    if len(held) not in (0, len(images)):
        raise RowError(f"Column {column!r} holds {len(held)} of its {len(images)} images in {where}.", "image_count")
    text = "\n".join(pieces[k] for k in words)
    return Turn(text.strip() if images else text, len(images), held)


def _whole(asked: list[Message], side: list[Message], column: str, where: str) -> list[Message]:
    """Return the whole conversation that ends with an answer; the data may hold only its end."""
    if not side or side[-1].role != "assistant":
        speakers = ", ".join(message.role for message in side) or "nobody"
        raise RowError(
            f"Column {column!r} has to end with a turn of assistant in {where}, but it holds {speakers}.",
            "conversation",
        )
    if side[0].role == "assistant":
        return asked + side
    said = [message.turn.text.strip() for message in side]
    if any(message.turn.text.strip() not in said for message in asked):
        raise RowError(f"Column {column!r} does not go on from the prompt in {where}.", "conversation")
    # Only the prompt may mark images: copies of it in the answers often omit the markers.
    shown = {message.turn.text.strip(): message for message in asked if message.turn.num_images}
    return [shown.get(text, message) for text, message in zip(said, side, strict=True)]


def _split(messages: list[Message], chosen: str | None, rejected: str | None, column: str, where: str) -> Preference:
    has_system = bool(messages) and messages[0].role == "system"
    turns = messages[has_system:]
    expected = ["assistant" if k % 2 else "user" for k in range(len(turns))]
    if [message.role for message in turns] != expected or len(turns) % 2 == 0:
        speakers = ", ".join(message.role for message in messages) or "nobody"
        raise RowError(
            f"Column {column!r} has to hold turns of user and assistant in alternation, the user's first and last, in "
            f"{where}, but it holds {speakers}.",
            "conversation",
        )
    first, last = turns[0].turn, turns[-1].turn
    if any(message.turn.num_images for message in turns[1:]):
        raise RowError(
            f"Column {column!r} marks an image in a later turn in {where}; images have to come before the first question.",
            "image_position",
        )
    history = tuple(message.turn.text for message in turns[:-1])
    system = messages[0].turn.text if has_system else ""
    return Preference(Turn(last.text, first.num_images, first.images), chosen, rejected, system, history)
