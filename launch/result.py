"""What a run prints at its end: the held-out table, and where the report is."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

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
        f"{summary['wall_s']:.0f} s in {summary['attempts']} attempt(s)"
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
