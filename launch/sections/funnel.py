"""What is left of each role's rollouts and groups on their way to a trained batch, and why."""

from collections import Counter
from collections.abc import Mapping
from html import escape
from typing import Any

from engine.monitor.snapshot import Stages, stages
from launch.charts import line_chart, share_bar
from launch.recipe import UNNAMED
from launch.sections.rewards import over_time, pick
from launch.sections.run import Run, in_order
from launch.sections.tables import cells, grid, reasons, share

SMOOTH = 5


def funnel(run: Run) -> str:
    found, counts = run.buffer.funnel(), run.buffer.counts()  # a live run may add to the second
    parts = [_games(counts["games"])]
    unusable = _unusable(run)
    rows = "".join(
        _stream_rows(
            stream,
            stages(found[stream], run.words.get(stream, UNNAMED)),
            ["", unusable.get(stream, ""), "", *_ends(counts["groups"][stream])],
        )
        for stream in in_order(found)
    )
    if rows:
        titles = ("role", "stage", "number", "", "", "why not the others")
        head = "".join(f"<th>{title}</th>" for title in titles)
        caption = "Rollouts first, then the groups they make; shares are of the stage before."
        parts.append(
            f'<table class="funnel"><caption>{caption}</caption><tr>{head}</tr>{rows}</table>'
        )
    charts = [
        line_chart(
            "Share of rollouts that pass their role's form check",
            _usable_over_time(run),
            x_label="minutes",
            smooth=SMOOTH,
        ),
        line_chart(
            "Share of groups that can be trained on",
            pick(over_time(run), "kept"),
            x_label="minutes",
        ),
        line_chart("Steps", _steps(run), x_label="minutes"),
    ]
    return "".join(parts) + grid(charts)


def _games(games: Mapping[str, Any]) -> str:
    dropped = sum(games["dropped"].values())
    why = f" ({reasons(games['dropped'])})" if dropped else ""
    text = (
        f"{games['started']:,} games started: {games['finished']:,} finished, "
        f"{games['in_flight']:,} in flight, {dropped:,} dropped{why}."
    )
    return f"<p>{escape(text)}</p>"


def _stream_rows(stream: str, funnel: Stages, lost: list[str]) -> str:
    rows = []
    for number, (name, count) in enumerate(funnel):
        first = funnel[0 if number < 2 else 2][1]
        is_first = number in (0, 2)
        before = "" if is_first else share(count, funnel[number - 1][1])
        bar = share_bar(count / first) if first else ""
        title = stream if number == 0 else ""
        kind = "role" if number == 0 else "unit" if is_first else ""
        rows.append(
            f'<tr class="{kind}">'
            f"{cells((title, name, f'{count:,}', before))}"
            f"<td>{bar}</td><td>{escape(lost[number])}</td></tr>"
        )
    return "".join(rows)


def _ends(row: Mapping[str, Any]) -> list[str]:
    """Of a stream's groups: why they were dropped, by filters and by the engine; what waits."""
    waiting = {name: row[name] for name in ("ready", "leased") if row[name]}
    return [reasons(row["dropped"]), reasons(waiting)]


def _unusable(run: Run) -> dict[str, str]:
    """{stream: why its rollouts did not pass}, as shares of those that the proposals tell of."""
    why = {
        "proposer": Counter(p.invalid for p in run.proposals if p.invalid is not None),
        "coder": Counter(d for p in run.proposals for d in p.drawings if d is not None),
    }
    return {
        stream: ", ".join(
            f"{reason} {share(number, found.total())}" for reason, number in found.most_common(6)
        )
        for stream, found in why.items()
    }


def _usable_over_time(run: Run) -> dict[str, list[tuple[float, float]]]:
    """{stream: [(minutes, share)]} of the rollouts between two records of the engine."""
    rows = run.of_kind("engine")
    series: dict[str, list[tuple[float, float]]] = {}
    before: dict[str, tuple[int, int]] = {}
    for row in rows:
        for stream, view in row.get("streams", {}).items():
            if not view.get("funnel"):
                continue
            (_, sampled), (_, usable) = view["funnel"][:2]
            old_sampled, old_usable = before.get(stream, (0, 0))
            if sampled > old_sampled:
                point = (usable - old_usable) / (sampled - old_sampled)
                minutes = (row["t"] - rows[0]["t"]) / 60
                series.setdefault(stream, []).append((minutes, point))
                before[stream] = (sampled, usable)
    return series


def _steps(run: Run) -> dict[str, list[tuple[float, float]]]:
    rows = run.of_kind("step")
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        minutes = (row["t"] - rows[0]["t"]) / 60
        series.setdefault(row["policy"], []).append((minutes, row["step"]))
    return series
