"""The probe: tokens after a picture, by whose log-probs servers and learners are compared.

Every weight has a part in them but the embeddings of other tokens: the picture goes through the
vision tower, and what is asked comes after it.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

_TOKENS = tuple(range(64, 88))
"""Every vocabulary has them, and no family's special tokens are among them."""
SIDE = 448
"""Pixels: a multiple of what every family cuts pictures into, and what most take."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What is scored are `token_ids` after `prompt_ids`, which have one placeholder per image."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    images: tuple[bytes, ...] = ()
    """PNG."""


def probe_for(picture_ids: Sequence[int], side: int) -> Probe:
    """The probe of a model in whose prompts `picture_ids` stand for a picture, and which takes one
    of `side` x `side` pixels as it is: the learner's and a server's libraries may resize others
    differently."""
    return Probe(tuple(picture_ids), _TOKENS, (_picture(side),))


@cache
def _picture(side: int) -> bytes:
    """No patch of it is like another: red grows to the right, green downwards, blue towards the
    middle."""
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    away = np.hypot(x - side / 2, y - side / 2)
    channels = (x / side, y / side, 1 - away / side)
    pixels = (255 * np.stack(channels, axis=-1)).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return png.getvalue()
