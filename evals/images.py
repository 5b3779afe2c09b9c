"""Pictures as they are shown to a model: checked before they are decoded, RGB, of a stated size.

What a data set holds is hostile until it is decoded: formats are named, pixels are counted from the
header, and decoding is for a thread. A file that is shown as it is goes as it is (a JPEG is a tenth
of its PNG); any other becomes PNG. Results are kept on disk by their content.
"""

import hashlib
import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""None that starts another program or reads another file."""
_MAX_FILE_BYTES = 64 << 20
_MAX_DECODED_PIXELS = 80_000_000
"""Before resizing; the largest picture of the twelve benchmarks has a fifth of that."""
_ORIENTATION = 0x0112


class BadImage(ValueError):
    """A picture that can't be shown; says why."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """How large a picture may be. Larger ones are made smaller by LANCZOS, aspect kept."""

    max_pixels: int | None = None
    """Area; None: as it is, the model's own processor has its say anyway."""
    max_aspect: float | None = None
    """Longer side over shorter; more than that is refused."""

    def describe(self) -> dict[str, float | None]:
        """For records and keys."""
        return {"max_pixels": self.max_pixels, "max_aspect": self.max_aspect}


AS_IT_IS = Sizing()
MM_ZERO = Sizing(max_pixels=1280 * 1280, max_aspect=199)


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as the model gets it."""

    data: bytes
    """PNG or JPEG."""
    sha256: str
    """Of `data`."""
    width: int
    height: int


def check(data: bytes) -> None:
    """Look at the header only. Raises BadImage for what must not be decoded."""
    _open(data).close()


def shown(data: bytes, sizing: Sizing, cache: Path | None = None) -> Shown:
    """`data` decoded, and as RGB, upright and resized where it is not. Raises BadImage. For a
    thread.

    `cache`: a folder that keeps results by content (see `kept`); a damaged entry is made again.
    """
    name = hashlib.sha256(data + repr(sizing).encode()).hexdigest()
    if cache is not None and (found := _found(cache, name)) is not None:
        return found
    picture, is_plain = _decoded(data)
    fitted = _resized(picture, sizing)
    if not (is_plain and fitted is picture):
        out = io.BytesIO()
        fitted.save(out, "PNG", compress_level=1)
        data = out.getvalue()
    result = Shown(data, hashlib.sha256(data).hexdigest(), fitted.width, fitted.height)
    if cache is not None:
        _write(kept(cache, result.sha256), data)
        index = f"{result.sha256} {result.width} {result.height}"
        _write(_index(cache, name), index.encode())
    return result


def kept(cache: Path, sha256: str) -> Path:
    """Where the picture with this hash lies, for whoever wants to look at it."""
    return cache / sha256[:2] / sha256


def _open(data: bytes) -> Image.Image:
    if len(data) > _MAX_FILE_BYTES:
        raise BadImage(f"a file of {len(data)} bytes, more than {_MAX_FILE_BYTES}")
    try:
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as error:  # noqa: BLE001  decoders raise many types on hostile bytes
        raise BadImage(f"not a picture ({type(error).__name__}: {error})") from None
    if picture.width * picture.height > _MAX_DECODED_PIXELS:
        raise BadImage(
            f"{picture.width}x{picture.height} pixels, more than {_MAX_DECODED_PIXELS} in all"
        )
    return picture


def _decoded(data: bytes) -> tuple[Image.Image, bool]:
    """(RGB pixels, whether the file shows just them by itself)."""
    picture = _open(data)
    try:
        picture.load()
        is_plain = (
            picture.format in ("PNG", "JPEG")
            and picture.mode == "RGB"
            and "transparency" not in picture.info
            and getattr(picture, "n_frames", 1) == 1
        )
        if picture.getexif().get(_ORIENTATION, 1) != 1:  # as Hugging Face datasets do
            picture, is_plain = ImageOps.exif_transpose(picture), False
        return picture if is_plain else picture.convert("RGB"), is_plain
    except Exception as error:  # noqa: BLE001  see above
        raise BadImage(f"not decodable ({type(error).__name__}: {error})") from None


def _resized(picture: Image.Image, sizing: Sizing) -> Image.Image:
    width, height = picture.size
    if sizing.max_aspect is not None and max(width, height) > sizing.max_aspect * min(
        width, height
    ):
        raise BadImage(f"{width}x{height}: longer than {sizing.max_aspect:g} times its other side")
    if sizing.max_pixels is None or width * height <= sizing.max_pixels:
        return picture
    scale = (sizing.max_pixels / (width * height)) ** 0.5
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _index(cache: Path, name: str) -> Path:
    return cache / "index" / name[:2] / name


def _found(cache: Path, name: str) -> Shown | None:
    """What was made of the same file before; None where nothing was, or it is damaged."""
    try:
        sha256, width, height = _index(cache, name).read_text().split()
        data = kept(cache, sha256).read_bytes()
        size = int(width), int(height)
    except (OSError, ValueError):
        return None
    return Shown(data, sha256, *size) if hashlib.sha256(data).hexdigest() == sha256 else None


def _write(path: Path, data: bytes) -> None:
    """In one step: another thread or process may be writing the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
