"""Images in rows: bytes, base64, data URLs, or files inside the data's folder; nothing is fetched from the network."""

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rlaifv.data.formats.turns import RowError
from rlaifv.data.image_root import path_inside

# Leading bytes of each image format, and its file name extension.
SIGNATURES = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"RIFF": "webp",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
}
# A path may consist of base64 characters only; no image file is smaller than this many characters encode.
_LEAST_BASE64 = 40
_SHOWN_CHARACTERS = 200


def ending(content: bytes) -> str:
    """Return the file name extension of an image from its leading bytes, "img" if the format is unknown.

    >>> ending(b"GIF89a..."), ending(b"<html>")
    ('gif', 'img')
    """
    return next((name for start, name in SIGNATURES.items() if content.startswith(start)), "img")


def shown(text: str, most: int = _SHOWN_CHARACTERS) -> str:
    r"""Make untrusted text safe for a message: escape control characters and truncate it.

    >>> shown("a\x1b[2Jb"), shown("abcdef", 3)
    ('a\\x1b[2Jb', 'abc…')
    """
    escaped = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[: most + 1])
    return escaped if len(escaped) <= most else f"{escaped[:most]}…"


def is_empty(value: Any) -> bool:
    """Return whether a column holds no image: null, or a list without any."""
    return value is None or (isinstance(value, list) and all(item is None for item in value))


def read_images(value: Any, column: str, where: str, image_root: Path | None) -> tuple[str | bytes, ...]:
    """Read the images of a column, which holds one or a list of them.

    Each is bytes; {"bytes": …, "path": …}, as in `datasets`; base64, bare or in a data URL; a path relative to the
    root; or a file URL.

    Returns:
        Image bytes, or real paths inside the root with links resolved.

    Raises:
        RowError: there is no image, or one cannot be found, lies outside the root, or is on another machine.
    """
    if is_empty(value):
        raise RowError(f"Column {column!r} holds no image in {where}.", "missing_image")
    return tuple(_image(item, column, where, image_root) for item in (value if isinstance(value, list) else [value]))


def _image(value: Any, column: str, where: str, image_root: Path | None) -> str | bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        kind = "nothing" if not value else f"type {type(value).__name__}"
        raise RowError(f"Column {column!r} has to hold images in {where}, but one is of {kind}.", "missing_image")
    scheme = value[:8].lower()
    if scheme.startswith(("http://", "https://")):
        raise RowError(
            f"Column {column!r} names {shown(value)} in {where}, but nothing is fetched from the net.", "remote_image"
        )
    if scheme.startswith("data:"):
        return _of_data_url(value, column, where)
    if scheme.startswith("file:"):
        parts = urlsplit(value)
        if parts.netloc not in ("", "localhost"):
            raise RowError(
                f"Column {column!r} names {shown(value)} in {where}, a file of another machine.", "remote_image"
            )
        value = unquote(parts.path)
    elif (content := _of_base64(value)) is not None:
        return content
    return _file(value, column, where, image_root)


def _of_data_url(value: str, column: str, where: str) -> bytes:
    kind, comma, content = value.partition(",")
    try:
        if comma and kind.lower().endswith(";base64"):
            return base64.b64decode("".join(unquote(content).split()), validate=True)
    except (binascii.Error, ValueError):
        pass
    raise RowError(f"Column {column!r} holds a data URL in {where} that is not base64 of an image.", "not_base64")


def _of_base64(value: str) -> bytes | None:
    """Decode base64 if the result begins like an image file; return None if the text may be a path."""
    if len(value) < _LEAST_BASE64:
        return None
    try:
        content = base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return None if ending(content) == "img" else content


def _file(value: str, column: str, where: str, image_root: Path | None) -> str:
    if image_root is None:
        raise RowError(
            f"Column {column!r} names the file {shown(value)!r} in {where}, but holds no bytes.", "missing_image"
        )
    named, found = shown(str(image_root / value)), path_inside(image_root, value)
    if found is None:
        raise RowError(
            f"Column {column!r} names {named} in {where}, which lies outside {image_root}; data.image_root=DIR allows "
            "another place.",
            "outside_root",
        )
    if not os.path.isfile(found):
        raise RowError(f"Column {column!r} names {named} in {where}, which is not an existing file.", "missing_image")
    return str(found)
