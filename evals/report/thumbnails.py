"""Small forms of the pictures that a model was shown, as data URLs."""

import base64
import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from evals.images import kept

_SIDE = 240
_QUALITY = 80
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Of the pictures in the cache of `evals.images`; each is made once and kept beside them."""

    cache: Path | None
    """None: there are no pictures to show."""

    def url(self, sha256: str) -> str | None:
        """A JPEG of at most 240 pixels a side; None where the picture is not in the cache."""
        if self.cache is None or _SHA256.fullmatch(sha256) is None:
            return None
        path = self.cache / "thumbnails" / sha256[:2] / f"{sha256}.jpg"
        try:
            data = path.read_bytes() if path.is_file() else self._make(sha256, path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"

    def _make(self, sha256: str, path: Path) -> bytes:
        assert self.cache is not None
        out = io.BytesIO()
        with warnings.catch_warnings():
            # Its pixels were counted before it was put there.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(kept(self.cache, sha256), formats=("PNG", "JPEG")) as picture:
                small = picture.convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
        small.save(out, "JPEG", quality=_QUALITY)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_bytes(out.getvalue())
        temporary.replace(path)
        return out.getvalue()
