"""`report.html` of a run: one file without scripts or references, also while the run goes on; of
several runs, one file that compares them.

python launch/report.py runs/quickstart
python launch/report.py runs/a runs/b                  # writes runs/compare-a-b.html
python launch/report.py full=runs/a0,runs/a1 no_cap=runs/b0,runs/b1
"""

import argparse
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import EngineError
from engine.rundir import RunDir
from launch.compare import is_group, write_comparison
from launch.gallery import game_html, inline
from launch.sections.benchmarks import benchmarks
from launch.sections.diversity import diversity
from launch.sections.funnel import funnel
from launch.sections.measures import dev_curves, heldout, honesty
from launch.sections.notes import notes
from launch.sections.page import page, write_page
from launch.sections.rewards import rewards
from launch.sections.run import Run, opened
from launch.sections.work import ages, learners, renderer, time_spent

NUM_GAMES = 6
MAX_GAMES = 2000
"""Games whose notes are read for the sums; of a longer run every second, third, ... one."""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="launch/report.py", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a folder runs/NAME, or LABEL=RUN,RUN for several"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write a comparison")
    args = parser.parse_args(argv)
    try:
        if len(args.runs) == 1 and args.out is None and not is_group(args.runs[0]):
            print(write_report(Path(args.runs[0])))
        else:
            print(write_comparison(args.runs, args.out))
    except EngineError as error:
        print(f"streamzero: {error}", file=sys.stderr)
        return 2
    return 0


def write_report(folder: Path) -> Path:
    """Write and return `report.html` of a run's folder. Raises ConfigError where there is none."""
    with opened(folder, MAX_GAMES) as run:
        text = render(run)
    return write_page(RunDir(folder).report, text)


def render(run: Run) -> str:
    """The page."""
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
    return page(run.name, sections)


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
    line = escape(" · ".join(facts))
    return f'<h1>{escape(run.name)}</h1><p class="dim">{line}</p>{notes(run)}'


def _games(run: Run) -> str:
    games = run.buffer.gallery(NUM_GAMES)
    shown = (0, len(games) - 1)  # the earliest and the latest stand open
    source = inline(run.buffer.image)
    return "".join(game_html(game, source, is_open=i in shown) for i, game in enumerate(games))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
