"""What a run prints at its end, and tables over several runs, as markdown.

python launch/result.py runs/seed0 runs/seed1 runs/seed2          # a column for each run
python launch/result.py full=runs/a0,runs/a1 no_cap=runs/b0,runs/b1      # for each variant
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
from evals import heldout as questions
from evals import spy_heldout as votes

MEASURES = questions.MEASURES + votes.MEASURES
HONESTY = questions.HONESTY + votes.HONESTY


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


def variants_markdown(variants: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One row per measure: the base, then each variant's change as mean [least, most] over its
    runs (of one run, just that). A measure that some run lacks is left out."""
    runs = [summary["heldout"] for own in variants.values() for summary in own]
    lines = [
        "| measure | base | " + " | ".join(variants) + " |",
        "|---" * (len(variants) + 2) + "|",
    ]
    for name in (*MEASURES, *HONESTY):
        if not all(name in one["delta"] for one in runs):
            continue
        cells = []
        for own in variants.values():
            changes = [summary["heldout"]["delta"][name] for summary in own]
            mean = sum(changes) / len(changes)
            spread = f" [{min(changes):+.3f}, {max(changes):+.3f}]" if len(changes) > 1 else ""
            cells.append(f"{mean:+.3f}{spread}")
        base = sum(one["before"][name] for one in runs) / len(runs)
        lines.append(f"| `{name}` | {base:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    try:
        if all("=" in argument for argument in arguments):
            named = (argument.split("=", 1) for argument in arguments)
            variants = {name: [_read(f) for f in folders.split(",")] for name, folders in named}
            print(variants_markdown(variants))
        else:
            print(markdown([_read(folder) for folder in arguments]))
    except (OSError, ValueError) as error:
        print(f"streamzero: no summary of a run: {error}", file=sys.stderr)
        return 2
    return 0


def _read(folder: str) -> dict[str, Any]:
    path = Path(folder) / "summary.json"
    try:
        summary: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return summary


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
