"""Model output as HTML: hostile, so each value goes through `escape`."""

import json
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

Notes = Mapping[str, Any]
ImageSource = Callable[[str], str | None]
"""The `src` of a picture, given its content hash; None where it is not kept."""
MAX_TEXT = 1500


def number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else text(value)


def text(value: Any) -> str:
    """Escaped, and cut at MAX_TEXT characters."""
    full = value if isinstance(value, str) else "–" if value is None else str(value)
    return escape(full[:MAX_TEXT] + ("…" if len(full) > MAX_TEXT else ""))


def pre(value: Any) -> str:
    full = value if isinstance(value, str) else json.dumps(value, indent=1, default=str)
    return f"<pre>{text(full)}</pre>"


def picture(notes: Notes, key: str, source: ImageSource, alt: str) -> str:
    """The PNG that a game's note `key` names; "" where it is not kept."""
    reference = notes.get(key)
    src = source(reference["png"]) if isinstance(reference, dict) else None
    return f'<img alt="{escape(alt)}" loading="lazy" src="{escape(src)}">' if src else ""
