"""What a run was warned of: the alarms of its records, and what was said while it ran."""

import re
from html import escape

from engine.monitor.alarms import of_history
from launch.sections.run import Run
from launch.signs import signs

NUM_EVENTS = 12


def notes(run: Run) -> str:
    """A box for each, alarms with what to try; empty: nothing was noticed."""
    told = [
        (alarm.sentence, alarm.advice) for alarm in (*signs(run.records), *of_history(run.records))
    ]
    events = [row for row in run.of_kind("event") if row.get("level") == "warning"]
    told += [(str(row.get("text", "")), "") for row in reversed(events[-NUM_EVENTS:])]
    # One of a kind, the newest: it was said anew for other numbers.
    newest: dict[str, tuple[str, str]] = {}
    for text, advice in told:
        newest.setdefault(re.sub(r"[\d.]+", "", text), (text, advice))
    return "".join(
        f'<div class="warning">{escape(text)}'
        + (f"<br><small>{escape(advice)}</small>" if advice else "")
        + "</div>"
        for text, advice in newest.values()
    )
