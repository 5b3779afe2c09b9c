"""What cairosvg works out anew for every element, remembered: a tenth of a picture's time.

Its helpers that read strings are pure, and a picture calls them thousands of times with the same
few. What is drawn is the same to the bit (tests compare it with plain cairosvg).
"""

import functools
import sys
from types import SimpleNamespace
from typing import Any

import cairosvg.colors
import cairosvg.helpers
import cairosvg.surface
import cairosvg.url

_PURE = (
    (cairosvg.helpers, "normalize"),
    (cairosvg.helpers, "paint"),
    (cairosvg.url, "parse_url"),
    (cairosvg.colors, "color"),
)
_ENTRIES = 1024


def remember() -> None:
    """Replace the pure helpers in all of cairosvg's modules. For a process that only draws."""
    for home, name in _PURE:
        function = getattr(home, name)
        remembered = functools.lru_cache(_ENTRIES)(function)
        for module in [m for key, m in sys.modules.items() if key.startswith("cairosvg.")]:
            if getattr(module, name, None) is function:
                setattr(module, name, remembered)
    # The module copies the cursor of a text, and nothing else: lists and tuples of numbers.
    cairosvg.surface.copy = SimpleNamespace(deepcopy=_copied)


def _copied(cursor: tuple[Any, Any, float]) -> tuple[Any, Any, float]:
    position, shift, width = cursor
    return position[:], shift[:], width
