"""Pictures: what is refused before it is decoded, what is sent, what is kept."""

import hashlib
import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from evals.images import AS_IT_IS, MM_ZERO, BadImage, Sizing, check, kept, shown
from tests.evals.small_benchmark import png


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, in a few bytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + bytes(4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_what_needs_no_change_goes_as_it_is(kind: str) -> None:
    data = png(kind=kind)
    picture = shown(data, MM_ZERO)
    assert picture.data == data
    assert picture.sha256 == hashlib.sha256(data).hexdigest()
    assert (picture.width, picture.height) == (32, 24)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16", "LA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    out = io.BytesIO()
    Image.new(mode, (8, 6)).save(out, "PNG")
    picture = opened(shown(out.getvalue(), AS_IT_IS).data)
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (8, 6))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP", "TIFF"])
def test_other_formats_become_png(kind: str) -> None:
    assert opened(shown(png(kind=kind), AS_IT_IS).data).format == "PNG"


def test_a_photograph_is_turned_upright() -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 10)).save(out, "JPEG", exif=exif)
    picture = shown(out.getvalue(), AS_IT_IS)
    assert (picture.width, picture.height) == (10, 30)
    assert opened(picture.data).size == (10, 30)


@pytest.mark.parametrize(
    "size, expected",
    [
        ((1280, 1280), (1280, 1280)),
        ((2560, 2560), (1280, 1280)),
        ((5120, 1280), (2560, 640)),
        ((1281, 1280), (1280, 1279)),
    ],
)
def test_mm_zero_bounds_the_area_and_keeps_the_aspect(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    picture = shown(png(size=size), MM_ZERO)
    assert (picture.width, picture.height) == expected
    assert picture.width * picture.height <= 1280 * 1280


def test_smaller_pictures_are_not_made_larger() -> None:
    assert shown(png(size=(3, 2)), Sizing(max_pixels=100)).width == 3


def test_a_long_strip_is_refused_where_the_regime_does() -> None:
    strip = png(size=(400, 2))
    assert shown(strip, AS_IT_IS).width == 400
    with pytest.raises(BadImage, match="400x2: longer than 199 times"):
        shown(strip, MM_ZERO)


@pytest.mark.parametrize(
    "data, why",
    [
        (b"", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (bomb(50_000, 50_000), "50000x50000|not a picture"),
        (bomb(10_000, 9_000), "10000x9000 pixels"),
        (bytes(65 << 20), "bytes, more than"),
    ],
)
def test_what_must_not_be_decoded_is_refused_by_its_header(data: bytes, why: str) -> None:
    with pytest.raises(BadImage, match=why):
        check(data)


def test_a_file_that_breaks_off_is_refused_when_it_is_decoded() -> None:
    out = io.BytesIO()
    Image.radial_gradient("L").save(out, "JPEG")
    broken = out.getvalue()[: len(out.getvalue()) // 2]
    check(broken)
    with pytest.raises(BadImage, match="not decodable"):
        shown(broken, AS_IT_IS)


def test_results_are_kept_by_content_and_size(tmp_path: Path) -> None:
    data = png(size=(40, 40), kind="GIF")
    first = shown(data, AS_IT_IS, tmp_path)
    smaller = shown(data, Sizing(max_pixels=100), tmp_path)
    assert first.sha256 != smaller.sha256
    assert kept(tmp_path, first.sha256).read_bytes() == first.data
    assert shown(data, AS_IT_IS, tmp_path) == first
    assert shown(data, Sizing(max_pixels=100), tmp_path) == smaller


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    data = png(kind="GIF")
    first = shown(data, AS_IT_IS, tmp_path)
    kept(tmp_path, first.sha256).write_bytes(first.data[:-9])
    assert shown(data, AS_IT_IS, tmp_path) == first
    assert kept(tmp_path, first.sha256).read_bytes() == first.data
