"""What cairosvg and cairocffi work out anew for every element and letter, remembered: a quarter of
a picture's time.

Their helpers that read or encode strings are pure, and a picture calls them thousands of times with
the same few. What is drawn is the same to the bit (tests compare it with plain cairosvg). For these
versions of the two, which the project pins.
"""

import functools
import sys
from types import SimpleNamespace
from typing import Any

import cairocffi
import cairosvg.colors
import cairosvg.helpers
import cairosvg.surface
import cairosvg.url

_PURE = (
    (cairosvg.helpers, "normalize"),
    (cairosvg.helpers, "paint"),
    (cairosvg.url, "parse_url"),
    (cairosvg.colors, "color"),
    (cairocffi.fonts, "_encode_string"),
)
_ENTRIES = 1024


def remember() -> None:
    """Replace the helpers in all modules that use them. For a process that only draws."""
    packages = ("cairosvg.", "cairocffi.")
    modules = [module for name, module in sys.modules.items() if name.startswith(packages)]
    for home, name in _PURE:
        function = getattr(home, name)
        remembered = functools.lru_cache(_ENTRIES)(function)
        for module in modules:
            if getattr(module, name, None) is function:
                setattr(module, name, remembered)
    # The module copies the cursor of a text, and nothing else: lists and tuples of numbers.
    cairosvg.surface.copy = SimpleNamespace(deepcopy=_copied)
    # Asked for after each call of cairo; as a rule there is nothing to say.
    cairocffi.Context._check_status = _check_status


def _copied(cursor: tuple[Any, Any, float]) -> tuple[Any, Any, float]:
    position, shift, width = cursor
    return position[:], shift[:], width


_status = cairocffi.cairo.cairo_status


def _check_status(context: Any) -> None:
    if status := _status(context._pointer):
        cairocffi._check_status(status)
