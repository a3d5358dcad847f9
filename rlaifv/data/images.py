"""Safe decoding of untrusted image files: an upright RGB image, or a one-sentence error."""

import hashlib
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000
MAX_BYTES = 64 * 2**20
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")


class ImageError(ValueError):
    """An unusable image file.

    `reason` is the name under which it is counted: missing, not_a_file, unreadable, empty_file, too_many_bytes,
    unknown_format, too_many_pixels, incomplete, corrupt or unsupported_pixels.
    """

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        """Create an error whose `message` is one sentence that names the file."""
        super().__init__(message)
        self.reason = reason


def load_image(path: str | Path, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Image.Image:
    """Decode the first frame of a file to an RGB image, rotated according to its EXIF orientation.

    Transparent pixels are blended over white. Of 16-bit channels the high byte is kept, as Pillow does for colour PNGs;
    CMYK is converted without its colour profile.

    Args:
        path: a JPEG, PNG, WebP, BMP, GIF or TIFF file, regardless of its extension.
        max_pixels: the most pixels of a frame, checked before decoding; Pillow's own limit of about 179 million also
            applies.
        max_bytes: the largest file size, checked before opening.

    Raises:
        ImageError: the file is missing, over a limit, not an image, or damaged; truncated files are never partly
            decoded.
    """
    with _opened(path, max_pixels, max_bytes) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image, path)


def check_header(path: str | Path, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> None:
    """Raise for files that `load_image` would refuse, as far as the header shows; fast enough for a whole data set.

    Raises:
        ImageError: see `load_image`.
    """
    with _opened(path, max_pixels, max_bytes):
        pass


def image_digest(path: str | Path) -> str:
    """Return the SHA-256 of the file's bytes in hexadecimal.

    Raises:
        ImageError: the file is missing or cannot be read.
    """
    _size_bytes(path)
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"The image {path} cannot be read: {error.strerror}.", "unreadable") from error


def _size_bytes(path: str | Path) -> int:
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"The image {path} does not exist.", "missing") from error
    except (OSError, ValueError) as error:  # a link loop, no permission, a name too long or containing NUL
        raise ImageError(f"The image {path} cannot be reached: {error}.", "unreadable") from error
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"The image {path} is not a file.", "not_a_file")
    return status.st_size


@contextmanager
def _opened(path: str | Path, max_pixels: int, max_bytes: int) -> Iterator[ImageFile.ImageFile]:
    num_bytes = _size_bytes(path)
    if num_bytes == 0:
        raise ImageError(f"The image {path} is an empty file.", "empty_file")
    if num_bytes > max_bytes:
        raise ImageError(
            f"The image {path} has {num_bytes} bytes, more than the {max_bytes} allowed.", "too_many_bytes"
        )
    try:
        # Pillow warns of harmless metadata and of sizes that are checked here. Pass a stream, not a path: Pillow maps
        # some files given by path into memory, and truncation of a mapped file would kill the process.
        with warnings.catch_warnings(), open(path, "rb") as stream:
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as image:
                num_pixels = image.width * image.height
                if num_pixels > max_pixels:
                    raise ImageError(
                        f"The image {path} has {num_pixels} pixels, more than the {max_pixels} allowed.",
                        "too_many_pixels",
                    )
                yield image
    except ImageError:
        raise
    except PermissionError as error:
        raise ImageError(f"The image {path} cannot be read: {error.strerror}.", "unreadable") from error
    except Image.DecompressionBombError as error:
        cap = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise ImageError(f"The image {path} has more pixels than the {cap} allowed.", "too_many_pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"The image {path} is none of {', '.join(FORMATS)}, or its header is damaged.", "unknown_format"
        ) from error
    except Exception as error:  # damaged files make Pillow raise many types, IndexError among them
        reason = "incomplete" if "truncated" in str(error).lower() else "corrupt"
        raise ImageError(f"The image {path} cannot be decoded: {str(error) or repr(error)}.", reason) from error


def _to_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip at 255 instead of scaling
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(
            f"The image {path} has pixels of mode {image.mode}, whose brightness range is not defined.",
            "unsupported_pixels",
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
