"""Games as people look at them. Used by the report and by the dashboard.

Everything here shows model output, which is hostile: each value goes through `escape`, pictures
are PNG bytes from our own renderer, and the page runs no script.
"""

import base64
from collections import Counter
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from engine.monitor.observed import TIMELINE
from launch import markup
from launch.markup import ImageSource, Notes, picture, pre, text
from launch.spy_gallery import spy_game_html
from render_pool.reasons import SENTENCES
from roles.vision_zero.gallery import NOTE as SPY_GAME

MAX_CAPTION = 90
"""Characters in a game's title."""
MAX_ROWS = 100
"""Of a list of any recipe that are shown, and keys of a mapping."""
MAX_DEPTH = 8
"""Of lists and mappings in one another; what lies deeper is shown as JSON."""
LINE = 80
"""Characters of a text that is shown within a line."""


def inline(find_image: Callable[[str], bytes | None]) -> ImageSource:
    """Pictures as part of the page itself."""

    def source(name: str) -> str | None:
        png = find_image(name)
        return f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else None

    return source


def game_html(
    game: Mapping[str, Any], source: ImageSource, *, is_open: bool = False, links: bool = False
) -> str:
    """One game of `Records.gallery`, folded except for its title unless `is_open`. `links`: to
    where the dashboard has it for ever, and to its timeline."""
    notes: Notes = game["notes"]
    number = int(game["game"])
    state = game["state"] if game["reason"] is None else f"dropped: {game['reason']}"
    title = f"game {number} · {text(notes.get('topic', ''))} · {escape(state)}"
    proposals = notes.get("proposals")
    if isinstance(proposals, list):
        title += _caption(proposals)
        body = "".join(
            _proposal(place, row, notes, source)
            for place, row in enumerate(proposals, start=1)
            if isinstance(row, dict)
        )
    elif isinstance(notes.get(SPY_GAME), dict):
        body = spy_game_html(notes, source)
    else:
        others = {key: value for key, value in notes.items() if key not in (TIMELINE, "topic")}
        # Of another recipe; one that was cut off; or a game of a phase that plays one role.
        body = _shown("", others, source) or '<p class="dim">It kept nothing but its timeline.</p>'
    facts = [_versions(notes.get(TIMELINE))]
    if links:
        facts.append(
            f'<a href="/game/{number}">link to this game</a> · '
            f'<a href="/trace/{number}.json">timeline</a> (for ui.perfetto.dev)'
        )
    head = " · ".join(fact for fact in facts if fact)
    head = f'<p class="dim">{head}</p>' if head else ""
    opened = " open" if is_open else ""
    return (
        f'<details class="game" id="game-{number}"{opened}>'
        f"<summary>{title}</summary>{head}{body}</details>"
    )


def _shown(name: str, value: Any, source: ImageSource, depth: int = 0) -> str:
    """A note of any recipe: pictures as pictures, lists as lists, everything else as text."""
    if _is_picture(value):
        drawn = picture({name: value}, name, source, name)
        return f'<div class="drawing">{drawn or text("(no longer kept)")}</div>'
    if not isinstance(value, dict | list):
        if isinstance(value, float):
            return markup.number(value)
        is_long = isinstance(value, str) and (len(value) > LINE or "\n" in value)
        return pre(value) if is_long else text(value)
    if depth == MAX_DEPTH:
        return pre(value)
    left_out = len(value) - MAX_ROWS
    more = f'<p class="dim">and {left_out} more</p>' if left_out > 0 else ""
    if isinstance(value, list):
        items = [_shown(name, one, source, depth + 1) for one in value[:MAX_ROWS]]
        return f"<ol>{''.join(f'<li>{item}</li>' for item in items)}</ol>{more}" if items else ""
    rows = "".join(
        f"<dt>{text(key)}</dt><dd>{_shown(key, one, source, depth + 1)}</dd>"
        for key, one in list(value.items())[:MAX_ROWS]
    )
    return f"<dl>{rows}</dl>{more}" if rows else ""


def _is_picture(value: Any) -> bool:
    """What the buffer puts in the place of a PNG (`engine.notes`)."""
    if not isinstance(value, dict) or value.keys() != {"png"}:
        return False
    name = value["png"]
    return isinstance(name, str) and name.isascii() and name.isalnum()


def _caption(proposals: list[Any]) -> str:
    """Of the first proposal that has one."""
    for row in proposals:
        proposal = row.get("proposal") if isinstance(row, dict) else None
        if isinstance(proposal, dict) and proposal.get("caption"):
            text = str(proposal["caption"])
            cut = text[:MAX_CAPTION] + ("…" if len(text) > MAX_CAPTION else "")
            return f' <span class="dim">{escape(cut)}</span>'
    return ""


def _versions(timeline: Any) -> str:
    """Of the weights that played, by role."""
    found: dict[str, list[int]] = {}
    for role, _, _, _, version, _ in timeline["samples"] if isinstance(timeline, dict) else ():
        found.setdefault(str(role), []).append(int(version))
    spans = []
    for role, versions in found.items():
        low, high = min(versions), max(versions)
        spans.append(f"{text(role)} {low}" + ("" if low == high else f"–{high}"))
    return f"weights: {', '.join(spans)}" if spans else ""


def _proposal(number: int, row: Notes, notes: Notes, source: ImageSource) -> str:
    proposal = row.get("proposal")
    head = f"<h4>proposal {number} {_reward(row)}</h4>"
    if not isinstance(proposal, dict):
        why = text(row.get("invalid", ""))
        return f'<div class="proposal">{head}<p class="bad">{why}</p>{pre(row.get("text"))}</div>'
    facts = "".join(
        f"<dt>{text(name.replace('_', ' '))}</dt><dd>{text(value)}</dd>"
        for name, value in proposal.items()
    )
    drawings = "".join(
        _drawing(drawing, notes, source)
        for drawing in row.get("drawings") or ()
        if isinstance(drawing, dict)
    )
    return (
        f'<div class="proposal">{head}<dl>{facts}</dl><div class="drawings">{drawings}</div></div>'
    )


def _drawing(drawing: Notes, notes: Notes, source: ImageSource) -> str:
    leak = ""
    if drawing.get("leak") is True:
        leak = ' <span class="mark" title="the picture prints the hard answer">leak</span>'
    parts = [f"<p>{_reward(drawing)}{leak}</p>"]
    if "invalid" in drawing:
        reason = str(drawing["invalid"])
        sentence = escape(SENTENCES.get(reason.partition(":")[0], ""))
        parts.append(f'<p class="bad">{text(reason)}</p><p class="dim">{sentence}</p>')
    parts.append(picture(notes, str(drawing.get("picture")), source, "picture"))
    for level in ("easy", "hard"):
        if isinstance(drawing.get(level), dict):
            parts.append(_vote(level, drawing[level]))
    if drawing.get("drop"):
        parts.append(f"<p>not trained on: {text(drawing['drop'])}</p>")
    parts.append(f"<details><summary>SVG</summary>{pre(drawing.get('svg'))}</details>")
    return f'<div class="drawing">{"".join(parts)}</div>'


def _vote(level: str, vote: Notes) -> str:
    counts = ", ".join(f"{text(answer)} ×{number}" for answer, number in vote["counts"].items())
    label = vote.get("label")
    trained = "" if label in (None, vote["majority"]) else f"<p>label {text(label)}</p>"
    rewards = vote.get("rewards")
    earned = "" if not rewards else f"<p>rewards {text([round(r, 2) for r in rewards])}</p>"
    terms = [_terms(row) for row in vote.get("terms") or ()]
    earned += "".join(
        f"<p><small>{number} × {one or '0'}</small></p>" for one, number in Counter(terms).items()
    )
    replies = "\n".join(str(reply) for reply in vote.get("replies", ()))
    share = markup.number(vote["share"])
    return (
        f"<p><b>{level}</b>: {text(vote['majority'])} ({share}) · {counts}</p>"
        f"{trained}{earned}<details><summary>replies</summary>{pre(replies)}</details>"
    )


def _reward(row: Notes) -> str:
    if row.get("reward") is None:
        return ""
    terms = _terms(row.get("terms") or {})
    return (
        f'<span class="reward">reward {markup.number(row["reward"])}</span> <small>{terms}</small>'
    )


def _terms(terms: Notes) -> str:
    """Those that are not zero; `escape`d."""
    return " ".join(
        f"{text(name)} {markup.number(value)}" for name, value in terms.items() if value
    )
