"""Where the thoughts of a reply end. For the parsers of every game, before they look for anything.

A reasoning model may plan first, and its plan holds drafts of what it is asked for.
"""

_OPEN, _CLOSE = "<think>", "</think>"


def said(text: str) -> str:
    """What follows the last `</think>`; "" where a thought is opened behind it and never closed.

    Such a reply was cut off in the middle of a thought: whatever draft it holds, it says nothing.
    A chat template may open the block itself, so a `</think>` needs no opening tag. (A reply that
    was cut off in a block which the template opened has no tag at all, and can't be told from one
    without thoughts: all of it counts.)
    """
    behind = text.rpartition(_CLOSE)[2]
    return "" if _OPEN in behind else behind
