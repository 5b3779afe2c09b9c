"""What a run prints at its end, and one table over several runs.

python launch/result.py runs/seed0 runs/seed1 runs/seed2     # markdown, from summary.json
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.rundir import RunDir
from evals.heldout import MEASURES


def print_result(summary: Mapping[str, Any], run: RunDir) -> None:
    """The table of `summary["heldout"]`, with 95 % intervals of each change."""
    console = Console()
    heldout = summary["heldout"]
    if heldout["delta"]:
        console.print(_table(heldout))
    games, steps = summary["games"], summary["steps"]
    console.print(
        f"{games['finished']} games finished, {sum(games['dropped'].values())} dropped; "
        f"steps {', '.join(f'{policy} {step}' for policy, step in steps.items())}; "
        f"{summary['wall_s']:.0f} s in {summary['attempts']} attempt(s)",
        soft_wrap=True,
    )
    console.print(f"report: {run.report}", soft_wrap=True)


def _table(heldout: Mapping[str, Any]) -> Table:
    table = Table(title="Held-out scenes, never seen in pre-training or play", title_justify="left")
    for name in ("measure", "before", "after", "change", "95 % interval"):
        table.add_column(name, justify="left" if name == "measure" else "right")
    for name in MEASURES:
        if name in heldout["delta"]:
            low, high = heldout["ci95"][name]
            table.add_row(
                name,
                f"{heldout['before'][name]:.3f}",
                f"{heldout['after'][name]:.3f}",
                f"{heldout['delta'][name]:+.3f}",
                f"[{low:+.3f}, {high:+.3f}]",
            )
    return table


def markdown(summaries: Sequence[Mapping[str, Any]]) -> str:
    """One row per measure: before, then each run's change with its 95 % interval, then the mean."""
    heldout = [summary["heldout"] for summary in summaries]
    seeds = [f"seed {summary['seed']}" for summary in summaries]
    lines = [
        "| measure | base | " + " | ".join(seeds) + " | mean change |",
        "|---" * (len(seeds) + 3) + "|",
    ]
    for name in MEASURES:
        if not all(name in one["delta"] for one in heldout):
            continue
        cells = [
            f"{one['delta'][name]:+.3f} [{one['ci95'][name][0]:+.3f}, {one['ci95'][name][1]:+.3f}]"
            for one in heldout
        ]
        base = sum(one["before"][name] for one in heldout) / len(heldout)
        change = sum(one["delta"][name] for one in heldout) / len(heldout)
        lines.append(f"| `{name}` | {base:.3f} | " + " | ".join(cells) + f" | **{change:+.3f}** |")
    return "\n".join(lines)


def main(folders: Sequence[str]) -> int:
    summaries = []
    for folder in folders:
        path = Path(folder) / "summary.json"
        try:
            summaries.append(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            print(f"streamzero: {path}: no summary of a run ({error})", file=sys.stderr)
            return 2
    print(markdown(summaries))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
