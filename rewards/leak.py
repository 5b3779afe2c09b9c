"""The known exploit: a picture that has the answer to its hard question written into it."""

import html
import re

_TAG_OR_COMMENT = re.compile(r"<!--|-->|<!\[CDATA\[|\]\]>|<[^<>]*>")
_WORD = re.compile(r"[^\W_]+(?:[.,]\d+)*")


def is_answer_printed(svg: str, hard_answer: str, *, given: str) -> bool:
    """True where the text of `svg` holds the hard answer, which `given` does not.

    `given` is what a faithful picture may show anyway: caption and questions. Texts are compared
    as sequences of words, folded, so that "2" is not found in "12"; signs are no words ("-5" counts
    as "5"), and numbers are compared as they are written ("1/2" is not "0.5"). Our own check: the
    paper only names the exploit (arXiv:2603.09206, the reason for the solvability cap). Linear in
    the lengths; an empty answer is never printed.
    """
    answer = _words(hard_answer)
    return answer != "" and answer in _words(visible_text(svg)) and answer not in _words(given)


def visible_text(svg: str) -> str:
    """The character data of an SVG, tags replaced by spaces; entities are read once."""
    return html.unescape(_TAG_OR_COMMENT.sub(" ", svg))


def _words(text: str) -> str:
    """The folded words of `text` between single spaces, one in front and one behind."""
    return f" {' '.join(_WORD.findall(text.casefold()))} " if _WORD.search(text) else ""
