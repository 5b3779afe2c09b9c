"""`report.html` of a run: one file without scripts or references, also while the run goes on.

python launch/report.py runs/quickstart
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.buffer import Buffer
from engine.errors import ConfigError, EngineError
from engine.metrics import read_metrics
from engine.monitor.snapshot import age_stats
from engine.rundir import RunDir
from evals.games import game_signs
from launch.charts import bar_chart, fraction_bar, line_chart
from launch.gallery import game_html
from launch.signs import warnings

Record = Mapping[str, Any]

MEASURES = {
    "solver_easy_t1": "solver, easy questions (mean of samples at T = 1)",
    "solver_hard_t1": "solver, hard questions (mean of samples at T = 1)",
    "coder_render": "coder, drawings that render",
    "coder_faithful": "coder, drawings that show exactly their caption",
    "proposer_valid": "proposer, valid proposals",
    "proposer_diversity": "proposer, diversity",
}
HONESTY = {
    "solver_easy_greedy": "solver, easy, greedy: more than a cooler distribution?",
    "solver_hard_greedy": "solver, hard, greedy",
    "solver_easy_maj16": "base's vote of 16, easy: what it already knew",
    "solver_hard_maj16": "base's vote of 16, hard",
    "solver_easy_careful": "replies that look before they answer, easy",
    "solver_hard_careful": "replies that look before they answer, hard",
    "solver_easy_boxed": "replies with a boxed answer, easy",
    "solver_hard_boxed": "replies with a boxed answer, hard",
    "proposer_easy_true": "proposals whose easy answer is true of their caption",
    "proposer_real_hard": "proposals whose hard question is one",
}
SIGNS = {
    "label_true": "in play, early and late: labels that are true of the picture as drawn",
    "careful": "in play: replies that look before they answer",
    "consistency": "in play: share of the votes for the majority",
    "faithful": "in play: pictures that show their caption",
    "easy_true": "in play: easy answers that are true of the caption",
    "real_hard": "in play: hard questions that are hard ones",
}
"""Of `evals.games`."""
NUM_GAMES = 6
NUM_SIGNS = 100
"""Games at the start and at the end of which the signs are compared."""
SMOOTH = 10


@dataclass(frozen=True, slots=True)
class Run:
    """All that a report is made from."""

    name: str
    summary: Record | None
    """None: the run has not ended."""
    records: Sequence[Record]
    buffer: Buffer

    def of_kind(self, kind: str) -> list[Record]:
        return [row for row in self.records if row["kind"] == kind]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="launch/report.py", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="a folder runs/NAME")
    args = parser.parse_args(argv)
    try:
        print(write_report(args.run))
    except EngineError as error:
        print(f"streamzero: {error}", file=sys.stderr)
        return 2
    return 0


def write_report(folder: Path) -> Path:
    """Write and return `report.html` of a run's folder. Raises ConfigError where there is none."""
    run = RunDir(folder)
    if not run.database.exists():
        raise ConfigError(f"{run.path}: no run here ({run.database.name} is missing)")
    summary = json.loads(run.summary.read_text()) if run.summary.exists() else None
    buffer = Buffer.open(run.database, read_only=True)
    try:
        page = render(Run(run.path.name, summary, read_metrics(run.metrics), buffer))
    finally:
        buffer.close()
    temporary = run.report.with_suffix(".tmp")
    # Model text may hold lone surrogates, which UTF-8 can't.
    temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    temporary.replace(run.report)
    return run.report


def render(run: Run) -> str:
    """The page."""
    style = (Path(__file__).parent / "report.css").read_text()
    sections = [
        ("", _head(run)),
        ("Held-out set, before and after", _heldout(run)),
        ("Where a gain comes from", _honesty(run)),
        ("Rewards in play", _rewards(run)),
        ("Development set during the run", _dev_curves(run)),
        ("Age of what was trained", _ages(run)),
        ("Where the time went", _time(run)),
        ("What became of games and groups", _funnel(run)),
        ("Learners", _learners(run)),
        ("Games, early and late", _games(run)),
    ]
    body = "".join(
        (f"<h2>{escape(title)}</h2>" if title else "") + html for title, html in sections if html
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(run.name)}</title><style>{style}</style></head><body>{body}</body></html>"
    )


def _head(run: Run) -> str:
    counts = run.buffer.counts()
    facts = [f"{counts['games']['finished']} games finished"]
    if run.summary is None:
        facts.insert(0, "the run has not ended: no summary yet")
    else:
        summary = run.summary
        tokens = summary["tokens"].values()
        facts += [
            f"{summary['wall_s'] / 60:.1f} min",
            f"{summary['attempts']} attempt(s)",
            f"{sum(row['generated'] for row in tokens):,} tokens generated",
            f"{sum(row['trained'] for row in tokens):,} trained on",
            f"seed {summary['seed']}",
            f"config {summary['config_sha256'][:12]}",
        ]
    found = [*warnings(run.records)]
    found += [row["text"] for row in run.of_kind("event") if row.get("level") == "warning"][-12:]
    notes = "".join(
        f'<div class="warning">{escape(str(text))}</div>' for text in dict.fromkeys(found)
    )
    line = escape(" · ".join(facts))
    return f'<h1>{escape(run.name)}</h1><p class="dim">{line}</p>{notes}'


def _heldout(run: Run) -> str:
    rows = _measure_rows(run, MEASURES)
    if not rows:
        return "<p>Not measured (yet).</p>"
    caption = "Scenes that neither pre-training nor play has seen; intervals over items, 95 %."
    return _measure_table(rows, caption)


def _honesty(run: Run) -> str:
    rows = _measure_rows(run, HONESTY)
    games = run.buffer.gallery(NUM_SIGNS)
    early, late = (_signs(part) for part in (games[: len(games) // 2], games[len(games) // 2 :]))
    for name, title in SIGNS.items():
        if early[name] and late[name]:
            first, last = (sum(values) / len(values) for values in (early[name], late[name]))
            cells = [f"{first:.3f}", f"{last:.3f}", f"{last - first:+.3f}"]
            cells.append(f"n = {len(early[name])}, {len(late[name])}")
            rows.append(f"<tr><td>{escape(title)}</td>{_cells(cells)}</tr>")
    if not rows:
        return ""
    caption = (
        "The base's weakness is partly a choice between modes of answering. A gain at T = 1 that "
        "stays below the base's vote of 16 and comes with more careful replies is that choice "
        "changing, not new knowledge."
    )
    return _measure_table(rows, caption)


def _signs(games: Sequence[Record]) -> dict[str, list[float]]:
    """Values of `evals.games.game_signs` over the games that have what they need."""
    values: dict[str, list[float]] = {name: [] for name in SIGNS}
    for game in games:
        if isinstance(proposals := game["notes"].get("proposals"), list):
            found = game_signs(proposals)
            for name, own in values.items():
                own += found[name]
    return values


def _measure_rows(run: Run, names: Mapping[str, str]) -> list[str]:
    heldout = (run.summary or {}).get("heldout") or {}
    before, after = heldout.get("before", {}), heldout.get("after", {})
    if not after:  # the run goes on: what was measured so far
        for row in run.of_kind("heldout"):
            (before if "before" in row.get("when", "") else after).update(row.get("means", {}))
    rows = []
    for name, title in names.items():
        if name not in before and name not in after:
            continue
        delta, ci = heldout.get("delta", {}).get(name), heldout.get("ci95", {}).get(name)
        kind = "" if ci is None else "up" if ci[0] > 0 else "down" if ci[1] < 0 else ""
        interval = "" if ci is None else f"{ci[0]:+.3f} .. {ci[1]:+.3f}"
        change = "" if delta is None else f"{delta:+.3f}"
        cells = _cells([_decimal(before.get(name)), _decimal(after.get(name))])
        rows.append(
            f"<tr><td>{escape(title)}</td>{cells}"
            f'<td class="{kind}">{change}</td><td>{interval}</td></tr>'
        )
    return rows


def _measure_table(rows: Sequence[str], caption: str) -> str:
    head = "<tr><th></th><th>before</th><th>after</th><th>change</th><th>95 %</th></tr>"
    return f"<table><caption>{escape(caption)}</caption>{head}{''.join(rows)}</table>"


def _rewards(run: Run) -> str:
    by_policy: dict[str, list[tuple[float, float]]] = {}
    for row in run.of_kind("step"):
        if row.get("reward") is not None and not row.get("skipped"):
            by_policy.setdefault(row["policy"], []).append((row["step"], row["reward"]))
    charts = [line_chart("Mean reward of the trained batch", by_policy, smooth=SMOOTH)]
    rolling = _over_time(run)
    for stream in dict.fromkeys(name.partition("/")[0] for name in rolling):
        own = {
            name.removeprefix(f"{stream}/term/"): points
            for name, points in rolling.items()
            if name.startswith(f"{stream}/term/")
        }
        charts.append(line_chart(f"{stream}: terms of the reward", own, x_label="minutes"))
    signs: dict[str, list[tuple[float, float]]] = {}
    for row in run.of_kind("groups"):
        for name, value in row.get("signs", {}).items():
            if value is not None:
                minutes = (row["t"] - run.of_kind("groups")[0]["t"]) / 60
                signs.setdefault(name, []).append((minutes, value))
    charts.append(line_chart("Signs, by the truth of the scenes", signs, x_label="minutes"))
    for key, title in (
        ("reward", "Mean reward of all groups, dropped ones too"),
        ("kept", "Share of groups that can be trained on"),
        ("tokens", "Tokens of a reply"),
        ("truncated", "Share of replies that were cut off"),
        ("extra/share", "Share of the votes that agree with the majority"),
    ):
        own = {
            name.removesuffix(f"/{key}"): points
            for name, points in rolling.items()
            if name.endswith(f"/{key}") and name.count("/") == key.count("/") + 1
        }
        charts.append(line_chart(title, own, x_label="minutes"))
    return _grid(charts)


def _over_time(run: Run) -> dict[str, list[tuple[float, float]]]:
    """{stream/measure: [(minutes since the start, value)]} of the rolling means."""
    rows = run.of_kind("groups")
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        minutes = (row["t"] - rows[0]["t"]) / 60
        for stream, means in row.get("streams", {}).items():
            for name, value in means.items():
                if value is not None:
                    series.setdefault(f"{stream}/{name}", []).append((minutes, value))
    return series


def _dev_curves(run: Run) -> str:
    rows = [row for row in run.of_kind("dev") if row.get("means")]
    charts = []
    for prefix in ("solver", "coder", "proposer"):
        names = sorted({n for row in rows for n in row["means"] if n.startswith(f"{prefix}_")})
        series = {
            name.removeprefix(f"{prefix}_"): [
                (row["step"], row["means"][name])
                for row in rows
                if row["means"].get(name) is not None
            ]
            for name in names
        }
        parts = list(series.items())
        for start in range(0, len(parts), 4):
            charts.append(line_chart(f"{prefix} (dev set)", dict(parts[start : start + 4])))
    return _grid(charts)


def _ages(run: Run) -> str:
    histogram = run.buffer.ages()
    total = {stream: sum(bars.values()) for stream, bars in histogram.items()}
    shares = {
        stream: {age: number / total[stream] for age, number in bars.items()}
        for stream, bars in histogram.items()
    }
    judges = run.buffer.judge_ages()
    of_judges = {age: number / sum(judges.values()) for age, number in judges.items()}
    charts = [
        bar_chart("Age of the oldest token, share of groups", shares, x_label="steps"),
        bar_chart("Age of the judges, share of groups", {"all": of_judges}, x_label="steps"),
    ]
    rows = [
        (stream, *(_decimal(value, 2) for value in age_stats(bars).values()))
        for stream, bars in histogram.items()
    ]
    return _grid(charts) + _table(("stream", "mean", "p95", "max"), rows)


def _time(run: Run) -> str:
    parts = []
    busy = (run.summary or {}).get("busy_fraction") or {}
    snapshots = run.of_kind("engine")
    if not busy and snapshots:
        busy = snapshots[-1].get("busy", {})
    busy = {name: fraction for name, fraction in busy.items() if fraction is not None}
    if busy:
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{fraction:.0%}</td>"
            f"<td>{fraction_bar({'busy': fraction, 'idle': 1 - fraction})}</td></tr>"
            for name, fraction in busy.items()
        )
        parts.append(f"<table><tr><th>part</th><th>busy</th><th></th></tr>{rows}</table>")
    waits: dict[str, Counter[str]] = {}
    for row in snapshots:
        for policy, view in row.get("policies", {}).items():
            # "solver: 3/4 games" and "solver: 2/4 games" are one reason.
            reason = "".join(c for c in view.get("waits_for", "") if c not in "0123456789/")
            waits.setdefault(policy, Counter())[" ".join(reason.split()) or "trains"] += 1
    rows_of_waits = [
        (policy, reason, f"{number / sum(reasons.values()):.0%}")
        for policy, reasons in waits.items()
        for reason, number in reasons.most_common()
    ]
    if rows_of_waits:
        parts.append(_table(("policy", "waited for", "share of the time"), rows_of_waits))
    rates: dict[str, list[tuple[float, float]]] = {}
    for row in snapshots:
        minutes = (row["t"] - snapshots[0]["t"]) / 60
        for kind in ("generated", "trained"):
            total = sum(
                view.get(f"{kind}_per_s") or 0.0 for view in row.get("policies", {}).values()
            )
            rates.setdefault(kind, []).append((minutes, total))
    parts.append(_grid([line_chart("Tokens per second", rates, x_label="minutes", smooth=SMOOTH)]))
    return "".join(parts)


def _funnel(run: Run) -> str:
    counts = run.buffer.counts()
    games = counts["games"]
    rows = [
        ("games", games["started"], games["finished"], games["in_flight"], "", games["dropped"])
    ]
    rows += [
        (stream, row["submitted"], row["trained"], row["ready"], row["leased"], row["dropped"])
        for stream, row in counts["groups"].items()
    ]
    head = ("", "started / submitted", "finished / trained", "in flight / ready", "leased")
    return _table((*head, "dropped"), [(*row[:5], _reasons(row[5])) for row in rows]) + _grid(
        [line_chart("Steps", _steps(run), x_label="minutes")]
    )


def _steps(run: Run) -> dict[str, list[tuple[float, float]]]:
    rows = run.of_kind("step")
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        minutes = (row["t"] - rows[0]["t"]) / 60
        series.setdefault(row["policy"], []).append((minutes, row["step"]))
    return series


def _learners(run: Run) -> str:
    rows = [row for row in run.of_kind("step") if not row.get("skipped")]
    charts = []
    for key, title in (
        ("grad_norm", "Gradient norm"),
        ("entropy", "Entropy, nats per token"),
        ("ess", "Effective sample size, share of the tokens"),
        ("k3", "KL of sampler and learner (k3)"),
        ("ratio_max", "Largest ratio of learner to sampler"),
        ("clipped_fraction", "Share of tokens clipped"),
        ("step_s", "Seconds per step"),
    ):
        series: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            value = row.get("metrics", {}).get(key)
            if value is not None:
                series.setdefault(row["policy"], []).append((row["step"], value))
        charts.append(line_chart(title, series, smooth=SMOOTH))
    return _grid(charts)


def _games(run: Run) -> str:
    games = run.buffer.gallery(NUM_GAMES)
    shown = (0, len(games) - 1)  # the earliest and the latest stand open
    return "".join(
        game_html(game, run.buffer.image, is_open=i in shown) for i, game in enumerate(games)
    )


def _reasons(dropped: Mapping[str, int]) -> str:
    ordered = sorted(dropped.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason} {number}" for reason, number in ordered)


def _decimal(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _cells(values: Sequence[Any]) -> str:
    return "".join(f"<td>{escape(str(value))}</td>" for value in values)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{body}</table>"


def _grid(charts: Sequence[str]) -> str:
    found = "".join(charts)
    return f'<div class="charts">{found}</div>' if found else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
