"""The last letter that stands alone in a text as if it were an answer, where none was said.

Not one: the article "A" and the pronoun "I", a letter that is negated ("not C", "B is wrong"),
a unit ("5 A"), a variable ("A = 3"), a name ("point B", "N/A"), an item of a list of options.
"""

import re

from evals.benchmark import Extraction

_ALONE = re.compile(
    r"(?<![\w'\u2019/\\&+\-.\u2013])([A-Z]|(?<=\()[a-z](?=\)))(?![\w'\u2019/&+\-\u00b0^]|\.\w|\s?[=<>\u2248\u00d7])"
)
_MARKED_BEFORE = re.compile(r"[(\[{*`\"'$\u201c]$")
_MARKED_AFTER = re.compile(r"[)\]}*`\"'$\u201d]")
_NEGATED_BEFORE = re.compile(
    r"(?:\bnot|n't|n\u2019t|\bthan|\binstead of|\bexcept|\bneither|\bnor|\bout|eliminat\w+"
    r"|exclud\w+|\bunlike|\bversus|\bvs\.?|\bwithout)\s"
    r"(?:the\s)?(?:options?\s|choices?\s|answers?\s)?[(\[*`\"']*$",
    re.IGNORECASE,
)
NEGATED_AFTER = re.compile(
    r"[)\]*`\"']{0,6}\s(?:(?:is|are|was|were|would be|can be|seems?|looks?)\s(?:\w+\s)?"
    r"(?:not\b|wrong|incorrect|false|ruled|excluded|eliminated|impossible|unlikely)"
    r"|(?:is|are|does|do|did|would|can)(?:n't|n\u2019t| not)\b|cannot\b"
    r"|[-\u2013\u2014]\s(?:no|not|wrong|incorrect|false)\b)",
    re.IGNORECASE,
)
_NAME_BEFORE = re.compile(
    r"(?:\b(?:point|angle|triangle|vertex|vertices|side|line|segment|node|figure|fig\.?|image|panel"
    r"|plate|team|player|graph|curve|region|vitamin|hepatitis|type|group|class|section|part|plan"
    r"|phase|object|circle|box|car|person|column|row|city|country|step|block|area|room|list|set"
    r"|matrix|event|bond|stock|company|grade|appendix|exhibit|firm|sample|species|process|machine"
    r"|picture|photo|view|camera|path|station|town|cell|layer|tube|beaker)s?) [(\[]?$",
    re.IGNORECASE,
)
_UNIT_BEFORE = re.compile(r"\d $")
_ARTICLE_OK = re.compile(
    r"\s{0,3}(?:$|[.,;:!?)\]\n\u3002]|(?:is|and|or|because|since|seems|matches|fits|shows)\b)"
)
_PRONOUN_OK = re.compile(r"\s{0,3}(?:$|[.:)\]\n\u3002])")
_LISTED = re.compile(r"\s{0,2}[:)]\s?\S|\s{0,2}\.\s?\S")
_LINE_START = re.compile(r"(?:^|\n)[\s*(]{0,4}$")
_BREAK = re.compile(r"[.!?\n\u3002]")
_NEAR = 40


def lone_letter(text: str, letters: str) -> Extraction:
    """The last letter of `letters` that stands alone in `text`.

    No value, and the path "contradiction", where its sentence names another one.
    """
    found: list[re.Match[str]] = []
    listed: list[re.Match[str]] = []
    for match in _ALONE.finditer(text):
        if _upper(match) in letters and _is_mention(text, match):
            (listed if _is_listed(text, match) else found).append(match)
    if len({_upper(match) for match in listed}) < 2:  # one line of "B. 45" is no list
        found = sorted([*found, *listed], key=lambda match: match.start())
    if not found:
        return Extraction(None, "no letter")
    last = found[-1]
    rivals = [
        match
        for match in found
        if _upper(match) != _upper(last) and not _BREAK.search(text[match.end() : last.start()])
    ]
    if rivals:
        return Extraction(None, "contradiction")
    return Extraction(_upper(last), "lone letter")


def _upper(match: re.Match[str]) -> str:
    return match[1].upper()


def _is_mention(text: str, match: re.Match[str]) -> bool:
    before = text[max(0, match.start() - _NEAR) : match.start()]
    after = text[match.end() : match.end() + _NEAR]
    if _NEGATED_BEFORE.search(before) or NEGATED_AFTER.match(after):
        return False
    if _NAME_BEFORE.search(before):
        return False
    if _MARKED_BEFORE.search(before) and _MARKED_AFTER.match(after):
        return True
    if _UNIT_BEFORE.search(before):
        return False
    follow = {"A": _ARTICLE_OK, "I": _PRONOUN_OK}.get(match[1])
    return follow is None or bool(follow.match(after))


def _is_listed(text: str, match: re.Match[str]) -> bool:
    """True for "A: North" anywhere, and for "A. North" or "(A) North" where a line begins."""
    after = text[match.end() : match.end() + 6]
    if not _LISTED.match(after):
        return False
    before = text[max(0, match.start() - 8) : match.start()]
    return after.lstrip().startswith(":") or bool(_LINE_START.search(before))
