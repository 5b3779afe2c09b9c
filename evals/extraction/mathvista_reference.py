"""MathVista's own normalisation of an extracted answer, bug for bug."""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from evals.extraction.edit_distance import nearest

_LETTER = re.compile(r"\(([a-zA-Z])\)")
_MAX_NUMBER = 4000
"""Characters that are tried as a number: Python converts no longer integer."""


def quick(text: str, row: Mapping[str, Any]) -> str | None:
    """A response that is an answer as it stands, so that nobody has to extract it; else None."""
    if text == "":
        return ""
    if row["question_type"] == "multi_choice" and text in (row.get("choices") or ()):
        return text
    with suppress(ValueError):
        if row["answer_type"] == "integer":
            return str(int(_short(text)))
        if row["answer_type"] == "float":
            return str(float(_short(text)))
    return None


def normalised(extraction: str, row: Mapping[str, Any]) -> str | None:
    """The prediction that an extraction becomes; None where it is no number of the row's type.

    Choices: the first "(x)" counts; a capital letter alone; otherwise the choice at the smallest
    edit distance, the first of equals, also for "", a refusal or a letter that no option has.
    Integers are cut off ("5.7" is 5), floats rounded by Python to `precision` places.
    """
    if row["question_type"] == "multi_choice":
        return _choice(extraction.strip(), list(row.get("choices") or ()))
    try:
        if row["answer_type"] == "integer":
            return str(int(float(_short(extraction))))
        if row["answer_type"] == "float":
            return str(round(float(_short(extraction)), int(row["precision"])))
    except (ValueError, TypeError, OverflowError):
        return None
    return extraction


def _choice(extraction: str, choices: list[str]) -> str | None:
    if letter := _LETTER.search(extraction):
        extraction = letter[1].upper()
    options = [chr(ord("A") + i) for i in range(len(choices))]
    if extraction in options:
        return choices[options.index(extraction)]
    return nearest(extraction, choices)


def _short(text: str) -> str:
    if len(text) > _MAX_NUMBER:
        raise ValueError("too long for a number")
    return text
