"""When two answers are the same, and what a set of answers votes for.

Two answers are equal where their canonical forms are: so equality is symmetric and transitive,
and a vote does not depend on the order of its ballots. Nothing is evaluated: a number is read
digit by digit, and an answer longer than `MAX_CHARS` is not an answer, so no text costs time.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 200
"""The prompts ask for one number, one word or a brief phrase."""

NOT_AN_ANSWER = frozenset({"", "-", "none", "n/a", "na", "null", "nan", "unknown"})

# fmt: off
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
          "eleven", "twelve")
# fmt: on
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_WORDS)}

_LATEX_NOISE = re.compile(r"\\(?:left|right|displaystyle|[,;:! ])|[$\u20ac\u00a3]|\\(?=[%#&_])")
_LATEX_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_UNIT = re.compile(r"(?<=\d)\s*(?:%|\u00b0|percent|degrees?|units?|px|[mck]?m|k?g)$")
_DECIMAL = r"(?:\d+|\d{1,3}(?:,\d{3})+)?(?:\.\d*)?"
_NUMBER = re.compile(rf"([+-]?)\s*({_DECIMAL})(?:\s*/\s*({_DECIMAL}))?", re.ASCII)
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_BOX = "\\boxed{"


def normalise(answer: str) -> str:
    """The canonical form of an answer; "" where it is none (empty, "n/a", over-long, ...).

    Folds case, space, quotes, brackets, LaTeX dressing and a final period. Numbers become
    reduced fractions ("0.50", "2/4" -> "1/2"); a percent sign or unit behind a number is
    dropped, since the prompts ask for none ("25%" is "25", not "1/4").
    """
    if len(answer) > MAX_CHARS:
        return ""
    text = unicodedata.normalize("NFKC", answer).casefold().replace("\u2212", "-")
    text = _LATEX_WRAPPED.sub(r"\1", _LATEX_FRACTION.sub(r"\1/\2", _LATEX_NOISE.sub("", text)))
    text = " ".join(text.split()).lstrip(" '\"`*([{").rstrip(" '\"`*)]}.,;:")
    text = _UNIT.sub("", text)
    text = _number(text) or _phrase(text)
    return "" if text in NOT_AN_ANSWER else text


def equal(first: str | None, second: str | None) -> bool:
    """True where both are answers and have one canonical form."""
    if first is None or second is None:
        return False
    canonical = normalise(first)
    return canonical != "" and canonical == normalise(second)


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
    """Canonical form of the answer with most votes; None where no ballot was valid."""
    share: float
    """c = votes of the majority / valid ballots; 0 where none was valid."""
    valid: int
    total: int
    counts: Mapping[str, int]
    """Votes by canonical form, most first."""

    @property
    def difficulty(self) -> float:
        """d = min(c, 1 - c): largest where the voters are split in half."""
        return min(self.share, 1.0 - self.share)

    def supports(self, answer: str | None) -> bool:
        """True where `answer` is the majority's."""
        return (
            answer is not None
            and self.majority is not None
            and (normalise(answer) == self.majority)
        )


def tally(answers: Sequence[str | None], *, salt: str = "") -> Votes:
    """Count answers by canonical form; what is no answer is no vote.

    A tie goes to the answer with the smallest hash of (salt, answer): independent of the order
    of the ballots and, with the question as salt, of no fixed preference (the alphabet's would
    teach a solver to answer "1" rather than "2").
    """
    counts = Counter(
        form for answer in answers if answer is not None and (form := normalise(answer))
    )
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


def _number(text: str) -> str:
    """The reduced fraction that `text` spells, else "". At most MAX_CHARS digits: cheap."""
    text = _NUMBER_WORDS.get(text, text)
    match = _NUMBER.fullmatch(text)
    if match is None or not re.search(r"\d", match[2]):
        return ""
    sign, above, below = match.groups()
    if below is not None and not re.search(r"[1-9]", below):
        return ""
    value = Fraction(_digits(above)) / Fraction(_digits(below) if below else 1)
    return str(-value if sign == "-" else value)


def _digits(decimal: str) -> str:
    """ASCII digits for `Fraction`, which wants some on both sides of a point."""
    whole, point, part = decimal.replace(",", "").partition(".")
    return f"{whole or 0}.{part or 0}" if point else whole


def _phrase(text: str) -> str:
    """A phrase with hyphens between letters as spaces and one space after commas."""
    text = re.sub(r"(?<=[^\W\d])[-_]+(?=[^\W\d])", " ", text)
    return ", ".join(part.strip() for part in text.split(","))
