r"""When a mathematical answer is the gold one: in another spelling, or as a decimal of it.

Equal are answers of one canonical form (`rewards.grading`: algebra behind guards), and numbers
that agree to two decimals and within 2 % ("6.28" is 2\pi; MATH-V's own two decimals alone make
0.004 equal to 0). Units and a name in front ("x = ") are left out; words of scale multiply
("5 thousand" is 5000). Nothing is evaluated but by readers of this project, so that no text costs
time.
"""

import re

from evals.extraction.formula_value import Number, value_of
from evals.extraction.numbers import quantity_of
from rewards.grading import MAX_CHARS, equal

ABSOLUTE = 0.005
RELATIVE = 0.02
_ROUNDING = 1e-9
"""Of floats; an answer that is rounded to two decimals is off by exactly ABSOLUTE at most."""

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **{"\u221a": "\\sqrt ", "\u03c0": "\\pi ", "\u00d7": "\\times ", "\u00f7": "\\div "},
        **{"\u00b0": "", "\u00b7": "\\cdot ", "\u00b2": "^2", "\u00b3": "^3"},
    }
)
_DRESSING = re.compile(
    r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[,;:!()\[\]]"
    r"|\s?\^\s?\{?\s?\\circ\s?\}?|\\degree|\\?\$|[*`]"
)
_UNIT = re.compile(
    r"\s?\\(?:text|mathrm|mbox|rm)\s?\{[^{}]{0,40}\}(?:\s?\^\s?\{?[23]\}?)?[\s.]{0,3}$"
    r"|(?<=[\d)}])\s?(?:[ckm]?m|units?|degrees?|feet|ft|in|inches|hours?|minutes?|seconds?|s)"
    r"(?:\s?\^\s?\{?[23]\}?)?[\s.]{0,3}$"
)
_NAME = re.compile(
    r"^\s?(?:\\?[a-zA-Z]{1,8}(?:_\{?\w{1,4}\}?)?|\\angle\s?[A-Z]{1,3}|[A-Z]{1,3}|[a-z]\([a-z]\))\s?(?:=|\\approx|\u2248)\s?"
)
_SHORT = re.compile(r"\\([dt]?frac|sqrt)\s?(?:(\d)(\d)?|(?=[a-zA-Z(\\]))")
_WRAPPED = re.compile(r"^\\(?:text(?:bf|it)?|math(?:rm|bf))\s?\{([^{}]*)\}$")


def same_answer(given: str, gold: str) -> bool:
    """True where both are answers and mean the same."""
    if max(len(given), len(gold)) > MAX_CHARS:
        return False
    if equal(given, gold):
        return True
    bare_given, bare_gold = bare(given), bare(gold)
    if equal(bare_given, bare_gold):
        return True
    first, second = number_of(bare_given), number_of(bare_gold)
    return first is not None and second is not None and is_close(first, second)


def is_close(given: Number, gold: Number) -> bool:
    """To two decimals, and within 2 % of the gold one."""
    try:
        distance = abs(given - gold)
        return distance <= min(ABSOLUTE, RELATIVE * abs(gold)) + _ROUNDING * (gold != 0)
    except OverflowError:
        return given == gold


def number_of(text: str) -> Number | None:
    """The value of a number, a fraction or a formula without variables."""
    quantity = quantity_of(text)
    if quantity is not None:
        return float(quantity.amount)
    value = value_of(_braced(text))
    return value if value is None or isinstance(value, float) else float_or_int(value)


def float_or_int(value: int) -> Number:
    """A float where that can hold it."""
    return float(value) if value.bit_length() < 1000 else value


def bare(text: str) -> str:
    """`text` without dollar signs, degrees, the unit behind it and the name in front of it."""
    text = _DRESSING.sub("", text.translate(_SIGNS)).strip().rstrip(".").strip()
    if wrapped := _WRAPPED.match(text):
        text = wrapped[1].strip()
    text = _UNIT.sub("", text).strip()
    return _NAME.sub("", text, count=1).strip()


def _braced(text: str) -> str:
    r"""`\frac12` and `\sqrt2` with their braces."""

    def braced(match: re.Match[str]) -> str:
        name, first, second = match.groups()
        if first is None:
            return match[0]
        if name == "sqrt":
            return f"\\sqrt{{{first}{second or ''}}}"
        return f"\\frac{{{first}}}{{{second}}}" if second else match[0]

    return _SHORT.sub(braced, text)
