"""Which option a text is, word for word. What only resembles an option is none."""

import re
from collections.abc import Mapping
from functools import lru_cache

from rewards.grading import normalise

_DRESSING = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it|sf))\s?(?=\{)|\\[()\[\]]")
_EDGES = " \t\n*_`\"'$(){}[]<>\u2018\u2019\u201c\u201d"
_MAX_CHARS = 2000
"""Of a text that is compared; an option is shorter."""


@lru_cache(1024)
def plain(text: str) -> str:
    r"""`text` in one case and one kind of space, without marks around it or `\text{}`."""
    bare = _DRESSING.sub("", text[:_MAX_CHARS]).strip(_EDGES).rstrip(".,;:!").strip(_EDGES)
    return " ".join(bare.casefold().split())


def option_of(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the only option whose text is `text`, else None.

    Compared as `plain` texts, then as numbers and phrases by `rewards.grading.normalise`
    ("45 cm" is "45", "$90^\\circ$" is "90").
    """
    if len(text) > _MAX_CHARS:
        return None
    for form in (plain, _number_or_phrase):
        wanted = form(text)
        same = [letter for letter, option in options.items() if wanted and form(option) == wanted]
        if same:
            return same[0] if len(same) == 1 else None
    return None


@lru_cache(1024)
def _number_or_phrase(text: str) -> str:
    return normalise(text)


def option_within(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the only option whose text stands in `text` as whole words, else None.

    One that is part of a longer option that also stands there does not count. Of `text` the last
    2000 characters are read.
    """
    hay = f" {' '.join(_DRESSING.sub('', text[-_MAX_CHARS:]).casefold().split())} "
    found = {}
    for letter, option in options.items():
        needle = plain(option)
        if needle and _stands_in(needle, hay):
            found[letter] = needle
    longest = [
        letter
        for letter, needle in found.items()
        if not any(needle != other and needle in other for other in found.values())
    ]
    return longest[0] if len(longest) == 1 else None


def _stands_in(needle: str, hay: str) -> bool:
    start = hay.find(needle)
    while start >= 0:
        before, after = hay[start - 1], hay[start + len(needle) : start + len(needle) + 2]
        joins_before = before.isalnum() or before in ".,-/"
        joins_after = after[:1].isalnum() or (after[:1] in ".,-/%" and after[1:].isalnum())
        if not joins_before and not joins_after:
            return True
        start = hay.find(needle, start + 1)
    return False
