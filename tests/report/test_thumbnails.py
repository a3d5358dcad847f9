import base64
import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from rlaifv.report.thumbnails import find_image, thumbnail


def decode(uri: str | None) -> Image.Image:
    assert uri is not None
    assert uri.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize(
    ("size", "expected"), [((1000, 500), (384, 192)), ((300, 1200), (96, 384)), ((192, 192), (192, 192))]
)
def test_longer_side_is_bounded_and_small_images_stay(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", size, "navy").save(path)
    assert decode(thumbnail(path)).size == expected


def test_photos_become_jpeg_and_drawings_png(tmp_path: Path) -> None:
    Image.effect_noise((400, 400), 60).convert("RGB").save(tmp_path / "noise.png")
    Image.new("RGB", (400, 400), "white").save(tmp_path / "flat.jpg")
    assert decode(thumbnail(tmp_path / "noise.png")).format == "JPEG"
    assert decode(thumbnail(tmp_path / "flat.jpg")).format == "PNG"


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGBA", (10, 10), (255, 0, 0, 0)).save(path)
    assert decode(thumbnail(path)).convert("RGB").getpixel((5, 5)) == (255, 255, 255)


def test_bad_images_cost_their_picture_only(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_text("no image", encoding="utf-8")
    assert thumbnail(path) is None
    whole = io.BytesIO()
    Image.effect_noise((300, 300), 60).save(whole, "PNG")
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    assert thumbnail(path) is None


def test_image_with_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert thumbnail(path) is None


def test_moved_run_finds_its_own_scenes(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    own = tmp_path / "scenes" / "00001.png"
    own.write_bytes(b"")
    assert find_image("/elsewhere/outputs/old/scenes/00001.png", tmp_path) == own
    assert find_image("scenes/00001.png", tmp_path) == own
    assert find_image("/elsewhere/00002.png", tmp_path) is None
    assert find_image("", tmp_path) is None
    assert find_image("a\0b", tmp_path) is None
    assert find_image(str(tmp_path), tmp_path) is None
