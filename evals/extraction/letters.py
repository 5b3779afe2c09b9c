r"""Which option a response ends on. The last thing that is said as an answer counts.

    said        \boxed{B}, `B`, <answer>B</answer>, "Answer: B", "the answer is B", "I choose B",
                "B is correct", a last line of only "B", "**B**", "(B) 45"; instead of the letter,
                the option's own text
    first line  a first line of only a letter, with reasons after it
    refusal     "I cannot determine ...": no answer
    lone        a letter that stands alone in the last line (evals.extraction.mentions), else
                exactly one option's text there, else a letter in the last 600 characters

Answers said side by side ("A or B", two boxes with nothing between them) that differ are a
contradiction: unparsed. The article "A" and the pronoun "I" are no letters, nor is what is
negated ("not C"). Every pattern reads a bounded window, so the time is linear in the text.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evals.benchmark import Extraction
from evals.extraction.boxed import boxes
from evals.extraction.mentions import NEGATED_AFTER, lone_letter
from evals.extraction.options import option_of, option_within
from evals.extraction.thinking import answer_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_WINDOW = 160
"""Characters after "the answer is" in which the answer stands."""
_WRAPPER = r"\\(?:boxed|text(?:bf|it|rm)?|math(?:rm|bf|it|sf)|mbox)\s?\{|\\[(\[]"
_OPEN = rf"(?:[\s*_`\"'$(\[{{<\u2018\u201c]|{_WRAPPER}){{0,12}}"
_CLOSE = r"(?:[*_`\"'$)\]}>\u2019\u201d]|\\[)\]]){0,12}"
_IS = r"is|was|are|would be|should be|must be|will be|has to be"
_FILLER = (
    r"(?:(?:therefore|thus|clearly|simply|hence|most likely|likely|probably|indeed|definitely"
    r"|the|correct|option|choice|letter|answer|following)\b[\s:*]{1,4}){0,5}"
)
_SAID = re.compile(
    r"(?:\banswer|\b(?:correct|right|best|final) (?:option|choice)|\u7b54\u6848)"
    r"(?:\s(?:letter|option|choice))?(?:\s(?:to|for) (?:this|the) (?:question|problem))?"
    r"[\s*_\"'\u201d]{0,6}"
    rf"(?P<verb>(?:{_IS})\b\s?:?|[:=\uff1a\u662f\u4e3a]|->|\u2192|\s[-\u2013\u2014]\s)?"
    r"|\b(?P<choose>choose|select|pick|say|chose|selected|go with|going with|opt for|settle on)\b",
    re.IGNORECASE,
)
_FILLED = re.compile(rf"{_OPEN}{_FILLER}", re.IGNORECASE)
_OPENED = re.compile(_OPEN)
_JOINED = re.compile(r"\w|['\u2019]\w")
_MARKUP = re.compile(r"<\|[^<>|\n]{1,40}\|>|</?(?:b|br|em|i|p|s|span|strong|u)\s?/?>")
"""Special tokens and tags that some models write around their letters."""
_CLOSED = re.compile(_CLOSE)
_WRONG_BEFORE = re.compile(
    r"(?:\bnot|n't|n\u2019t|\bwrong|incorrect|\bno)\s(?:the\s)?$", re.IGNORECASE
)
_IS_CORRECT = re.compile(
    rf"(?<![\w'\u2019])([A-Z]){_CLOSE}\s(?:is|must be|would be|should be)\s"
    r"(?:therefore\s|thus\s|clearly\s)?(?:the\s)?(?:only\s|most\s|one\s)?"
    r"(?:correct|right|best|answer|accurate|appropriate|suitable)\b"
)
_TAGGED = re.compile(r"<answer>([^<]{0,1000})</answer>", re.IGNORECASE)
_TICKED = re.compile(r"(?<!`)`{1,3}\s{0,3}\(?([A-Z])[).]?\s{0,3}`{1,3}(?!`)")
_ARTICLE_ENDS = re.compile(
    r"\s{0,3}(?:$|[.,;:!?)\]\n\u3002\uff0c]|[-\u2013\u2014]\s|(?:because|since|as|is|for|which|and|or|but|due"
    r"|not|with|given|based|from|in this|according)\b)"
)
_PRONOUN_ENDS = re.compile(
    r"\s{0,3}(?:$|[.:;)\]\n\u3002]|,\s(?:because|since|as)\b|(?:because|since|or)\b)"
)
_ENDS = re.compile(r"\s{0,3}(?:$|[.,;:!?)\]\n\u3002\uff0c])")
_ALSO = re.compile(
    rf"\s{{0,3}}(?P<how>,\s?(?:or|and)\b|,|/|&|\bor\b|\band\b)\s{{0,3}}(?:option\s|choice\s)?{_OPEN}"
    rf"(?P<letter>[A-Z])(?![\w'\u2019]){_CLOSE}"
)
_FORM = re.compile(
    rf"{_OPEN}(?:(?:option|choice|letter)\s)?{_OPEN}(?P<letter>[A-Za-z])(?!\w|['\u2019]\w)"
    rf"(?P<after>[.):,\]\u3001\uff0e]?{_CLOSE}[.:]?)(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"(?:cannot|can't|can\u2019t|could not|couldn't|unable to|not able to|(?:im|not )possible to)"
    r" (?:be )?(?:\w+ )?(?:answer|determin|see|view|tell|identif|provid|help|assist|process|choose"
    r"|select|decid|know|access|infer)|\bsorry\b|(?:don't|do not|don\u2019t) know|\bnot sure\b"
    r"|\bnone of (?:the|these)\b|failed to obtain"
    r"|\bno (?:image|answer|correct (?:option|answer))\b",
    re.IGNORECASE,
)
_LISTED = re.compile(r"^[\s*(]{0,4}([A-Z])[*)]{0,3}[.):]", re.MULTILINE)
_PATHS = ("boxed", "answer tag", "backticks", "answer said", "said to be correct", "last line")
"""Of answers that stand beside each other, or in each other, the first of these is named."""
_TAIL = 600
_LAST = 64
"""So many answers of one kind are looked at, from the end."""


@dataclass(frozen=True, slots=True)
class _Said:
    """An answer that was said: text[start:end]."""

    start: int
    end: int
    letters: frozenset[str]
    path: str


def read_letter(text: str, options: Mapping[str, str]) -> Extraction:
    """The letter that a whole response answers with, and which rule read it.

    `options`: {letter: its text, "" where that is not known}, in order. Thoughts are dropped.
    """
    answer = answer_of(text)
    if answer is None:
        return Extraction(None, "unfinished thought")
    if not answer:
        return Extraction(None, "empty")
    answer = _MARKUP.sub("", answer).strip()
    said = sorted(_said(answer, options), key=lambda item: (item.end, -item.start))
    if said:
        return _last(answer, said)
    first = answer.split("\n", 1)[0]
    lists = len({match[1] for match in _LISTED.finditer(answer)}) > 1
    if not lists and len(letters := _form(first, options)) == 1:
        return Extraction(min(letters), "first line")
    tail = answer[-_TAIL:]
    if _REFUSAL.search(tail):
        return Extraction(None, "refusal")
    line = answer.rsplit("\n", 1)[-1]
    for part in (tail,) if lists else (line[-_TAIL:], tail):
        alone = lone_letter(part, "".join(options))
        if alone.value or alone.path == "contradiction":
            return alone
        if not lists and (letter := option_within(line, options)):
            return Extraction(letter, "option text")
    return Extraction(None, "no letter")


def _last(text: str, said: list[_Said]) -> Extraction:
    """The last answer, together with those that stand beside it."""
    last = said[-1]
    letters, paths, start = set(last.letters), {last.path}, last.start
    for earlier in reversed(said[:-1]):
        between = text[earlier.end : start]
        if between and re.sub(r"[\s\W_]|\b(?:or|and|also)\b", "", between):
            break
        letters |= earlier.letters
        paths.add(earlier.path)
        start = min(start, earlier.start)
    if len(letters) > 1:
        return Extraction(None, "contradiction")
    return Extraction(min(letters), min(paths, key=_PATHS.index))


def _said(text: str, options: Mapping[str, str]) -> Iterator[_Said]:
    for box in boxes(text)[-_LAST:]:
        if letters := _form(box.content, options):
            yield _Said(box.start, box.end, letters, "boxed")
    for match in deque(_TAGGED.finditer(text), _LAST):
        if letters := _form(match[1], options):
            yield _Said(match.start(), match.end(), letters, "answer tag")
    for match in deque(_TICKED.finditer(text), _LAST):
        if match[1] in options:
            yield _Said(match.start(), match.end(), frozenset(match[1]), "backticks")
    for match in deque(_IS_CORRECT.finditer(text), _LAST):
        if match[1] in options:
            yield _Said(match.start(), match.end(), frozenset(match[1]), "said to be correct")
    for match in deque(_SAID.finditer(text), _LAST):
        if not _WRONG_BEFORE.search(text[max(0, match.start() - 12) : match.start()]):
            yield from _after(text, match, options)
    start = text.rfind("\n") + 1
    lists = len({match[1] for match in _LISTED.finditer(text)}) > 1
    if letters := _form(text[start:], options, bare=lists):
        yield _Said(start, len(text), letters, "last line")


def _after(text: str, match: re.Match[str], options: Mapping[str, str]) -> Iterator[_Said]:
    """What follows "the answer is", where it is an answer."""
    window = text[match.end() : match.end() + _WINDOW]
    filled = _FILLED.match(window)
    opened = _OPENED.match(window, filled.end() if filled else 0)
    at = opened.end() if opened else 0
    direct = not match["verb"]
    letters, end = _letters_at(window, at, options)
    if letters and direct and not match["choose"] and "\n" in window[:at]:
        # "the answer" and a list of options below it is no answer.
        letters = letters if re.match(r"\s*(?:\n|$)", window[end:]) else frozenset()
    if not letters and not direct:
        line = re.match(r"[^\n]*", window[at:])
        sentence = re.split(r"[.!?](?:\s|$)", line[0], maxsplit=1)[0] if line else ""
        letter = option_of(sentence, options) or option_of(line[0] if line else "", options)
        letters, end = frozenset(letter or ""), at + len(sentence)
    if letters:
        yield _Said(match.start(), match.end() + end, letters, "answer said")


def _letters_at(window: str, at: int, options: Mapping[str, str]) -> tuple[frozenset[str], int]:
    """The letters that stand at `at` as an answer, and where they end."""
    letter = window[at : at + 1]
    upper = letter.upper()
    if not letter or upper not in options or _JOINED.match(window, at + 1):
        return frozenset(), at
    marked = at > 0 and window[at - 1] in "*_`\"'$([{<\u201c"
    closed = _CLOSED.match(window, at + 1)
    end = closed.end() if closed else at + 1
    rest = window[end:]
    if letter != upper and not (_ENDS.match(rest) or window[at + 1 : at + 2] == ")"):
        return frozenset(), at
    ends = {"A": _ARTICLE_ENDS, "I": _PRONOUN_ENDS}.get(upper)
    is_own_text = bool(options[upper]) and rest.strip().startswith(options[upper])
    if NEGATED_AFTER.match(window, at + 1):
        return frozenset(), at
    is_sure = (marked and end > at + 1) or is_own_text or _ALSO.match(rest)
    if not is_sure and (re.match(r"[-+=^\\/](?=\w)", rest) or (ends and not ends.match(rest))):
        return frozenset(), at
    letters = {upper}
    while also := _ALSO.match(window, end):
        is_list = also["how"] not in (",", "and") or _ENDS.match(window[also.end() :])
        if also["letter"] not in options or not is_list:
            break
        letters.add(also["letter"])
        end = also.end()
    return frozenset(letters), end


def _form(text: str, options: Mapping[str, str], *, bare: bool = False) -> frozenset[str]:
    """The letters of a text that is nothing but an answer: "B", "(b)", "B. 45", "option B", "45".

    `bare`: only the letter, without the option's text behind it.
    """
    text = text.strip()
    if not text or len(text) > 1000:
        return frozenset()
    match = _FORM.fullmatch(text)
    if match and (letter := match["letter"].upper()) in options:
        rest = match["rest"].strip()
        if not rest:
            return frozenset(letter)
        is_upper = match["letter"].isupper()
        if not bare and is_upper and re.match(r"[.):\]\u3001\uff0e]", match["after"]):
            others = _ALSO.match(match["rest"])
            return frozenset(letter) if not others else frozenset({letter, others["letter"]})
        if not bare and letter in (option_of(rest, options) or ""):
            return frozenset(letter)
    listed, end = _letters_at(text, at := _opening(text), options)
    if len(listed) > 1 and not text[end:].strip(" .") and at < end:
        return listed
    if bare:
        return frozenset()
    return frozenset(option_of(text, options) or "")


def _opening(text: str) -> int:
    match = _OPENED.match(text)
    return match.end() if match else 0
