"""A game's life as a timeline in the trace format of Chrome, which Perfetto reads too.

From what the run keeps: the game's own note (`engine.monitor.observed`), its groups in the buffer,
and the steps in the metrics. Rows ("threads") are its samples by role, its pictures, and one for
each stream's groups, from their submission to the end of the step that trained them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.monitor.observed import TIMELINE

Event = dict[str, Any]


def chrome_trace(
    games: Iterable[Mapping[str, Any]], steps: Mapping[tuple[str, int], float]
) -> dict[str, Any]:
    """{"traceEvents": [...], "displayTimeUnit": "ms"} of games as `Buffer.game_life` tells them.

    `steps`: {(policy, step): unix seconds at which it had been made}. Times are in microseconds
    of the wall clock.
    """
    events: list[Event] = []
    for game in games:
        events += _game(game, steps)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def step_times(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], float]:
    """From the lines of `metrics.jsonl`; of a step that was made again, the last time."""
    return {
        (row["policy"], row["step"]): row["t"]
        for row in records
        if row["kind"] == "step" and not row.get("skipped")
    }


def _game(game: Mapping[str, Any], steps: Mapping[tuple[str, int], float]) -> list[Event]:
    number = int(game["game"])
    note = game["notes"].get(TIMELINE) or {}
    events = [_meta(number, 0, "process_name", f"game {number}")]
    end_s = game["ended_s"] or game["started_s"]
    arguments = {"state": game["state"], "reason": game["reason"]}
    rows = _Rows(number, events)
    rows.span("game", "admitted", game["started_s"], end_s, arguments)
    servers: Sequence[str] = note.get("servers", ())
    origin_s = note.get("started_s", game["started_s"])
    for role, start_ms, ms, tokens, version, server in note.get("samples", ()):
        told = {"tokens": tokens, "version": version, "server": servers[server]}
        start_s = origin_s + start_ms / 1e3
        rows.span(f"sample {role}", role, start_s, start_s + ms / 1e3, told)
    for start_ms, ms, outcome in note.get("pictures", ()):
        start_s = origin_s + start_ms / 1e3
        rows.span("render", outcome, start_s, start_s + ms / 1e3, {"outcome": outcome})
    for group in game["groups"]:
        _group(rows, group, steps)
    return events


def _group(rows: "_Rows", group: Mapping[str, Any], steps: Mapping[tuple[str, int], float]) -> None:
    """Its life in the buffer; a mark where it was dropped on arrival or still waits."""
    row, state = f"groups {group['stream']}", group["state"]
    told = {key: group[key] for key in ("state", "reason", "step", "age") if group[key] is not None}
    made_s = steps.get((group["policy"], group["step"])) if group["step"] is not None else None
    name = state if group["reason"] is None else f"{state}: {group['reason']}"
    if made_s is not None:
        rows.span(row, f"trained, step {group['step']}", group["created_s"], made_s, told)
    else:
        rows.mark(row, name, group["created_s"], told)


class _Rows:
    """The rows of one game. Spans that overlap go to rows of their own, as viewers want it."""

    def __init__(self, game: int, events: list[Event]) -> None:
        self._game = game
        self._events = events
        self._free_s: dict[str, list[tuple[int, float]]] = {}
        self._number = 0

    def span(self, row: str, name: str, start_s: float, end_s: float, told: Event) -> None:
        lanes = self._free_s.setdefault(row, [])
        free = (index for index, (_, free_s) in enumerate(lanes) if free_s <= start_s)
        if (index := next(free, None)) is None:
            index = len(lanes)
            lanes.append((self._lane(row), end_s))
        lane = lanes[index][0]
        lanes[index] = (lane, max(end_s, start_s))
        self._events.append(
            {
                "ph": "X",
                "name": name,
                "cat": row,
                "pid": self._game,
                "tid": lane,
                "ts": round(start_s * 1e6),
                "dur": max(round((end_s - start_s) * 1e6), 0),
                "args": told,
            }
        )

    def mark(self, row: str, name: str, at_s: float, told: Event) -> None:
        lanes = self._free_s.setdefault(row, [])
        if not lanes:
            lanes.append((self._lane(row), 0.0))
        event = {"ph": "i", "s": "t", "name": name, "cat": row, "pid": self._game}
        self._events.append(event | {"tid": lanes[0][0], "ts": round(at_s * 1e6), "args": told})

    def _lane(self, row: str) -> int:
        self._number += 1
        self._events.append(_meta(self._game, self._number, "thread_name", row))
        return self._number


def _meta(process: int, thread: int, name: str, value: str) -> Event:
    return {"ph": "M", "name": name, "pid": process, "tid": thread, "args": {"name": value}}
