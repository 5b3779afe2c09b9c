r"""Yes or no: what a response ends on, and how VLMEvalKit reads one.

Our rule, in this order: the last of `\boxed{Yes}`, "Answer: Yes", "the answer is yes", a last line
of only "Yes"; a response that begins with "Yes" or "No" as a word of its own ("No, there is a
gap"); a text where one of the words is said and the other is not, "no" before a noun ("no
evidence") and a negated "yes" not counting. "Yes or no" is none, nor are two last answers that
differ.
"""

import re
from collections import deque

from evals.benchmark import Extraction
from evals.extraction.boxed import boxes
from evals.extraction.thinking import answer_of

YES, NO = "Yes", "No"

_WORDS = {
    **dict.fromkeys(("yes", "yeah", "yep", "yup", "true", "\u662f", "\u662f\u7684"), YES),
    **dict.fromkeys(("no", "nope", "nah", "false", "\u5426", "\u4e0d\u662f"), NO),
}
_MARK = r"[\s*_`\"'$(\[{<\u2018\u201c]{0,8}(?:\\text\{|\\boxed\{)?"
_ENDS = r"(?=\s{0,2}(?:$|[.,;:!?)\]}*_`\"'$\u2019\u201d\u3002\uff0c\u2026\n<]|[-\u2013\u2014]))"
_SAID = re.compile(
    r"\b(?:answer|verdict|conclusion)[\s*_\"']{0,6}(?:(?:is|was|would be|should be|must be)\b\s?:?"
    rf"|[:=\uff1a])?{_MARK}(?:simply |clearly |therefore |a )?{_MARK}"
    r"(?P<word>yes|no|true|false)\b(?!\s?(?:or|and|/)\s?(?:no|yes)\b)(?!\s(?:one|such|longer)\b)",
    re.IGNORECASE,
)
_FIRST = re.compile(
    rf"{_MARK}(?P<word>yes|no|yeah|yep|yup|nope|nah|true|false)\b{_ENDS}", re.IGNORECASE
)
_EITHER = re.compile(
    r"\byes\b\W{0,3}(?:(?:or|and)\b\W{0,3})?\bno\b|\bno\b\W{0,3}(?:or|and)\b\W{0,3}\byes\b"
)
_YES = re.compile(r"(?<![\w-])yes(?![\w-])")
_NOT_YES = re.compile(r"(?:\bnot|n't|n\u2019t|\bneither|\bthan|\binstead of)\W{1,3}(?:a\s)?$")
_NO = re.compile(rf"(?<![\w-])no{_ENDS}")
_EDGES = " \t\n*_`\"'$(){}[]<>.,;:!?\u2018\u2019\u201c\u201d\u3002\uff0c\uff01\u2026"
_TAIL = 2000


def read_yes_no(text: str) -> Extraction:
    """ "Yes", "No" or None, and which rule read it. Thoughts are dropped."""
    answer = answer_of(text)
    if answer is None:
        return Extraction(None, "unfinished thought")
    if not answer:
        return Extraction(None, "empty")
    said = _said(answer)
    if said:
        last = said[-1]
        beside = {word for end, word in said if end >= last[0] - 12}
        if len(beside) > 1:
            return Extraction(None, "contradiction")
        return Extraction(last[1], "answer said")
    if _EITHER.search(answer[:60].lower()):
        return Extraction(None, "contradiction")
    if first := _FIRST.match(answer):
        return Extraction(_WORDS[first["word"].lower()], "first word")
    return _only_word(answer[-_TAIL:].lower())


def _said(text: str) -> list[tuple[int, str]]:
    """(where it ends, answer) of all that are said as answers, in order."""
    found = [
        (box.end, word) for box in boxes(text)[-8:] if (word := _WORDS.get(_bare(box.content)))
    ]
    found += [
        (match.end(), _WORDS[match["word"].lower()]) for match in deque(_SAID.finditer(text), 8)
    ]
    line = text.rsplit("\n", 1)[-1]
    if len(line) < 100 and (word := _WORDS.get(_bare(line))):
        found.append((len(text), word))
    return sorted(found)


def _bare(text: str) -> str:
    return re.sub(r"\\text\s?\{", "", text[:100]).strip(_EDGES).casefold()


def _only_word(text: str) -> Extraction:
    says_yes = any(
        not _NOT_YES.search(text[max(0, match.start() - 16) : match.start()])
        for match in deque(_YES.finditer(text), 64)
    )
    says_no = bool(_NO.search(text))
    if says_yes and says_no:
        return Extraction(None, "contradiction")
    if says_yes or says_no:
        return Extraction(YES if says_yes else NO, "only word")
    return Extraction(None, "no verdict")


_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = int(re.UNICODE)
"""A flag that they pass where a count belongs: so many periods are removed."""


def vlmeval(text: str) -> str | None:
    """As VLMEvalKit's rule reads it: one of the words "yes" and "no", and not the other.

    Words are split after removing some signs: one that touches a space, or any where a number has
    a comma, joins what it stands between; others split it. Asterisks, quotes and colons stay.
    """
    low = text.lower()
    joins_all = bool(_NUMBER_WITH_COMMA.search(low))
    cleaned = low
    for sign in _PUNCTUATION:
        joins = joins_all or f"{sign} " in low or f" {sign}" in low
        cleaned = cleaned.replace(sign, "" if joins else " ")
    words = set(_PERIOD.sub("", cleaned, count=_PERIODS).split())
    if ("yes" in words) == ("no" in words):
        return None
    return YES if "yes" in words else NO
