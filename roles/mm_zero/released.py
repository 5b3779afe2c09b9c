r"""What the three roles wrote, read as the released MM-Zero reads it: its parsers and filters.

Pure and total, as `roles.mm_zero.parsing`, which mends the quirks kept here. Every parser is a
scan that takes time linear in the text; where the release's own pattern backtracks, the scan
gives the same result. Source: `proposer_reward.py`, `proposal_generate.py`, `codegen_reward.py`,
`cot_val_solver.py`, `filter_proposals_by_render.py` and `upload_imagefree.py` of the release.
"""

import re

from engine.types import Invalid
from rewards.grading import Votes
from rewards.released.votes import boxed_or_none
from roles.mm_zero import filters
from roles.mm_zero.content import CONTENT_TYPES, KEYWORDS
from roles.mm_zero.parsing import FIELDS, Proposal

CODER_BAND = (0.25, 0.75)
"""Share of a proposal's drawings that render, ends included."""
MIN_EASY_SHARE = 0.5
HARD_BAND = (0.25, 0.75)
"""Share of the hard question's majority, ends included."""

# A run of white space is tried from its start only, else long runs would take quadratic time.
_AROUND_MARKS = re.compile(r"(?<=[<>/])\s+|(?<!\s)\s++(?=[<>/])")
_END = re.compile(r"<[^/]|$", re.MULTILINE)
"""Of an unclosed field: the next `<` but that of a closing tag, or the end of its line."""
_FENCE = "```"
_SPACE = re.compile(r"\s*")
_VALUE_END = re.compile(r"[\n<]|\Z")
_SVG_OPENING = re.compile(r"<svg", re.IGNORECASE)
_SVG_CLOSING = re.compile(r"</svg>", re.IGNORECASE)
_BOX = "\\boxed{"


def squeeze(text: str) -> str:
    """`text` without the white space around every `<`, `>` and `/`, prose ("a < b") included."""
    return _AROUND_MARKS.sub("", text)


def parse_proposal(text: str) -> Proposal | Invalid:
    """The fields as the reward reads them, in training; the reason is missing_tag.

    Of each tag the first opening and the first closing after it, after `squeeze`. A field may be
    empty, and the content type may be missing; case counts.
    """
    squeezed = squeeze(text)
    fields = {name: _between(squeezed, f"<{name}>", f"</{name}>") for name in FIELDS}
    return _proposal(fields, required=FIELDS[1:], is_empty_valid=True)


def parse_proposal_at_inference(text: str) -> Proposal | Invalid:
    """The fields as the data stages read them, from which the coder's and solver's prompts come.

    Looser: any case; an unclosed tag; a line "name: value" or "name: <value>". The first of these
    forms that gives a text counts, so an empty tag pair is read as an unclosed tag, and the field
    then holds its own closing tag. Needed are caption, easy question and easy answer; the reason
    is missing_tag. A missing hard field is "".
    """
    fields = {name: _loosely(text, name) for name in FIELDS}
    return _proposal(
        fields, required=("caption", "easy_question", "easy_answer"), is_empty_valid=False
    )


def declared_type(tagged: str | None) -> str:
    """The tagged type if it is one of `CONTENT_TYPES`, else "other"; what a proposal holds."""
    name = (tagged or "").strip().lower().replace(" ", "_")
    name = "data_chart" if name == "datachart" else name
    return name if name in CONTENT_TYPES else "other"


def content_type(tagged: str | None, caption: str) -> str:
    """The type that the diversity term counts: the declared one or, for "other", the caption's.

    Keywords are looked for as substrings, in their order: "stable" is a table.
    """
    if (name := declared_type(tagged)) != "other":
        return name
    lowered = caption.lower()
    for kind, words in KEYWORDS.items():
        if any(word in lowered for word in words):
            return kind
    return "other"


def extract_svg(text: str) -> str:
    """The code of a coder's reply; "" where there is none.

    The first ```svg fence whatever it holds; else the first ```xml fence if it holds `<svg`; else
    the first `<svg` and all up to the first `</svg>`. A fence needs its end and, behind its name,
    nothing but white space up to a line break.
    """
    code = _fenced(text, "svg")
    if code is not None:
        return code
    code = _fenced(text, "xml")
    if code is not None and _SVG_OPENING.search(code):
        return code
    opening = _SVG_OPENING.search(text)
    closing = _SVG_CLOSING.search(text, opening.end()) if opening else None
    return text[opening.start() : closing.end()] if opening and closing else ""


def is_well_formed(text: str) -> bool:
    r"""True where the squeezed reply matches `<think>.*</think>\s*\boxed{.*}\s*` as a whole.

    The stars stretch over anything: over a second think block, over prose between two boxes, and
    over text behind the box that ends with a brace.
    """
    reply = squeeze(text).rstrip()
    if not reply.startswith("<think>") or not reply.endswith("}"):
        return False
    # After `squeeze` nothing but the box can stand behind the closing tag.
    closing = reply.find("</think>" + _BOX, len("<think>"))
    return closing >= 0


def parse_answer(text: str) -> str:
    """The answer that the solver's reward compares with the label: boxed, of the squeezed reply.

    Votes and labels read the reply as it is: `rewards.released.votes.boxed_or_none`.
    """
    return boxed_or_none(squeeze(text))


def coder_filter(num_rendered: int, num_drawn: int) -> str | None:
    """Why a proposal does not train the coder; None where it does. Of four drawings 1 to 3."""
    if num_drawn == 0:
        return "never_renders"
    nothing_earned = [0.0] * num_drawn
    return filters.coder_filter(nothing_earned, num_rendered, band=CODER_BAND, spread=None)


def solver_filter(easy: Votes, hard: Votes) -> str | None:
    """Why a hard question does not train the solver; None where it does. Both are label votes."""
    if not has_label(hard):
        return "no_votes"
    return filters.solver_filter(easy, hard, min_easy_share=MIN_EASY_SHARE, hard_band=HARD_BAND)


def has_label(votes: Votes) -> bool:
    """Only "" and exactly "None" label nothing; "none", "N/A" and the like do."""
    return votes.majority not in (None, "", "None")


def _between(text: str, opening: str, closing: str) -> str | None:
    """What stands between the first `opening` and the first `closing` after it."""
    start = text.find(opening)
    if start < 0:
        return None
    start += len(opening)
    end = text.find(closing, start)
    return text[start:end] if end >= 0 else None


def _fenced(text: str, name: str) -> str | None:
    """What the first closed fence of that name holds, stripped."""
    start = 0
    while (start := text.find(f"{_FENCE}{name}", start)) >= 0:
        start += len(_FENCE) + len(name)
        space = _SPACE.match(text, start)
        if space is not None and "\n" in space.group():
            # The white space behind the last line break belongs to the code, which is stripped.
            end = text.find(_FENCE, space.end())
            return text[space.end() : end].strip() if end >= 0 else None
    return None


def _loosely(text: str, name: str) -> str | None:
    """One field as `parse_proposal_at_inference` finds it; None where it is missing."""
    opening = re.search(f"<{name}>", text, re.IGNORECASE)
    if opening is not None:
        start = opening.end()
        closing = re.compile(f"</{name}>", re.IGNORECASE).search(text, start)
        if closing is not None and (value := text[start : closing.start()].strip()):
            return value
        end = _END.search(text, start)
        if end is not None and (value := text[start : end.start()].strip()):
            return value
    labels = list(re.finditer(rf"^[^\S\n]*{name}\s*:", text, re.IGNORECASE | re.MULTILINE))
    return _line_value(text, [label.end() for label in labels])


def _line_value(text: str, starts: list[int]) -> str | None:
    """The value behind the first of these labels that has one: up to a line break or `<`; where
    none has, that of the first with `<value>`."""
    begins = [_SPACE.match(text, start).end() for start in starts]  # type: ignore[union-attr]
    for start, begin in zip(starts, begins, strict=True):
        if begin < len(text) and text[begin] != "<":
            end = _VALUE_END.search(text, begin)
            return text[begin : end.start() if end else len(text)].strip()
        if text[start:begin].strip("\n"):
            break  # blanks are a value too, an empty one
    for begin in begins:
        end_of_tag = text.find(">", begin) if text[begin : begin + 1] == "<" else -1
        if end_of_tag > begin + 1:
            return text[begin + 1 : end_of_tag].strip() or None
    return None


def _proposal(
    fields: dict[str, str | None], *, required: tuple[str, ...], is_empty_valid: bool
) -> Proposal | Invalid:
    for name in required:
        if fields[name] is None or not (fields[name] or is_empty_valid):
            return Invalid("missing_tag", name)
    texts = {name: fields[name] or "" for name in FIELDS}
    return Proposal(**(texts | {"content_type": declared_type(fields["content_type"])}))
