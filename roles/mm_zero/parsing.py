r"""What the three roles wrote, as values. Linear in the length of the text; nothing raises.

Only what follows the thoughts of a reply counts (`roles/thoughts.py`). No white space inside a
field is changed except that runs of it become one space. How the released code reads the same texts
is in `released.py`.
"""

import re
from dataclasses import asdict, dataclass

from engine.types import Invalid
from render_pool.extract import find_svg
from rewards.grading import boxed, normalise
from roles.mm_zero.content import content_type
from roles.thoughts import said

FIELDS = (
    "content_type",
    "caption",
    "easy_question",
    "easy_answer",
    "hard_question",
    "hard_answer",
)
MAX_FIELD_CHARS = 8000

_NAMES = "|".join(FIELDS)
_TAG = re.compile(rf"<(/?)({_NAMES})>")
_LOOSE_MARK = re.compile(
    rf"<\s{{0,3}}(?P<slash>/?)\s{{0,3}}(?P<tag>{_NAMES})\s{{0,3}}>"
    rf"|^[^\w\n]{{0,4}}(?P<line>{_NAMES})[^\w\n]{{0,2}}:",
    re.IGNORECASE | re.MULTILINE,
)
"""A tag, or the start of a line such as "**caption**:"."""
_THINK = re.compile(r"\s*<think>")


@dataclass(frozen=True, slots=True)
class Proposal:
    content_type: str
    caption: str
    easy_question: str
    easy_answer: str
    hard_question: str
    hard_answer: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def parse_proposal(text: str) -> Proposal | Invalid:
    """The six tagged fields, each exactly once, closed, not nested and not empty.

    Reasons: broken_tag, repeated_tag, missing_tag, empty_field, long_field, no_answer (an easy
    answer such as "n/a", which no reply can equal). Text outside the tags is ignored, and so is
    the order of the fields; an unknown content type is looked up by the caption's words.
    """
    reply = said(text)
    fields: dict[str, str] = {}
    opened: re.Match[str] | None = None
    for tag in _TAG.finditer(reply):
        is_closing, name = tag.groups()
        if opened is None and not is_closing:
            opened = tag
        elif opened is None or not is_closing or name != opened[2]:
            return Invalid("broken_tag", name)
        elif name in fields:
            return Invalid("repeated_tag", name)
        else:
            fields[name] = " ".join(reply[opened.end() : tag.start()].split())
            opened = None
    if opened is not None:
        return Invalid("broken_tag", opened[2])
    return _checked(fields)


def parse_proposal_leniently(text: str) -> Proposal | Invalid:
    """The same fields, however carelessly marked; for models that can't keep the format yet.

    A field is opened by its tag in any case, spaces in it or not, or by a line "name: ..."; it
    ends at its closing tag or at the next mark. Where one occurs twice, the first one counts. The
    content type and the hard answer may be missing. Reasons: missing_tag (an empty field too),
    long_field, no_answer.
    """
    reply = said(text)
    fields = {"content_type": "", "hard_answer": ""}
    opened, start = "", 0
    for mark in [*_LOOSE_MARK.finditer(reply), None]:
        value = " ".join(reply[start : mark.start() if mark else len(reply)].split())
        if opened and value and not fields.get(opened):
            fields[opened] = value
        if mark is not None:
            is_closing = mark["slash"] == "/"
            opened, start = "" if is_closing else (mark["tag"] or mark["line"]).lower(), mark.end()
    return _checked(fields, may_lack=("content_type", "hard_answer"))


def _checked(fields: dict[str, str], may_lack: tuple[str, ...] = ()) -> Proposal | Invalid:
    for name in FIELDS:
        if name not in fields:
            return Invalid("missing_tag", name)
        if not fields[name] and name not in may_lack:
            return Invalid("empty_field", name)
        if len(fields[name]) > MAX_FIELD_CHARS:
            return Invalid("long_field", name)
    if not normalise(fields["easy_answer"]):
        return Invalid("no_answer", "easy_answer")
    kind = content_type(fields["content_type"], fields["caption"])
    return Proposal(**(fields | {"content_type": kind}))


def extract_svg(text: str) -> str | None:
    """The first complete `<svg ...>...</svg>` behind the thoughts, fenced ones before others.

    None where there is none, as in a reply that was cut off. Whether it is well-formed is for the
    renderer to say.
    """
    return find_svg(said(text))


def parse_answer(text: str) -> str | None:
    """The last boxed answer behind the thoughts, as written; None where there is none."""
    return boxed(said(text))


def is_well_formed(text: str) -> bool:
    r"""True where `text` is one think block, then one `\boxed{...}`, then nothing.

    Never where the chat template has opened the block: the reply then begins inside of it.
    """
    opening = _THINK.match(text)
    if opening is None or text.count("<think>") != 1 or text.count("</think>") != 1:
        return False
    box = text.partition("</think>")[2].strip()
    if not box.startswith("\\boxed{") or box.count("\\boxed{") != 1:
        return False
    # Its last character closes it: with that the box is complete, without it is not.
    return bool(boxed(box)) and boxed(box[:-1]) is None
