"""Encoded pictures -> pixel patches, by the model's own image processor."""

import base64
import binascii
import hashlib
import io
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoImageProcessor

from engine.servers.embedded.protocol import BadRequest
from engine.servers.embedded.vision import Pixels

_MAX_PIXELS = 16_000_000
_KEPT_IMAGES = 256


class ImageReader:
    """Decodes and normalises pictures; keeps the newest, since they come in groups."""

    def __init__(self, model_dir: Path) -> None:
        self._processor: Any = AutoImageProcessor.from_pretrained(model_dir)
        self._kept: OrderedDict[str, Pixels] = OrderedDict()

    def read(self, texts: Sequence[str]) -> tuple[Pixels, ...]:
        """Pixels of base64 texts or data URIs; raises BadRequest. Blocking: not for a loop."""
        return tuple(self._read(text) for text in texts)

    def _read(self, text: str) -> Pixels:
        if text.startswith("data:"):
            text = text.partition(",")[2]
        try:
            encoded = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadRequest("image_data: not base64 (paths and URLs are not read)") from error
        digest = hashlib.sha256(encoded).hexdigest()
        kept = self._kept.get(digest)
        if kept is None:
            kept = self._kept[digest] = self._decode(encoded, digest)
            while len(self._kept) > _KEPT_IMAGES:
                self._kept.popitem(last=False)
        return kept

    def _decode(self, encoded: bytes, digest: str) -> Pixels:
        try:
            image = Image.open(io.BytesIO(encoded))
            if image.width * image.height > _MAX_PIXELS:
                raise BadRequest(f"image_data: {image.width}x{image.height} pixels are too many")
            ready = self._processor(images=[image.convert("RGB")], return_tensors="pt")
        except BadRequest:
            raise
        except Exception as error:  # decoders raise many types on hostile bytes
            raise BadRequest(f"image_data: not a readable image ({error})") from error
        time, height, width = ready["image_grid_thw"][0].tolist()
        return Pixels(digest, ready["pixel_values"], (time, height, width))
