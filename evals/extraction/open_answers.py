"""Short free answers (a number, a word, a phrase): which one a response ends on, and equality."""

import re
from collections import deque
from collections.abc import Sequence
from fractions import Fraction

from evals.benchmark import Extraction
from evals.extraction.boxed import last_boxed
from evals.extraction.thinking import answer_of
from rewards.grading import MAX_CHARS, normalise

_SAID = re.compile(
    r"\banswer[\s*_\"']{0,6}(?:to (?:this|the) (?:question|problem)\s)?"
    r"(?:(?:is|was|would be|should be|must be)\b\s?:?|[:=])\s{0,4}",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"(?:=|\u2248|\b(?:is|are|equals|be|was|[Ii]t['\u2019]s)\b(?:\s(?:about|approximately|the))?)\s{0,4}"
)
_TAGGED = re.compile(r"<answer>([^<]{0,1000})</answer>", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?](?:\s|$)")
_REFUSAL = re.compile(
    r"(?:cannot|can't|can\u2019t|could not|unable to|not able to|(?:im|not )possible to)"
    r" (?:be )?(?:\w+ )?(?:answer|determin|see|view|tell|identif|provid|help|assist|process|know)"
    r"|\bsorry\b|(?:don't|do not|don\u2019t) know|\bnot sure\b",
    re.IGNORECASE,
)
_EDGES = " \t\n*_`\"'\u2018\u2019\u201c\u201d"
_SHORT = 12
"""Words of a line that may be an answer as a whole."""
_ARTICLE = re.compile(r"^(?:an?|the) ")
_WORD = re.compile(r"[^\W_]+(?:\.\d+)?")
_COUNTED = re.compile(
    r"(?P<number>[-+\u2212]?[\d.,]+|[a-z]{3,9})(?:\s|\\[,; ])\s{0,3}"
    r"\\?(?P<what>[^\W\d][^\d]{0,60})",
    re.IGNORECASE,
)
_NUMERAL = re.compile(
    r"\b(?:or|and|to|than|times|hundred|thousand|[mb]illion|half|third|quarter|point|not)s?\b"
    r"|[-+*/^=<>,]",
    re.IGNORECASE,
)
_TOLERANCE = Fraction(1, 200)
_MORE_WORDS = 3
_MAX_TEXT = 4000


def read_open(text: str) -> Extraction:
    """The short answer of a whole response, and which rule read it. Thoughts are dropped.

    The last box or `<answer>` tag; what follows the last "the answer is"; what follows the last "="
    or "is" of the last sentence; a last line of at most 12 words. "X or Y" is read whole: two
    answers are none.
    """
    answer = answer_of(text)
    if answer is None:
        return Extraction(None, "unfinished thought")
    if not answer:
        return Extraction(None, "empty")
    if box := last_boxed(answer):
        return Extraction(box, "boxed")
    if tagged := deque(_TAGGED.finditer(answer), 1):
        return Extraction(tagged[0][1].strip() or None, "answer tag")
    said = deque(_SAID.finditer(answer), 1)
    if said and (value := _short(answer[said[0].end() : said[0].end() + _MAX_TEXT])):
        return Extraction(value, "answer said")
    if _REFUSAL.search(answer[-_MAX_TEXT:]):
        return Extraction(None, "refusal")
    line = answer.rsplit("\n", 1)[-1][-_MAX_TEXT:]
    sentence = [part for part in _SENTENCE.split(line) if part.strip()][-1:]
    last = sentence[0] if sentence else line
    tails = list(_TAIL.finditer(last))
    if tails and (value := _short(last[tails[-1].end() :])):
        return Extraction(value, "end of the last sentence")
    if len(line.split()) <= _SHORT and (value := _short(line, whole=True)):
        return Extraction(value, "last line")
    return Extraction(None, "no short answer")


def _short(text: str, *, whole: bool = False) -> str | None:
    """The first line of `text` up to the end of its sentence, where that is short."""
    line = text.split("\n", 1)[0]
    part = line if whole else _SENTENCE.split(line, maxsplit=1)[0]
    part = part.strip(_EDGES).rstrip(".,;:").strip(_EDGES)
    return part if part and len(part.split()) <= _SHORT else None


def same_answer(prediction: str, golds: Sequence[str]) -> bool:
    """True where the prediction is one of `golds`.

    Numbers: equal to two decimals, whatever their unit or what they count ("12.50 cm" is 12.5,
    "four bars" is 4, "1,200" is 1200).
    Phrases: equal without case and articles, or with up to three more words around the gold one
    ("the left atrium" is "left atrium"). Two numbers, or "X or Y", are not one answer.
    """
    given = normalise(prediction)
    if not given or len(prediction) > MAX_CHARS:
        return False
    counted = _counted(prediction)
    return any(
        _same(given, wanted) or (counted is not None and _near(counted, _fraction(wanted)))
        for wanted in map(normalise, golds)
    )


def _counted(text: str) -> Fraction | None:
    """The number at the head of at most three words without one: "4 bars", "12.5 ohms"."""
    match = _COUNTED.fullmatch(text.strip(_EDGES + "$"))
    if not match or _NUMERAL.search(match["what"]) or len(match["what"].split()) > _MORE_WORDS:
        return None
    return _fraction(normalise(match["number"]))


def _near(first: Fraction | None, second: Fraction | None) -> bool:
    return first is not None and second is not None and abs(first - second) < _TOLERANCE


def _same(given: str, gold: str) -> bool:
    if not gold:
        return False
    if given == gold:
        return True
    first, second = _fraction(given), _fraction(gold)
    if second is not None:
        return _near(first, second)
    if first is not None:
        return False
    given, gold = _ARTICLE.sub("", given), _ARTICLE.sub("", gold)
    if given == gold:
        return True
    words, wanted = _WORD.findall(given), _WORD.findall(gold)
    if not wanted or {"or", "not", "no"} & set(words) - set(wanted):
        return False
    spans = range(len(words) - len(wanted) + 1)
    extra = len(words) - len(wanted)
    return extra <= _MORE_WORDS and any(words[i : i + len(wanted)] == wanted for i in spans)


def _fraction(form: str) -> Fraction | None:
    try:
        return Fraction(form)
    except (ValueError, ZeroDivisionError):
        return None
