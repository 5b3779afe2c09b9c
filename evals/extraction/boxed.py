r"""What stands in `\boxed{...}`, with braces balanced or as a pattern without nesting reads it."""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

_BOX = re.compile(r"\\{1,2}boxed ?\{|\\.|[{}]", re.DOTALL)
_OPENING = "\\boxed{"


@dataclass(frozen=True, slots=True)
class Box:
    """One box in a text: text[start:end] with its opening and its brace."""

    start: int
    end: int
    content: str


def boxes(text: str) -> list[Box]:
    r"""All closed boxes, by their ends: one that holds another comes after it. One pass.

    `\{` and `\}` are no braces. A box that is never closed is none.
    """
    found: list[Box] = []
    opened: list[tuple[int, int] | None] = []  # (start, start of the content) of a box
    for mark in _BOX.finditer(text):
        sign = mark.group()
        if sign == "}":
            box = opened.pop() if opened else None
            if box:
                found.append(Box(box[0], mark.end(), text[box[1] : mark.start()].strip()))
        elif sign == "{":
            opened.append(None)
        elif len(sign) > 2:
            opened.append((mark.start(), mark.end()))
    return found


def last_boxed(text: str) -> str | None:
    """The content of the last box, braces balanced; None where there is none."""
    found = boxes(text)
    return found[-1].content if found else None


def last_boxed_naive(text: str) -> str | None:
    r"""As the pattern `\\boxed\{([^}]*)\}` reads it, to the first closing brace.

    So `\boxed{\frac{1}{2}}` is `\frac{1`. The pattern itself takes quadratic time on a text of
    openings that are never closed; this does not.
    """
    last = deque(_naive(text), 1)
    return last[0].strip() if last else None


def _naive(text: str) -> Iterator[str]:
    start = text.find(_OPENING)
    while start >= 0:
        start += len(_OPENING)
        end = text.find("}", start)
        if end < 0:
            return
        yield text[start:end]
        start = text.find(_OPENING, end + 1)
