r"""How the authors of MMMU and MMMU-Pro read responses, with its quirks. Not for scoring models.

The behaviour of `parse_multi_choice_response` and `parse_open_response` of MMMU-Benchmark/MMMU
(eval/eval_utils.py, mmmu-pro/evaluate.py), written anew; where they draw an option at random this
gives None. Their number patterns take quadratic time on long runs of digits; these match the same
and do not.
"""

import json
import re
from collections.abc import Mapping, Sequence

_STRIPPED = ",.!?;:'"
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = frozenset(":,.!?;'")

# A run of digits is entered at its head only, and never given back in part: what can follow it
# decides, and that is the same from every digit of the run.
_WITH_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?(?<!\d)\d++(?:\.\d++)?+[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:(?<!\d)\d++\.\d++|\.\d++|(?<!\d)\d++\b)(?![eE][+-]?\d+)(?![,\d])")


def choice(response: str, options: Mapping[str, str]) -> str | None:
    """The letter as MMMU reads it: "(X)", else " X ", else an option's text; the last one wins."""
    text = _padded(response)
    found, bracketed = [x for x in options if f"({x})" in text], True
    if not found:
        found, bracketed = [x for x in options if f" {x} " in text], False
    return _last(text, found, options, bracketed)


def choice_pro(response: str, options: Mapping[str, str]) -> str | None:
    """The letter as MMMU-Pro reads it.

    After the last "Answer:" the only letter that occurs anywhere ("$LETTER" has an E); else
    "(X)", "X " ("DNA " has an A), "X.", an option's text; the last one wins.
    """
    _, said, tail = response.rpartition("Answer:")
    if said and len(inside := [x for x in options if x in tail.strip()]) == 1:
        return inside[0]
    text = _padded(response)
    found, bracketed = [x for x in options if f"({x})" in text], True
    for form in ("{} ", "{}."):
        if not found:
            found, bracketed = [x for x in options if form.format(x) in text], False
    return _last(text, found, options, bracketed)


def _padded(response: str) -> str:
    for sign in _STRIPPED:
        response = response.strip(sign)
    return f" {response} "


def _last(
    text: str, letters: Sequence[str], options: Mapping[str, str], bracketed: bool
) -> str | None:
    form = "({})" if bracketed else " {} "
    places = {x: text.rfind(form.format(x)) for x in letters}
    if not letters and len(text.split()) > 5:
        low = text.lower()
        places = {x: low.rfind(o.lower()) for x, o in options.items() if o.lower() in low}
    # The first of those that stand equally far (all at -1 where a form was found glued to a word).
    return max(places, key=lambda x: places[x]) if places else None


def open_answers(response: str) -> list[str | float]:
    """All that MMMU takes for the answer to an open question: phrases and numbers."""
    keys = _key_parts(response)
    texts = [*keys, *(number for key in keys for number in _numbers(key))]
    return list(dict.fromkeys(value for text in texts for value in _normalised(text)))


def _key_parts(response: str) -> list[str]:
    whole = response.strip().strip(".").lower()
    lines = whole.split("\n")
    keys = []
    for number, line in enumerate(lines, 1):
        signs = [*_INDICATORS, "="] if number == len(lines) else _INDICATORS
        shortest = ""
        for sign in signs:
            if sign in line:
                tail = line.rpartition(sign)[2].strip()
                # An empty one is replaced by whatever comes next, as theirs is.
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in _TRIVIAL:
            keys.append(shortest)
    return keys or [whole]


def _numbers(text: str) -> list[str]:
    return [
        number
        for pattern in (_WITH_COMMAS, _SCIENTIFIC, _SIMPLE)
        for number in pattern.findall(text)
    ]


def _normalised(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        low = text.lower()
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]


def open_is_correct(found: Sequence[str | float], golds: Sequence[str]) -> bool:
    """A number equals a gold one, or a phrase contains a gold phrase ("12 and a half": "half")."""
    wanted = [value for gold in golds for value in _normalised(gold)]
    phrases = [value for value in wanted if isinstance(value, str)]
    return any(
        any(phrase in value for phrase in phrases) if isinstance(value, str) else value in wanted
        for value in found
    )


def packed(found: Sequence[str | float]) -> str:
    """The answers as one text (JSON), so that they can be a prediction."""
    return json.dumps(list(found), ensure_ascii=False)


def unpacked(prediction: str) -> list[str | float]:
    """The answers that were packed; any other text is read as a response."""
    try:
        found = json.loads(prediction)
    except (ValueError, RecursionError):
        return open_answers(prediction)
    is_list = isinstance(found, list) and all(isinstance(item, str | int | float) for item in found)
    return found if is_list else open_answers(prediction)
