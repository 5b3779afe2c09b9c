r"""Numbers as people write them: "$1,234.50", "57 %", "3.5 million", "\frac{3}{4}", "\u22125 cm".

Values are exact fractions, so that a tolerance has the same edge for every number. Each text is
looked at once, from a bounded window.
"""

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from evals.benchmark import Extraction
from evals.extraction.open_answers import read_open
from evals.extraction.thinking import answer_of
from rewards.grading import normalise

_MAX_SENTENCE = 2000
MAX_CHARS = 200
"""A longer text is not one number."""

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f", " "),
    }
)
_DRESSING = re.compile(
    r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it|sf)|mbox)\s?\{([^{}]{0,80})\}"
    r"|\\(?=[%$])|\\[,;:! ()\[\]]|(?<=\d)\{,\}(?=\d)"
)
_FRONT = re.compile(
    r"(?:[\s*_`\"'$\u20ac\u00a3\u00a5\u20b9~\u2248=(\[]|\\approx|us(?=\s?\$)|usd"
    r"|(?:about|approximately|approx\.?|around|roughly|nearly|almost|exactly|only"
    r"|therefore|thus|hence|simply|just)\b){0,12}",
    re.IGNORECASE,
)
_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"(-|\+)?\s?[$\u20ac\u00a3\u00a5\u20b9]?\s?({_DECIMAL})(?:e([+-]?\d{{1,2}}))?(?![\d.]\d)",
    re.ASCII,
)
_EACH = re.compile(rf"(?<![\w.,])-?{_DECIMAL}(?![\w]|[.,]\d)", re.ASCII)
_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "k": 10**3,
    "million": 10**6,
    "mn": 10**6,
    "m": 10**6,
    "billion": 10**9,
    "bn": 10**9,
    "b": 10**9,
    "trillion": 10**12,
}
_ABBREVIATED = 2
"""Letters of the longest abbreviation of a scale ("bn")."""
_MARK = re.compile(
    r"\s?(?:(%|percent(?:age points?)?\b|per cent\b)"
    r"|(hundred|thousand|million|billion|trillion|mn|bn|[kmb])s?\b)",
    re.IGNORECASE,
)
# What makes a range, a ratio, a date, a list or a formula of one number.
_GOES_ON = re.compile(
    r"\s?(?:[-+*/^:;&~\u00d7=<>!\d]|,\s?\S|\\[a-z]|\(\S*\d)"
    r"|\s?(?:or|and|to|through|vs|versus|times|x|out of)\b",
    re.IGNORECASE,
)
_OTHER = re.compile(r"\bor\b", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?]\s")
_YES_OR_NO = re.compile(r"\W{0,4}(yes|no)\b\W{0,4}(?:[,;:\u2013\u2014-]|$)", re.IGNORECASE)
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number, and what stands behind it."""

    value: Fraction
    """As it is written: 57 for "57 %", 3.5 for "3.5 million"."""
    scale: Fraction = Fraction(1)
    """1/100 for a percent sign, 10**6 for "million"."""
    is_word: bool = False
    """The scale is a whole word: "5 m" may be metres, and "5 million" may not."""

    @property
    def amount(self) -> Fraction:
        """The value with the words of scale: 3500000 for "3.5 million", 57 for "57 %"."""
        return self.value * self.scale if self.is_word else self.value


def quantity_of(text: str) -> Quantity | None:
    """The number that `text` is or begins with, units behind it left out.

    None for a range, a ratio, a list, alternatives ("3 or 4"), and what only contains a number.
    """
    if len(text) > MAX_CHARS:
        return None
    plain = _DRESSING.sub(lambda match: match[1] or "", text.translate(_SIGNS)).strip()
    front = _FRONT.match(plain)
    start = front.end() if front else 0
    number = _NUMBER.match(plain, start)
    if number is None:
        return _spelled(text)
    rest = plain[number.end() :].rstrip(" .*_`\"'$)]}")
    mark = _MARK.match(rest)
    scale, is_word = Fraction(1), False
    if mark:
        scale = Fraction(1, 100) if mark[1] else Fraction(_SCALES[mark[2].lower()])
        is_word = not mark[1] and len(mark[2]) > _ABBREVIATED
        rest = rest[mark.end() :]
    elif rest and _LETTER.match(rest) and rest.split()[0].lower() not in ("th", "st", "nd", "rd"):
        # "5G" and "3D" are names; "5cm" has a unit that normalise knows.
        return _spelled(text)
    if _GOES_ON.match(rest) or _OTHER.search(rest):
        return _spelled(text)
    return Quantity(_value(number), scale, is_word)


def only_number(text: str) -> Quantity | None:
    """The one number that stands in a short text, else None."""
    if len(text) > MAX_CHARS or _OTHER.search(text):
        return None
    plain = text.translate(_SIGNS)
    found = list(_EACH.finditer(plain))
    if len(found) != 1:
        return None
    return quantity_of(plain[found[0].start() :])


def same_quantity(given: Quantity, wanted: Quantity, tolerance: Fraction) -> bool:
    """True within `tolerance` of the wanted one, relatively; zero equals zero only.

    Both with the same mark, or none: as written. Otherwise as written, or with the marks' value
    ("57 %" is 57, and it is 0.57).
    """
    if given.scale == wanted.scale:
        pairs = [(given.value, wanted.value)]
    else:
        pairs = [(given.value * given.scale, wanted.value * wanted.scale)]
        if 1 in (given.scale, wanted.scale):
            pairs.append((given.value, wanted.value))
    return any(abs(first - second) <= tolerance * abs(second) for first, second in pairs)


def read_short(text: str) -> Extraction:
    """As `read_open`, and two endings more: "No, it is not.", and a long sentence's last number."""
    found = read_open(text)
    line = (answer_of(text) or "").rsplit("\n", 1)[-1][-_MAX_SENTENCE:].strip()
    if found.path in ("end of the last sentence", "last line", "no short answer"):
        sentence = _SENTENCE.split(line.rstrip(".!* "))[-1]
        if said := _YES_OR_NO.match(sentence):
            return Extraction(said[1], "yes or no")
    elif found.path == "answer said" and (said := _YES_OR_NO.match(found.value or "")):
        return Extraction(said[1], found.path)
    if found.path == "no short answer":
        numbers = deque(_EACH.finditer(line.translate(_SIGNS)), 1)
        if numbers:
            return Extraction(numbers[0][0], "last number")
    return found


def decimal(value: Fraction) -> str:
    """A fraction as a plain decimal where that ends within 12 places, else "a/b"."""
    try:
        return _decimal(value)
    except ValueError:  # Python writes no more than some thousand digits in tens
        return f"{value.numerator:#x}/{value.denominator:#x}"


def _decimal(value: Fraction) -> str:
    """Raises ValueError for integers that are too long."""
    if value.denominator == 1:
        return str(value.numerator)
    for places in range(1, 13):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
            sign = "-" if value < 0 else ""
            return f"{sign}{digits[:-places]}.{digits[-places:]}"
    return str(value)


def _value(match: re.Match[str]) -> Fraction:
    digits = match[2].replace(",", "")
    value = Fraction(f"0{digits}0" if "." in digits else digits) * Fraction(10) ** int(
        match[3] or 0
    )
    return -value if match[1] == "-" else value


def _spelled(text: str) -> Quantity | None:
    """What `rewards.grading` reads as a number: words, fractions, "2 1/2", known units."""
    try:
        return Quantity(Fraction(normalise(text)))
    except (ValueError, ZeroDivisionError):
        return None
