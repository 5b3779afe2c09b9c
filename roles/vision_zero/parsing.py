r"""What players wrote, as clues and votes. Pure and total: no text raises, all take linear time.

Both stand in the box that closes last, `\boxed{...}` with its braces balanced. A clue is shown to
everyone, so what could be taken for somebody else's words, for the table's or for the chat
template's is no clue. A box in a thought is a draft (`roles/thoughts.py`). These rules are ours;
those of the release: `rewards/released/spy.py`.
"""

import re
import unicodedata
from collections.abc import Sequence

from engine.types import Invalid
from rewards.spy import Vote
from roles.thoughts import said

MAX_WORDS = 40
MAX_CHARS = 240

_MARK = re.compile(r"\\{1,2}boxed\{|\\.|[{}]", re.DOTALL)
_THINK = re.compile(r"</?think>")
_TEXT_MACRO = re.compile(r"\\(?:text|math|emph)[a-z]*(?=\s*\{)")
_BRACES = str.maketrans("", "", "\\{}")
_WORD = re.compile(r"[^\W_]+")
_TOKEN = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
_FILLER = frozenset(
    [
        "the",
        "spy",
        "is",
        "player",
        "seat",
        "number",
        "i",
        "vote",
        "for",
        "answer",
        "boxed",
        *".,:#*$\"'()",
    ]
)
"""What may stand beside the one number of a vote."""
_FORGED = re.compile(
    r"""
      <\| | \|> | </?[a-z][^<>]*> | \[/?inst\]              # markup of chat templates
    | \b(?:system|user|assistant|human|judge|voter)[\s*]*:  # who speaks, without a number
    | \b(?:player|seat|spy|civilian|round)[\s\#*]*\d+[\s*)]*:  # and with one
    | ["'](?:player|seat|round|clue|text)["']\s*:           # a key of the transcript
    | ^[\W_]*\d+[\W_]*:                                     # the beginning of a compact row
    """,
    re.IGNORECASE | re.VERBOSE,
)
_GAME_TALK = re.compile(
    r"""
      \b(?:player|seat)s?[\s\#*_]{0,3}(?:(?:number|no\.?)[\s\#*_]{0,3})?   # by its number
      (?:\d|(?:one|two|three|four|five|six|seven|eight|nine)\b)
    | \b(?:spy|spies|civilians?|vot(?:e|es|ed|er|ers|ing))\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Speaks of the game, not of a picture."""


def parse_vote(text: str, num_players: int) -> Vote:
    """The seat that a voter names, or None for N/A.

    The box holds one number and at most the words around it ("The spy is player 2"), or N/A alone.
    What hedges is no vote. The reasons are no_box, empty, unreadable, hedged, out_of_range.
    """
    box = _last_box(text)
    if box is None:
        return Invalid("no_box")
    content = " ".join(_lines(text[box[1] : box[2]])).lower()
    if not content:
        return Invalid("empty")
    if re.sub(r"[\s./\"']+", "", content) == "na":
        return None
    tokens = _TOKEN.findall(content)
    numbers = [token for token in tokens if token.isdecimal()]
    if len(numbers) > 1:
        return Invalid("hedged")
    if not numbers or not _FILLER.issuperset(set(tokens) - set(numbers)):
        return Invalid("unreadable")
    # Python refuses to read numbers of thousands of digits.
    seat = int(numbers[0]) if len(numbers[0]) < 10 else 0
    return seat if 1 <= seat <= num_players else Invalid("out_of_range")


def parse_clue(
    text: str, earlier: Sequence[str], *, refuse_game_talk: bool = False
) -> str | Invalid:
    """The clue of a reply, on one line, as everyone will see it.

    `earlier` are all clues so far, whoever gave them; one that shares four in five words with one
    of them (Jaccard) says nothing new. Control characters, braces and backslashes are taken out,
    compatibility characters replaced by those that they stand for (NFKC). The reasons are no_box,
    empty, too_long, forged, repeated; and game_talk where what speaks of the game, for the voters
    to hear ("Player 3 lied", "I am a civilian"), is refused.
    """
    box = _last_box(text)
    if box is None:
        return Invalid("no_box")
    content = text[box[1] : box[2]]
    lines = _lines(content)
    clue = " ".join(lines)
    if not _WORD.search(clue):
        return Invalid("empty")
    if len(clue) > MAX_CHARS or len(clue.split()) > MAX_WORDS:
        return Invalid("too_long")
    if "boxed{" in content or any(map(_FORGED.search, [*lines, clue])):
        return Invalid("forged")
    if refuse_game_talk and _GAME_TALK.search(clue):
        return Invalid("game_talk")
    if any(_is_same(clue, one) for one in earlier):
        return Invalid("repeated")
    return clue


def reasoning(text: str) -> str:
    """What a reply says before its box: a player's private notes. All of it where there is none."""
    box = _last_box(text)
    return _THINK.sub("", text[: box[0]] if box else text).strip()


def _last_box(text: str) -> tuple[int, int, int] | None:
    """Of the box that closes last: where it starts, where its content does, where that ends.

    So a box around another one counts, not the inner one; and one that never closes does not, nor
    does one in a thought.
    """
    opened: list[tuple[int, int] | None] = []
    found = None
    for mark in _MARK.finditer(text, len(text) - len(said(text))):
        match mark.group()[-1], len(mark.group()):
            case "{", 1:
                opened.append(None)
            case "{", n if n > 2:
                opened.append((mark.start(), mark.end()))
            case "}", 1 if opened and (box := opened.pop()) is not None:
                found = (*box, mark.start())
    return found


def _lines(content: str) -> list[str]:
    """Lines as a reader sees them: no control characters, no LaTeX around words, single spaces."""
    bare = _TEXT_MACRO.sub("", content).translate(_BRACES)
    lines = (
        unicodedata.normalize("NFKC", "".join(filter(_is_visible, line)))
        for line in bare.replace("\t", " ").splitlines()
    )
    return [single for line in lines if (single := " ".join(line.split()))]


def _is_visible(char: str) -> bool:
    """Not a control, a format mark (zero width, right to left), a surrogate or unassigned."""
    return unicodedata.category(char)[0] != "C"


def _is_same(clue: str, other: str) -> bool:
    ours, theirs = (set(_WORD.findall(text.casefold())) for text in (clue, other))
    return 5 * len(ours & theirs) >= 4 * len(ours | theirs)
