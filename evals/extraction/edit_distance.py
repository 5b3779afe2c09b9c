"""How many characters have to be changed to make one text of another (Levenshtein)."""

from collections.abc import Sequence

_MAX_CHARS = 50_000


def nearest(text: str, choices: Sequence[str]) -> str | None:
    """The choice nearest to `text`, the first of those; None without choices."""
    cut = text[:_MAX_CHARS]
    return min(choices, key=lambda choice: distance(cut, choice), default=None)


def distance(first: str, second: str) -> int:
    """Edit distance of two texts, in steps of the longer one's length (Myers' bit vectors)."""
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    if not shorter:
        return len(longer)
    places: dict[str, int] = {}
    for i, character in enumerate(shorter):
        places[character] = places.get(character, 0) | (1 << i)
    ones = (1 << len(shorter)) - 1
    last = 1 << (len(shorter) - 1)
    plus, minus, score = ones, 0, len(shorter)
    for character in longer:
        equal = places.get(character, 0)
        vertical = equal | minus
        horizontal = (((equal & plus) + plus) ^ plus) | equal
        raised = minus | ~(horizontal | plus)
        lowered = plus & horizontal
        score += bool(raised & last) - bool(lowered & last)
        raised = (raised << 1) | 1
        lowered <<= 1
        plus = (lowered | ~(vertical | raised)) & ones
        minus = raised & vertical & ones
    return score
