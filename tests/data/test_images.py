"""Decoding of good, odd and hostile image files, which the tests make themselves."""

import contextlib
import hashlib
import io
import os
import pickle
import resource
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from rlaifv.data.images import ImageError, check_header, image_digest, load_image

ORIENTATION = 0x0112


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(30_000_000), 9))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


def refusal_of(path: Path, **limits: int) -> ImageError:
    with pytest.raises(ImageError) as error:
        load_image(path, **limits)
    assert str(path) in str(error.value)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)
    return error.value


def test_a_rotated_photograph_comes_upright(tmp_path: Path) -> None:
    """Orientation 6: the stored top row is the right edge, so its left end is the upper right corner."""
    photograph = Image.new("RGB", (4000, 3000), "gray")
    ImageDraw.Draw(photograph).rectangle((0, 0, 400, 400), fill="red")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = load_image(saved(photograph, tmp_path / "photograph.jpg", exif=exif))
    assert image.mode == "RGB"
    assert image.size == (3000, 4000)
    red, green, _ = np.asarray(image)[100, 2900]
    assert red > 200
    assert green < 60
    assert np.asarray(image)[100, 100].tolist() == [128, 128, 128]
    assert ORIENTATION not in image.getexif()


def test_tiff_orientation_is_applied_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    assert load_image(saved(noise(30, 20), tmp_path / "scan.tif", exif=exif)).size == (20, 30)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, suffix: str) -> None:
    path = saved(noise(31, 17), tmp_path / f"image.{suffix}")
    np.testing.assert_array_equal(np.asarray(load_image(path)), np.asarray(noise(31, 17)))


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = saved(noise(5, 5), tmp_path / "really_a_png.jpg", format="PNG")
    np.testing.assert_array_equal(np.asarray(load_image(path)), np.asarray(noise(5, 5)))


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (255, 0), (51, 204)])
def test_alpha_is_laid_over_white(tmp_path: Path, alpha: int, expected: int) -> None:
    """Black with opacity a over white: 255 * (1 - a)."""
    for mode, colour in (("RGBA", (0, 0, 0, alpha)), ("LA", (0, alpha))):
        image = load_image(saved(Image.new(mode, (3, 3), colour), tmp_path / f"{mode}.png"))
        assert image.getpixel((1, 1)) == (expected,) * 3


def test_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((3, 1), 1)
    loaded = load_image(saved(image, tmp_path / "palette.png", transparency=0))
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((3, 1)) == (200, 0, 0)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    levels = Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16))
    for suffix in ("png", "tif"):
        loaded = load_image(saved(levels, tmp_path / f"levels.{suffix}"))
        assert np.asarray(loaded)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    loaded = load_image(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "print.jpg", quality=100))
    red, green, blue = np.asarray(loaded)[8, 8].tolist()
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif"])
def test_the_first_frame_counts(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(frames[0], tmp_path / f"frames.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert load_image(path).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000)])
def test_extreme_shapes_are_images_too(tmp_path: Path, size: tuple[int, int]) -> None:
    assert load_image(saved(Image.new("RGB", size), tmp_path / "thin.png")).size == size


def test_broken_metadata_does_not_cost_the_image(tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(7)
    assert load_image(saved(noise(9, 9), tmp_path / "odd.jpg", exif=exif)).size == (9, 9)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_file"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "unknown_format"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "unknown_format"),
        (b"P6 2 2 255 " + bytes(12), "unknown_format"),  # an image, but of a format that is not allowed
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    assert refusal_of(path).reason == reason


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert refusal_of(tmp_path / "absent.jpg").reason == "missing"
    assert refusal_of(tmp_path).reason == "not_a_file"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert refusal_of(tmp_path / "pipe.jpg").reason == "not_a_file"
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert refusal_of(tmp_path / "loop.jpg").reason == "unreadable"
    assert refusal_of(tmp_path / ("long" * 100)).reason == "unreadable"


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, format_name: str, share: float) -> None:
    buffer = io.BytesIO()
    noise(120, 90).save(buffer, format_name)
    path = tmp_path / "half.jpg"
    path.write_bytes(buffer.getvalue()[: int(share * buffer.tell())])
    assert refusal_of(path).reason == "incomplete"
    check_header(path)


def test_a_truncated_webp_shows_in_its_header(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    noise(120, 90).save(buffer, "WEBP")
    path = tmp_path / "half.webp"
    path.write_bytes(buffer.getvalue()[: buffer.tell() // 2])
    assert refusal_of(path).reason == "corrupt"
    with pytest.raises(ImageError):
        check_header(path)


def test_limits_are_inclusive_and_name_both_numbers(tmp_path: Path) -> None:
    path = saved(noise(40, 30), tmp_path / "image.png")
    num_bytes = path.stat().st_size
    assert load_image(path, max_pixels=1200, max_bytes=num_bytes).size == (40, 30)
    pixels = refusal_of(path, max_pixels=1199)
    assert pixels.reason == "too_many_pixels"
    assert "1200 pixels, more than the 1199" in str(pixels)
    size = refusal_of(path, max_bytes=num_bytes - 1)
    assert size.reason == "too_many_bytes"
    assert f"{num_bytes} bytes, more than the {num_bytes - 1}" in str(size)


@pytest.mark.parametrize("size", [(60_000, 60_000), (10_000, 10_000)])
def test_a_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow raises for the first size and only warns for the second; warnings are errors here, so none gets out."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(*size))
    assert path.stat().st_size < 40_000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert refusal_of(path).reason == "too_many_pixels"
    with pytest.raises(ImageError, match="allowed"):
        check_header(path)


def test_refusing_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(60_000, 60_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal_of(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024  # KiB


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_later_frames_are_never_looked_at(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file passes by its first frame and explodes in a later one."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(frames[0], tmp_path / f"frames.{suffix}", save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 2
        seek = type(image).seek
    places: list[int] = []

    def spy(image: Image.Image, frame: int) -> None:
        places.append(frame)
        seek(image, frame)

    monkeypatch.setattr(type(image), "seek", spy)
    assert load_image(path).getpixel((4, 4)) == (255, 0, 0)
    assert set(places) <= {0}


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "nothing.png"
    path.write_bytes(png_that_claims(*size))
    assert refusal_of(path).reason in ("unknown_format", "corrupt")


def test_a_text_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    whole = saved(noise(4, 4), tmp_path / "text.png").read_bytes()
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))
    (tmp_path / "text.png").write_bytes(whole[:33] + text + whole[33:])
    tracemalloc.start()
    refusal_of(tmp_path / "text.png")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 20_000_000


def test_a_large_limit_admits_what_pillow_only_warns_of(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_that_claims(10_000, 10_000))
    check_header(path, max_pixels=100_000_000)


def test_pixels_without_a_defined_range_are_refused(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.linspace(-3.0, 900.0, 12, dtype=np.float32).reshape(3, 4)), tmp_path / "depth.tif")
    refusal = refusal_of(path)
    assert refusal.reason == "unsupported_pixels"
    assert "mode F" in str(refusal)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    format_name=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]),
    place=st.floats(0.0, 1.0, exclude_max=True),
    value=st.integers(0, 255),
)
def test_a_damaged_byte_gives_an_image_or_an_image_error(
    tmp_path: Path, format_name: str, place: float, value: int
) -> None:
    buffer = io.BytesIO()
    noise(24, 16).save(buffer, format_name)
    content = bytearray(buffer.getvalue())
    content[int(place * len(content))] = value
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with contextlib.suppress(ImageError):
        assert load_image(path).mode == "RGB"


def test_the_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageError("The image x.jpg does not exist.", "missing")))
    assert isinstance(error, ImageError)
    assert error.reason == "missing"
    assert str(error) == "The image x.jpg does not exist."


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "any.jpg"
    path.write_bytes(b"content")
    assert image_digest(path) == hashlib.sha256(b"content").hexdigest()
    with pytest.raises(ImageError) as error:
        image_digest(tmp_path / "absent.jpg")
    assert error.value.reason == "missing"
