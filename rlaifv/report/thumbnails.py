"""Embed images in a report as small data: URIs, so that it is a single file. Unusable images are omitted."""

import base64
import io
from pathlib import Path

from PIL import Image

from rlaifv.data.images import ImageError, load_image

THUMBNAIL_PX = 384


def find_image(image_path: str, run_dir: Path) -> Path | None:
    """Return the file that `image_path` names; if the run was moved, look in its own scenes/. None if not found."""
    if not image_path or "\0" in image_path:
        return None
    named = run_dir / image_path
    places = (named, run_dir / "scenes" / named.name)
    return next((place for place in places if place.is_file()), None)


def thumbnail(path: Path, max_px: int = THUMBNAIL_PX) -> str | None:
    """Encode an image, scaled to at most `max_px` on its longer side, as a JPEG or PNG data: URI, whichever is smaller.

    Returns:
        The URI, or None if the file is not an image, is damaged, or exceeds the limits of `load_image`.
    """
    try:
        image = load_image(path)
    except ImageError:
        return None
    image.thumbnail((max_px, max_px), Image.Resampling.LANCZOS)
    return min(_encode(image, "PNG", optimize=True), _encode(image, "JPEG", quality=82), key=len)


def _encode(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
