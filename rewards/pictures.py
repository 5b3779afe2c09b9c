"""Thumbnails: what is compared of two pictures."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64


def thumbnail(png: bytes) -> NDArray[np.float64]:
    """[64 * 64 * 3] RGB values of a PNG, scaled to length 1 (a black picture stays zero).

    `png` comes from our own renderer. Source: the image-diversity variant of MM-Zero's release.
    """
    with Image.open(io.BytesIO(png)) as picture:
        small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    values = np.asarray(small, dtype=np.float64).ravel()
    return values / (float(np.linalg.norm(values)) or 1.0)


def cosine_distances(thumbnails: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n, n] 1 - cosine of all pairs of rows of length 1; in [0, 1], 0 on the diagonal."""
    distances = np.clip(1.0 - thumbnails @ thumbnails.T, 0.0, 1.0)
    np.fill_diagonal(distances, 0.0)
    return distances
