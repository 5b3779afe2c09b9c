"""A spy game as people look at it: both pictures, who said what, and who was suspected."""

from collections import Counter
from typing import Any

from launch.markup import ImageSource, Notes, number, picture, pre, text
from roles.vision_zero.gallery import NOTE


def spy_game_html(notes: Notes, source: ImageSource) -> str:
    """From the notes of a game (`roles.vision_zero.gallery`)."""
    game = notes[NOTE]
    pictures = "".join(
        f"<figure>{picture(notes, f'picture/{who}', source, f'what the {who} sees')}"
        f"<figcaption>{who}</figcaption></figure>"
        for who in ("civilian", "spy")
    )
    replicas = "".join(
        _replica(place, replica) for place, replica in enumerate(_rows(game, "replicas"), start=1)
    )
    head = f"<p>the spy: player {text(game.get('spy'))} · pair {text(game.get('pair'))}</p>"
    older = game.get("frozen")
    asked = f"<h4>an older voter, on replica 1</h4>{_poll(older)}" if older else ""
    return f'{head}<div class="pair">{pictures}</div>{replicas}{asked}'


def _replica(place: int, replica: Notes) -> str:
    rows = "".join(map(_clue, _rows(replica, "clues")))
    polls = "".join(map(_poll, _rows(replica, "polls")))
    return (
        f'<div class="proposal"><h4>replica {place}</h4>'
        '<table class="clues"><tr><th>round</th><th>player</th><th>clue</th><th>true</th>'
        "<th>reward</th></tr>"
        f"{rows}</table>{polls}</div>"
    )


def _clue(clue: Notes) -> str:
    who = f"{text(clue.get('seat'))}{' (spy)' if clue.get('is_spy') else ''}"
    said = (
        text(clue["clue"])
        if "clue" in clue
        else f'<span class="bad">{text(clue.get("invalid"))}</span>'
    )
    true = "–" if clue.get("is_true") is None else "yes" if clue["is_true"] else "no"
    thought = f"<details><summary>reply</summary>{pre(clue.get('text'))}</details>"
    cells = (text(clue.get("round")), who, f"{said}{thought}", true, number(clue.get("reward")))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _poll(poll: Notes) -> str:
    votes = _rows(poll, "votes")
    counts = Counter(_named(vote.get("vote")) for vote in votes)
    told = ", ".join(f"{text(name)} ×{times}" for name, times in counts.most_common())
    found = "the spy is found" if poll.get("found") else "the spy is not found"
    replies = "".join(pre(vote.get("text")) for vote in votes)
    return (
        f"<p><b>{found}</b> · votes: {told}</p>"
        f"<details><summary>replies</summary>{replies}</details>"
    )


def _rows(notes: Notes, key: str) -> list[Notes]:
    rows = notes.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _named(vote: Any) -> str:
    return "N/A" if vote is None else f"player {vote}" if isinstance(vote, int) else f"({vote})"
