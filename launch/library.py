"""What a live run keeps, for people to look at: games, pictures, timelines.

Reads the buffer through a connection of its own, from whatever thread calls.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from engine.metrics import read_steps
from engine.monitor.observed import TIMELINE
from engine.monitor.traces import chrome_trace, step_times
from engine.records import Records
from engine.rundir import RunDir
from launch.gallery import game_html
from roles.mm_zero.config import STREAMS
from roles.vision_zero.config import VOTER
from roles.vision_zero.gallery import NOTE

MAX_SCANNED = 400
"""Games that one look at the gallery reads at most, the newest."""
MAX_SHOWN = 50
NUM_FOR_REASONS = 20
"""Newest games whose proposals tell what reasons there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A filter of the gallery; what is empty lets all pass."""

    role: str = ""
    reason: str = ""
    topic: str = ""
    min_reward: float = -math.inf
    max_reward: float = math.inf
    limit: int = 12

    @classmethod
    def of(cls, query: Mapping[str, str], roles: Sequence[str]) -> "Wanted":
        """Raises ValueError that names the field."""
        role = query.get("role", "")
        if role and role not in roles:
            raise ValueError(f"role: there is no {role!r}; there are {', '.join(roles)}")
        limit = _number(query, "limit", 12)
        if not 1 <= limit <= MAX_SHOWN:
            raise ValueError(f"limit: want 1 to {MAX_SHOWN}")
        return cls(
            role=role,
            reason=query.get("reason", ""),
            topic=query.get("topic", "").strip().lower(),
            min_reward=_number(query, "min_reward", -math.inf),
            max_reward=_number(query, "max_reward", math.inf),
            limit=int(limit),
        )

    def passes(self, game: Mapping[str, Any]) -> bool:
        """A role alone asks that it played; a range of rewards that one of the role's, or of
        anybody's, lies in it. Rewards are known from the notes (`rewards_of`)."""
        if self.topic and self.topic not in str(game["notes"].get("topic", "")).lower():
            return False
        if self.reason and self.reason not in reasons_of(game):
            return False
        is_any = self.min_reward == -math.inf and self.max_reward == math.inf
        if is_any and not self.role:
            return True
        earned = rewards_of(game)
        if is_any:
            return self.role in earned.keys() | _players_of(game)
        asked = [self.role] if self.role else list(earned)
        return any(
            self.min_reward <= reward <= self.max_reward
            for role in asked
            for reward in earned.get(role, ())
        )


class Library:
    """Structurally an `engine.monitor.dashboard.Library`."""

    def __init__(self, run: RunDir, roles: Sequence[str]) -> None:
        self._run = run
        self._roles = roles

    def gallery(self, query: Mapping[str, str]) -> str:
        wanted = Wanted.of(query, self._roles)
        shown: list[str] = []
        with self._records() as records:
            for game in records.newest_games(MAX_SCANNED):
                if wanted.passes(game):
                    shown.append(game_html(game, image_url, is_open=not shown, links=True))
                if len(shown) == wanted.limit:
                    break
        return "".join(shown) or '<p class="dim">No game like that among the newest.</p>'

    def game(self, number: int) -> str:
        with self._records() as records:
            game = records.game_life(number)
        if game is None:
            raise KeyError(number)
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            f"<title>game {number}</title>"
            '<link rel="icon" href="/static/icon.svg">'
            '<link rel="stylesheet" href="/static/app.css"></head>'
            '<body><main class="gallery"><p><a href="/">the dashboard</a></p>'
            f"{game_html(game, image_url, is_open=True, links=True)}</main></body></html>"
        )

    def image(self, name: str) -> bytes:
        with self._records() as records:
            png = records.image(name)
        if png is None:
            raise KeyError(name)
        return png

    def trace(self, number: int) -> dict[str, Any]:
        with self._records() as records:
            game = records.game_life(number)
        if game is None:
            raise KeyError(number)
        begun_s = [group["created_s"] for group in game["groups"] if group["step"] is not None]
        # Nothing was trained before it was there, and most of it soon after.
        steps = read_steps(self._run.metrics, min(begun_s)) if begun_s else []
        return chrome_trace([game], step_times(steps))

    def filters(self) -> dict[str, list[str]]:
        with self._records() as records:
            reasons = set(records.reasons())
            for game in records.newest_games(NUM_FOR_REASONS):
                reasons |= reasons_of(game)
        return {"roles": list(self._roles), "reasons": sorted(reasons)}

    @contextmanager
    def _records(self) -> Iterator[Records]:
        records = Records.open(self._run.database)
        try:
            yield records
        finally:
            records.close()


def image_url(name: str) -> str:
    """Where the dashboard has a picture."""
    return f"/image/{name}.png"


def reasons_of(game: Mapping[str, Any]) -> set[str]:
    """Why the game, or a part of it, came to nothing. Of a recipe that is not known here: what its
    notes hold as "invalid" or "drop", at any depth."""
    found = {str(game["reason"])} if game["reason"] else set()
    for replica in _replicas(game["notes"].get(NOTE)):
        for clue in _rows(replica.get("clues")):
            if "invalid" in clue:
                found.add(_short(clue["invalid"]))
        for poll in _rows(replica.get("polls")):
            for vote in _rows(poll.get("votes")):
                if isinstance(vote.get("vote"), str):
                    found.add(_short(vote["vote"]))
    for proposal in _rows(game["notes"].get("proposals")):
        if "invalid" in proposal:
            found.add(_short(proposal["invalid"]))
        for drawing in _rows(proposal.get("drawings")):
            if "invalid" in drawing:
                found.add(_short(drawing["invalid"]))
            if drawing.get("drop"):
                found.add(_short(drawing["drop"]))
    if not game["notes"].keys() & {NOTE, "proposals"}:
        for row in _mappings(game["notes"]):
            found |= {_short(row[key]) for key in ("invalid", "drop") if row.get(key)}
    return found


def rewards_of(game: Mapping[str, Any]) -> dict[str, list[float]]:
    """{role: rewards of its rollouts}; the solver's where they trained. Of a recipe that is not
    known here: what its notes hold as {"role": ..., "reward": ...}, at any depth."""
    found: dict[str, list[float]] = {}
    for role, reward in _spy_rewards(game["notes"].get(NOTE)):
        found.setdefault(role, []).append(reward)
    proposer, coder, solver = STREAMS
    for proposal in _rows(game["notes"].get("proposals")):
        found.setdefault(proposer, []).append(float(proposal.get("reward") or 0.0))
        for drawing in _rows(proposal.get("drawings")):
            found.setdefault(coder, []).append(float(drawing.get("reward") or 0.0))
            hard = drawing.get("hard")
            if isinstance(hard, Mapping):
                found.setdefault(solver, []).extend(map(float, hard.get("rewards") or ()))
    if not game["notes"].keys() & {NOTE, "proposals"}:
        for row in _mappings(game["notes"]):
            who, earned = row.get("role"), row.get("reward")
            if isinstance(who, str) and isinstance(earned, int | float):
                found.setdefault(who, []).append(float(earned))
    return found


def _players_of(game: Mapping[str, Any]) -> set[str]:
    """The roles that were sampled."""
    timeline = game["notes"].get(TIMELINE)
    samples = timeline.get("samples", ()) if isinstance(timeline, Mapping) else ()
    return {str(role) for role, *_ in samples}


def _mappings(notes: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every mapping in the notes of a game, but for its timeline."""
    values: list[Any] = [value for key, value in notes.items() if key != TIMELINE]
    for value in values:  # it grows
        if isinstance(value, Mapping):
            yield value
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)


def _spy_rewards(note: Any) -> Iterator[tuple[str, float]]:
    """(role, reward) of every clue and vote of a spy game."""
    for replica in _replicas(note):
        for clue in _rows(replica.get("clues")):
            yield "spy" if clue.get("is_spy") else "civilian", float(clue.get("reward") or 0.0)
        for poll in _rows(replica.get("polls")):
            for vote in _rows(poll.get("votes")):
                yield VOTER, float(vote.get("reward") or 0.0)


def _replicas(note: Any) -> list[Mapping[str, Any]]:
    """Of the note of a spy game."""
    return _rows(note.get("replicas")) if isinstance(note, Mapping) else []


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _short(reason: Any) -> str:
    """Without its detail."""
    return str(reason).partition(":")[0]


def _number(query: Mapping[str, str], field: str, default: float) -> float:
    text = query.get(field, "").strip()
    if not text:
        return default
    try:
        value = float(text[:40])
    except ValueError:
        raise ValueError(f"{field}: {text[:40]!r} is no number") from None
    if math.isnan(value):
        raise ValueError(f"{field}: want a number")
    return value
