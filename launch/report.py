"""`report.html` of a run: one file without scripts or references, also while the run goes on.

python launch/report.py runs/quickstart
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.buffer import Buffer
from engine.errors import ConfigError, EngineError
from engine.metrics import read_metrics
from engine.rundir import RunDir
from launch.gallery import game_html
from launch.sections.benchmarks import benchmarks
from launch.sections.diversity import diversity
from launch.sections.funnel import funnel
from launch.sections.measures import dev_curves, heldout, honesty
from launch.sections.proposals import read_proposals
from launch.sections.rewards import rewards
from launch.sections.run import Run
from launch.sections.work import ages, learners, renderer, time_spent
from launch.signs import warnings

NUM_GAMES = 6
MAX_GAMES = 2000
"""Games whose notes are read for the sums; of a longer run every second, third, ... one."""


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
        proposals = read_proposals(buffer.games_evenly(MAX_GAMES))
        page = render(Run(run.path.name, summary, read_metrics(run.metrics), buffer, proposals))
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
        ("Held-out set, before and after", heldout(run)),
        ("Where a gain comes from", honesty(run)),
        ("Benchmarks during the run", benchmarks(run)),
        ("Funnel", funnel(run)),
        ("Rewards in play", rewards(run)),
        ("What the diversity terms did", diversity(run)),
        ("Development set during the run", dev_curves(run)),
        ("Age of what was trained", ages(run)),
        ("Where the time went", time_spent(run)),
        ("Pictures", renderer(run)),
        ("Learners", learners(run)),
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
    # One of a kind, the newest: it was said anew for other numbers.
    newest = {re.sub(r"[\d.]+", "", str(text)): str(text) for text in reversed(found)}
    notes = "".join(
        f'<div class="warning">{escape(text)}</div>' for text in reversed(newest.values())
    )
    line = escape(" · ".join(facts))
    return f'<h1>{escape(run.name)}</h1><p class="dim">{line}</p>{notes}'


def _games(run: Run) -> str:
    games = run.buffer.gallery(NUM_GAMES)
    shown = (0, len(games) - 1)  # the earliest and the latest stand open
    return "".join(
        game_html(game, run.buffer.image, is_open=i in shown) for i, game in enumerate(games)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
