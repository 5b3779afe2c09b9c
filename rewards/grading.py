r"""When two answers are the same, and what a set of answers votes for.

Two answers are equal where their canonical forms are: so equality is symmetric and transitive,
and a vote does not depend on the order of its ballots. A form is found in two stages:

    normalise   reads text: numbers digit by digit, units, words, lists. Nothing is evaluated.
    canonical   the same, and formulas ("\sqrt{8}", "(x+1)^2") by algebra (`rewards.symbolic`).

An answer longer than `MAX_CHARS` is none, and what is costly to evaluate stays a phrase, so no
text costs time. Where even the libraries are not to be trusted, `rewards.grader` runs this in a
process of its own.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from rewards.symbolic import canonical_expression, latex

MAX_CHARS = 200
"""The prompts ask for one number, one word or a brief phrase."""

NOT_AN_ANSWER = frozenset({"", "-", "none", "n/a", "na", "null", "nan", "unknown"})

_CACHED = 20_000
_MAX_POWER_OF_TEN = 30
"""Of scientific notation; a number that is larger stays a phrase."""

# fmt: off
_UP_TO_19 = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
             "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
             "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5}
_NUMBER_WORDS = {
    **{word: str(value) for value, word in enumerate(_UP_TO_19)},
    **{ten: str(10 * i) for i, ten in enumerate(_TENS, 2)},
    **{
        f"{ten}{mark}{_UP_TO_19[one]}": str(10 * i + one)
        for i, ten in enumerate(_TENS, 2)
        for one in range(1, 10)
        for mark in " -"
    },
    **{f"{one} {part}": f"1/{n}" for part, n in _PARTS.items() for one in ("one", "a")},
    **{"half": "1/2", "two thirds": "2/3", "three quarters": "3/4", "three fourths": "3/4"},
    **{"hundred": "100", "one hundred": "100", "a hundred": "100", "one thousand": "1000"},
}
_WORDS = {"yeah": "yes", "yep": "yes", "nope": "no"}

_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215f]")  # one sign that is a fraction
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")
_THIN_SPACE = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **{"\u2044": "/", "\u00f7": "/", "\u00d7": "\\times ", "\u22c5": "\\cdot "},
        **{"\u00b7": "\\cdot ", "\u221a": "\\sqrt ", "\u03c0": "\\pi "},
    }
)
_LATEX_NOISE = re.compile(
    r"\\(?:left|right|displaystyle)(?![a-z])|\\[,;:! ()\[\]]|[$\u20ac\u00a3\u00a5\u20b9]"
    r"|\\(?=[%#&_])"
)
_LATEX_WRAPPED = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:rm|bf|it|sf)|mbox|emph|operatorname|boxed)"
    r"\s*\{([^{}]*)\}"
)
_LATEX_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_LATEX_DEGREE = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree|\u00ba")

_SIZE = (
    r"(?:square |sq\.? ?|cubic )?(?:units?|[mck]?m|ft|inch(?:es)?|foot|feet|yards?|yd|miles?|mi"
    r"|(?:centi|milli|kilo)?met(?:er|re)s?)(?:\^\{?[23]\}?)?"
)
_TIME = r"(?:m?s|sec(?:ond)?s?|min(?:ute)?s?|h|hrs?|hours?|days?|weeks?|months?|years?|yrs?)"
_UNITS = (
    r"(?:\s*(?:%|\u00b0(?: ?[cf])?|percent|deg(?:rees?)?(?: (?:celsius|fahrenheit))?|radians?"
    r"|px|pixels?|m?k?g|lbs?|pounds?|oz|ounces?|(?:kilo|milli)?grams?|m?l|(?:milli)?lit(?:er|re)s?"
    r"|dollars?|cents?|euros?|usd|eur|[km]?w|volts?|mph|km/?h"
    rf"|{_SIZE}(?:\s*/\s*{_TIME})?)|\s+in|(?:\s+|(?<=\d)(?=[dhmwy]\w)){_TIME})$"
)
_UNIT = re.compile(rf"(?<=[\d.]){_UNITS}")
_UNIT_OF_FORMULA = re.compile(rf"(?:(?<=[\d)}}])|(?<=pi))(?=[\s%\u00b0]){_UNITS}")

_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(rf"([+-]?)\s*({_DECIMAL})(?:\s*/\s*({_DECIMAL}))?", re.ASCII)
_MIXED = re.compile(r"([+-]?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)", re.ASCII)
_SCIENTIFIC = re.compile(
    rf"([+-]?)\s*({_DECIMAL})(?:e|\s*(?:\\times|\\cdot|[*x])\s*10\s*(?:\^|\*\*)\s*[{{(]?)"
    r"\s*([+-]?\d{1,3})[})]?",
    re.ASCII,
)
_THOUSANDS = re.compile(r"(?<![\d.,(\[])\d{1,3}(?:,\d{3})+(?!,?\d)", re.ASCII)

_PREFACE = re.compile(r"(?:the )?(?:final |correct )?answer ?(?:is ?:?|[:=]) ?(?=\S)")
_OPTION = re.compile(r"(?:option|choice) [(\[]?([a-z\d])[)\]]?")
_MARK = re.compile(r"[(\[{)\]}]| ?[,;] ?(?:(?:and|&) )?| (?:and|&) ")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_QUOTES = " '\"`*\u2018\u2019\u201c\u201d"
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_BOX = "\\boxed{"

Reader = Callable[[str], str | None]
"""From a formula to its form; None where it is none."""
Form = Callable[[str], str]
"""From an answer to its canonical form; "" where it is none."""


def normalise(answer: str) -> str:
    r"""What an answer says as text; "" where it is none (empty, "n/a", over-long, ...).

    Folds case, space, quotes, brackets, dashes, LaTeX dressing, a final period, "answer:" and
    "option" in front. Numbers (words up to ninety-nine, thousands with commas, "2 1/2", "1.5e3")
    become reduced fractions ("0.50", "2/4" -> "1/2"); currency signs and a percent sign or unit
    behind a number are dropped, since the prompts ask for none ("25%" is "25", not "1/4"; "5 cm"
    is "5"). Of a list each item is normalised ("red and 1.0" -> "red, 1"), in its order; only
    what is written as a set, "\{2, 1\}", has none. Formulas stay phrases.
    """
    return _form(answer, lambda formula: None)


def canonical(answer: str) -> str:
    """The canonical form of an answer: `normalise`, with each formula in it in canonical form."""
    return _canonical(answer) if len(answer) <= MAX_CHARS else ""


@lru_cache(_CACHED)
def _canonical(answer: str) -> str:
    return _form(answer, canonical_expression)


def decided(answer: str) -> str | None:
    """The canonical form where it takes no algebra to find it, else None. Microseconds."""
    formulas = []

    def note(text: str) -> None:
        if latex(text) is not None:
            formulas.append(text)

    form = _form(answer, note)
    return None if formulas else form


def equal(first: str | None, second: str | None) -> bool:
    """True where both are answers and have one canonical form."""
    if first is None or second is None:
        return False
    form = canonical(first)
    return form != "" and form == canonical(second)


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` of `text` holds, braces balanced; None where there is none."""
    start = text.rfind(_BOX)
    if start < 0:
        return None
    start += len(_BOX)
    depth = 1
    for mark in _BRACES.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if depth == 0:
            return text[start : mark.start()].strip()
    return None


@dataclass(frozen=True, slots=True)
class Votes:
    """The outcome of one vote over answers to one question."""

    majority: str | None
    """Canonical form of the answer with most votes; None where the vote has no outcome."""
    share: float
    """c = votes of the majority / valid ballots; 0 where the vote has no outcome."""
    valid: int
    total: int
    counts: Mapping[str, int]
    """Votes by canonical form, most first."""

    @property
    def difficulty(self) -> float:
        """d = min(c, 1 - c): largest where the voters are split in half."""
        return min(self.share, 1.0 - self.share)

    def has_quorum(self, least: float) -> bool:
        """True where at least so large a share of the ballots was valid."""
        return self.valid >= least * self.total

    def with_quorum(self, least: float) -> "Votes":
        """This vote; without a quorum the same ballots, of which nothing comes: no majority, c = 0.

        Shares are of the valid ballots alone. Two of eight that differ would else be a vote split
        in half, and one of five a vote of one mind.
        """
        return self if self.has_quorum(least) else replace(self, majority=None, share=0.0)

    def supports(self, answer: str | None, form: Form = canonical) -> bool:
        """True where `answer` is the majority's. `form` is that of the vote."""
        return answer is not None and self.majority is not None and form(answer) == self.majority


def tally(answers: Sequence[str | None], *, salt: str = "", form: Form = canonical) -> Votes:
    """Count answers by canonical form (as `form` tells it); what is no answer is no vote.

    A tie goes to the answer with the smallest hash of (salt, answer): independent of the order
    of the ballots and, with the question as salt, of no fixed preference (the alphabet's would
    teach a solver to answer "1" rather than "2").
    """
    forms = (form(answer) for answer in answers if answer is not None)
    counts = Counter(found for found in forms if found)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], _lot(salt, item[0])))
    valid = counts.total()
    return Votes(
        majority=ranked[0][0] if ranked else None,
        share=ranked[0][1] / valid if ranked else 0.0,
        valid=valid,
        total=len(answers),
        counts=dict(ranked),
    )


def _lot(salt: str, answer: str) -> bytes:
    text = f"{salt}\0{answer}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).digest()


def _form(answer: str, read: Reader) -> str:
    if len(answer) > MAX_CHARS:
        return ""
    if number := _number(answer):  # most answers
        return number
    text = _cleaned(answer)
    if len(text) > 2 * MAX_CHARS:  # one character can stand for eighteen
        return ""
    text = _PREFACE.sub("", text, count=1) if _PREFACE.match(text) else text
    option = _OPTION.fullmatch(text)
    form = option[1] if option else _list(text, read)
    return "" if form in NOT_AN_ANSWER else form


def _cleaned(answer: str) -> str:
    """One case, one kind of space, dash and sign, and no LaTeX that is only dressing."""
    text = _VULGAR.sub(r" \g<0>", answer)  # NFKC would make 11/2 of one and a half
    text = _RAISED.sub(lambda match: f"^{{{match[0]}}}", text)  # and 52 of five squared
    text = _LATEX_DEGREE.sub("\u00b0", _THIN_SPACE.sub("", text))
    text = unicodedata.normalize("NFKC", text).casefold().translate(_SIGNS)
    text = _LATEX_NOISE.sub("", text.replace("{,}", ","))
    for _ in range(3):  # one in the other
        text = _LATEX_WRAPPED.sub(r"\1", text)
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    return " ".join(text.split()).lstrip(_QUOTES).rstrip(f"{_QUOTES}.,;:")


def _list(text: str, read: Reader) -> str:
    """The form of a list, of a set, or of the one item that `text` is."""
    if text.startswith("\\{") and text.endswith("\\}"):
        forms = sorted({_nested(item, read) for item in _items(text[2:-2])})
        return forms[0] if len(forms) == 1 else f"\\{{{', '.join(forms)}\\}}"
    inner = _unwrapped(text)
    items = _items(inner)
    if len(items) > 1:
        return ", ".join(_nested(item, read) for item in items)
    if f"{text[:1]}{text[-1:]}" in ("[)", "(]") and len(items := _items(text[1:-1])) == 2:
        return f"{text[0]}{', '.join(_nested(item, read) for item in items)}{text[-1]}"
    return _item(text, read)


def _nested(text: str, read: Reader) -> str:
    """The form of an item: a list in a list keeps its brackets."""
    form = _list(text, read)
    return f"({form})" if len(_items(_unwrapped(text))) > 1 else form


def _items(text: str) -> list[str]:
    """`text` split at its commas, semicolons and "and", but not inside brackets."""
    items, start, depth = [], 0, 0
    for mark in _MARK.finditer(text):
        if mark[0] in _CLOSING:
            depth += 1
        elif mark[0] in _CLOSING.values():
            depth = max(0, depth - 1)
        elif depth == 0:
            items.append(text[start : mark.start()])
            start = mark.end()
    return [*items, text[start:]]


def _unwrapped(text: str) -> str:
    """`text` without brackets around the whole of it."""
    text = text.strip()
    while text and _CLOSING.get(text[0]) == text[-1]:
        depth = 1
        for mark in text[1:-1]:
            depth += (mark in _CLOSING) - (mark in _CLOSING.values())
            if depth == 0:
                return text
        text = text[1:-1].strip()
    return text


def _item(text: str, read: Reader) -> str:
    """The form of a number, a formula, an equation or a phrase."""
    bare = _LATEX_FRACTION.sub(_fraction, text)
    bare = bare.strip().lstrip(f"{_QUOTES}([{{").rstrip(f"{_QUOTES})]}}.,;:")
    bare = _UNIT.sub("", bare)
    if form := _number(bare) or read(_UNIT_OF_FORMULA.sub("", text)):
        return form
    sides = text.split("=")
    if len(sides) == 2 and all(map(str.strip, sides)):
        return " = ".join(_item(side.strip(), read) for side in sides)
    return _phrase(bare)


def _fraction(match: re.Match[str]) -> str:
    return f" {match[1] or match[2] or ''}/{match[3] or match[4] or ''} "


def _number(text: str) -> str:
    """The reduced fraction that `text` spells, else "". At most MAX_CHARS digits: cheap."""
    text = _NUMBER_WORDS.get(text, text)
    if match := _NUMBER.fullmatch(text):
        sign, above, below = match.groups("1")
        value = _value(above, below)
    elif match := _MIXED.fullmatch(text):
        sign, whole, above, below = match.groups()
        part = _value(above, below)
        value = None if part is None else Fraction(whole) + part
    elif (match := _SCIENTIFIC.fullmatch(text)) and abs(int(match[3])) <= _MAX_POWER_OF_TEN:
        sign, decimal, power = match.groups()
        value = Fraction(f"0{decimal}0" if "." in decimal else decimal) * Fraction(10) ** int(power)
    else:
        return ""
    if value is None:
        return ""
    return str(-value if sign == "-" else value)


def _value(above: str, below: str) -> Fraction | None:
    """The fraction of two decimals; None where it divides by zero."""
    first, second = (Fraction(f"0{part}0" if "." in part else part) for part in (above, below))
    return first / second if second else None


def _phrase(text: str) -> str:
    """A phrase with hyphens between letters as spaces and one space after commas."""
    text = re.sub(r"(?<=[^\W\d])[-_]+(?=[^\W\d])", " ", text)
    text = re.sub(r"(?<=\d) ?: ?(?=\d)", ":", text)
    text = ", ".join(part.strip() for part in " ".join(text.split()).split(","))
    return _WORDS.get(text, text)
