"""The one policy on thoughts, before every extractor of the default mode.

A response is what follows its last `</think>`. One with a `<think>` that is never closed was cut
off while thinking: there is nothing to read in it, whatever letters it mentions. (Chat templates
may open the block themselves, so a `</think>` needs no opening tag.)
"""

OPEN, CLOSE = "<think>", "</think>"


def answer_of(text: str) -> str | None:
    """What was said after thinking; None where the thoughts never end."""
    _, closed, said = text.rpartition(CLOSE)
    if OPEN in said:
        return None
    return said.strip() if closed else text.strip()
