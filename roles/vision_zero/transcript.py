"""What has been said at the table so far, as all players read it. Nobody's private notes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

NO_CLUE = "(no clue)"
"""What everyone sees where a seat gave no clue that could be used."""

# What ends a line for a reader, though not for JSON.
_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "\x7f\x85\u2028\u2029"}


@dataclass(frozen=True, slots=True)
class Clue:
    """One turn, as it is public."""

    seat: int
    round: int
    """From 1 on."""
    text: str | None
    """None where there was no clue."""

    @property
    def shown(self) -> str:
        return NO_CLUE if self.text is None else self.text


def render(clues: Sequence[Clue]) -> str:
    """One line of JSON for each clue: whatever a clue holds, it can't make or end a row."""
    return "\n".join(
        json.dumps(
            {"round": clue.round, "player": clue.seat, "clue": clue.shown}, ensure_ascii=False
        ).translate(_ESCAPED)
        for clue in clues
    )


def render_compact(clues: Sequence[Clue]) -> str:
    """One line for each clue, `2: top-left red circle`, for models of few words."""
    return "\n".join(f"{clue.seat}: {' '.join(clue.shown.split())}" for clue in clues)
