"""Why there is no picture: a closed set, each with a sentence for people."""

from typing import Literal, get_args

from engine.types import Invalid

Reason = Literal[
    "not_svg",
    "too_large",
    "forbidden",
    "malformed",
    "bad_size",
    "too_costly",
    "timeout",
    "memory",
    "crashed",
    "blank",
    "near_blank",
]
REASONS: tuple[Reason, ...] = get_args(Reason)

SENTENCES: dict[str, str] = {
    "not_svg": "The text holds no <svg> element.",
    "too_large": "The document has more bytes, elements or levels than are drawn.",
    "forbidden": "The document asks for something outside of itself.",
    "malformed": "The document is not well-formed, or the renderer does not understand it.",
    "bad_size": "Width, height and viewBox give no usable size.",
    "too_costly": "Drawing it would take far more work than a picture is worth.",
    "timeout": "Drawing took longer than a picture may take.",
    "memory": "Drawing took more memory than a picture may take.",
    "crashed": "The renderer broke down over the document.",
    "blank": "Nothing can be seen in the picture.",
    "near_blank": "All that can be seen is a speck.",
}


def invalid(reason: Reason, detail: str = "") -> Invalid:
    """An `Invalid` with a reason of the closed set."""
    return Invalid(reason, detail)
