"""The known exploit: a picture that has the answer to its hard question written into it."""

import html
import re

_MARK = re.compile(
    r"<!--|<!\[CDATA\[|<\?|<(?P<closing>/?)(?:[\w.-]{1,64}:)?(?P<name>[\w.-]*+)"
    r"""(?:[^<>"']++|"[^"<]*"|'[^'<]*')*+>"""
)
"""A tag, or the beginning of a comment, of CDATA or of a processing instruction."""
_ENDS = {"<!--": "-->", "<![CDATA[": "]]>", "<?": "?>"}
_NOT_DRAWN = frozenset({"desc", "metadata", "style", "title"})
"""Elements whose text is never part of a picture."""
_PLACE = re.compile(r"\s(?:x|y|dy)\s*=")
_WORD = re.compile(r"[^\W_]+(?:[.,]\d+)*")


def is_answer_printed(svg: str, hard_answer: str, *, given: str) -> bool:
    """True where the text of `svg` holds the hard answer, which `given` does not.

    `given` is what a faithful picture may show anyway: caption, questions and easy answer. Texts
    are compared as sequences of words, folded, so that "2" is not found in "12"; signs are no words
    ("-5" counts as "5"), and numbers are compared as they are written ("1/2" is not "0.5"). Our own
    check: the paper only names the exploit (arXiv:2603.09206, the reason for the solvability cap).
    Linear in the lengths; an empty answer is never printed.
    """
    answer = _words(hard_answer)
    return answer != "" and answer in _words(visible_text(svg)) and answer not in _words(given)


def visible_text(svg: str) -> str:
    """The character data of an SVG that a picture shows: no comments, titles or styles.

    A tag becomes a space, but that of a `tspan` nothing: its text goes on where the last one ended,
    unless it has a place of its own. Entities are read once. What never ends shows nothing more.
    """
    shown: list[str] = []
    start, unseen = 0, ""
    while mark := _MARK.search(svg, start):
        if not unseen:
            shown.append(html.unescape(svg[start : mark.start()]))
        start = mark.end()
        if end := _ENDS.get(mark[0]):
            closed = svg.find(end, start)
            if closed < 0:
                return "".join(shown)
            if end == "]]>" and not unseen:
                shown.append(svg[start:closed])
            start = closed + len(end)
        elif unseen:
            if mark["closing"] and mark["name"] == unseen:
                unseen = ""
        else:
            shown.append(_gap(mark))
            if mark["name"] in _NOT_DRAWN and not (mark["closing"] or mark[0].endswith("/>")):
                unseen = mark["name"]
    if not unseen:
        shown.append(html.unescape(svg[start:]))
    return "".join(shown)


def _gap(tag: re.Match[str]) -> str:
    """What stands in a text where a tag was."""
    is_seamless = tag["name"] == "tspan" and not _PLACE.search(tag[0])
    return "" if is_seamless else " "


def _words(text: str) -> str:
    """The folded words of `text` between single spaces, one in front and one behind."""
    return f" {' '.join(_WORD.findall(text.casefold()))} " if _WORD.search(text) else ""
