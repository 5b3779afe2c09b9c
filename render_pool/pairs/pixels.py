"""What of a picture is seen to differ in another one."""

import io

import numpy as np
from PIL import Image, ImageChops

from render_pool.picture import VISIBLE


def changed_share(first: Image.Image, second: Image.Image) -> float:
    """Share of the pixels of which a channel differs by more than `VISIBLE` of 255 levels.

    Both are RGB. Raises ValueError where they are not of one size.
    """
    if first.size != second.size:
        (w, h), (v, g) = first.size, second.size
        raise ValueError(f"{w}x{h} and {v}x{g} pixels: both must be of one size")
    pixels = np.asarray(ImageChops.difference(first, second)) > VISIBLE
    return float(np.mean(pixels[..., 0] | pixels[..., 1] | pixels[..., 2]))


def decoded(png: bytes) -> Image.Image:
    """A picture of the render pool."""
    return Image.open(io.BytesIO(png)).convert("RGB")
