"""What a report keeps of each proposal: a few words of its note, so that a long run fits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    game: int
    invalid: str | None = None
    """Why it is no proposal; the rest is empty then."""
    content_type: str = ""
    caption: str = ""
    terms: Mapping[str, float] = field(default_factory=dict)
    """Of its reward."""
    drawings: tuple[str | None, ...] = ()
    """Why each one shows nothing; None: it rendered."""


def read_proposals(games: Iterable[Mapping[str, Any]]) -> list[Proposed]:
    """Of `Buffer.games_evenly`. A note of another form than MM-Zero's is passed over."""
    found: list[Proposed] = []
    for game in games:
        notes = game["notes"]
        entries = notes.get("proposals") if isinstance(notes, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                found.append(_proposed(game["game"], entry))
    return found


def _proposed(game: int, entry: Mapping[str, Any]) -> Proposed:
    proposal = entry.get("proposal")
    if not isinstance(proposal, dict):
        return Proposed(game=game, invalid=_reason(entry))
    terms = entry.get("terms") or {}
    return Proposed(
        game=game,
        content_type=str(proposal.get("content_type", "")),
        caption=str(proposal.get("caption", "")),
        terms={name: float(value) for name, value in terms.items()},
        drawings=tuple(
            _reason(drawing) if "invalid" in drawing else None
            for drawing in entry.get("drawings") or ()
        ),
    )


def _reason(entry: Mapping[str, Any]) -> str:
    """Without its detail."""
    return str(entry.get("invalid", "?")).partition(":")[0]
