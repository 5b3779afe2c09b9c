"""Where pictures stand in a question: messages of text and images from texts with tags."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.types import Message
from evals.benchmark import Question, Row

_TAG = re.compile(r"<image\s{1,4}(\d{1,2})>")


def user(parts: Sequence[Mapping[str, Any]], *, system: str | None = None) -> list[Message]:
    """The messages of one question; empty texts are left out."""
    content = [dict(part) for part in parts if part["type"] != "text" or part["text"]]
    head = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return [*head, {"role": "user", "content": content}]


def images_first(row: Row, text: str, *, system: str | None = None) -> Question:
    """All pictures of the row in their order, then the text. Raises ValueError without any."""
    images = list(row.images.values())
    if not images:
        raise ValueError("the row has no picture")
    parts = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
    return Question(messages=user(parts, system=system), images=images)


def numbered(row: Row, text: str) -> Question:
    """A picture `image_k` of the row for each `<image k>` in the text, where the tag stands.

    A tag that is repeated shows its picture again; the numbers may come in any order. Where no
    tag is, all pictures come first; a picture that no tag names is not shown. Raises ValueError
    where a tag has no picture, or there is no picture at all.
    """
    if not _TAG.search(text):
        return images_first(row, text)
    parts: list[dict[str, Any]] = []
    images: list[bytes] = []
    start = 0
    for tag in _TAG.finditer(text):
        image = row.images.get(f"image_{int(tag[1])}")
        if image is None:
            raise ValueError(f"{tag[0]} is in the text, and the row has no image_{int(tag[1])}")
        parts += [{"type": "text", "text": text[start : tag.start()]}, {"type": "image"}]
        images.append(image)
        start = tag.end()
    parts.append({"type": "text", "text": text[start:]})
    return Question(messages=user(parts), images=images)
