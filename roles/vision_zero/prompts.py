"""What the seats of Vision-Zero are asked, from markdown templates in `prompts/<set>/`.

Sets: `full` for real models, `tiny` for the embedded default, which is pre-trained on exactly
these strings. A request is the picture, `table.md` (rules and public transcript: the same for all
who see that picture, so that a server reads it once), and then what is for this seat alone. A set
says by `{transcript}` or `{compact_transcript}` how it shows the clues, and may leave out what its
model has no use for. The wording is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.types import Message
from roles.mm_zero.prompts import fill
from roles.vision_zero.transcript import Clue, render, render_compact

_FOLDER = Path(__file__).parent / "prompts"


@dataclass(frozen=True, slots=True)
class Prompts:
    """Templates of one prompt set; each method gives the messages of one request."""

    table_template: str
    notes_template: str
    """What a player thought in earlier rounds; empty: the player is not reminded."""
    civilian_template: str
    spy_template: str
    judge_template: str
    """For a vote by one who does not play."""
    voter_template: str
    """For a vote by a civilian."""

    def clue(
        self,
        *,
        seat: int,
        is_spy: bool,
        num_players: int,
        round: int,
        num_rounds: int,
        hint: str,
        transcript: Sequence[Clue],
        notes: Sequence[str],
    ) -> list[Message]:
        """`hint`: what differs between the pictures; `notes`: its own reasoning in earlier rounds,
        oldest first, which no other seat sees."""
        seat_template = self.spy_template if is_spy else self.civilian_template
        values = {"seat": str(seat), "round": str(round), "num_rounds": str(num_rounds)}
        reminder = fill(self.notes_template, notes="\n".join(notes)) if notes else ""
        return _with_picture(
            self._table(num_players, hint, transcript), reminder, fill(seat_template, **values)
        )

    def vote(
        self, *, num_players: int, hint: str, transcript: Sequence[Clue], seat: int | None
    ) -> list[Message]:
        """`seat`: the civilian who votes, or None: a judge who does not play."""
        table = self._table(num_players, hint, transcript)
        if seat is None:
            return _with_picture(table, fill(self.judge_template, num_players=str(num_players)))
        values = {"seat": str(seat), "num_players": str(num_players)}
        return _with_picture(table, fill(self.voter_template, **values))

    def _table(self, num_players: int, hint: str, transcript: Sequence[Clue]) -> str:
        return fill(
            self.table_template,
            num_players=str(num_players),
            hint=hint,
            transcript=render(transcript),
            compact_transcript=render_compact(transcript),
        )


def load_prompts(name: str) -> Prompts:
    """The prompt set `name`. Raises ConfigError where there is no such set."""
    known = sorted(path.name for path in _FOLDER.iterdir() if path.is_dir())
    if name not in known:
        raise ConfigError(f"recipe.prompts: no prompt set {name!r}; there are {', '.join(known)}")
    texts = [
        (_FOLDER / name / f"{part}.md").read_text().strip()
        for part in ("table", "notes", "civilian", "spy", "judge", "voter")
    ]
    return Prompts(*texts)


def _with_picture(*parts: str) -> list[Message]:
    """Image first, so that all who see it share its prefix; empty parts are left out."""
    text = "\n\n".join(part.strip() for part in parts if part.strip())
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
