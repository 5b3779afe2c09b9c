"""Ability apart from format, as a page, a table and JSON: base and trained model, each asked both
ways (`evals.crossed`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from evals.crossed import CELLS, Crossed, crossed
from evals.report import html
from evals.report.results import BenchmarkResult
from evals.report.tables import Table, as_markdown, as_text, between, percent, signed

_EXPLAINED = (
    "Ability: what training adds under the same prompt, mean over both prompts. Format: what the "
    "trained model's prompt adds to the same model, mean over both models. Interaction: how much "
    "more training adds under the prompt that was trained. Over rows that all four answered, with "
    "intervals of 95 %."
)


def crossed_of(runs: Sequence[Sequence[BenchmarkResult]]) -> dict[str, Crossed]:
    """{title: table} of four runs in the order of `CELLS`; benchmarks without a common row are left
    out. Raises ValueError where there are not four."""
    found: dict[str, Crossed] = {}
    by_name = [{result.name: result for result in run} for run in runs]
    for name, first in by_name[0].items():
        cells = [run[name].records for run in by_name if name in run]
        table = crossed(first.benchmark, cells) if len(cells) == len(runs) else None
        if table is not None:
            found[first.benchmark.title] = table
    return found


def write_crossed(found: Mapping[str, Crossed], folder: Path, title: str) -> str:
    """Write crossed.html, crossed.md and crossed.json; the table as text, for a terminal."""
    folder.mkdir(parents=True, exist_ok=True)
    table = _table(found, title)
    numbers = {name: asdict(one) for name, one in found.items()}
    (folder / "crossed.json").write_text(json.dumps(numbers, indent=1) + "\n")
    page = f"{as_markdown(table)}\n{_EXPLAINED}\n"
    (folder / "crossed.md").write_text(page, encoding="utf-8", errors="backslashreplace")
    body = f"<h1>{html.text(title)}</h1><p>{html.text(_EXPLAINED)}</p>{html.table(table)}"
    html.write_page(folder / "crossed.html", html.page(title, body))
    told = f"{as_text(table)}{folder / 'crossed.html'}"
    # A lone surrogate of a model's name can't be printed.
    return told.encode(errors="backslashreplace").decode()


def _table(found: Mapping[str, Crossed], title: str) -> Table:
    effects = ("ability", "format", "interaction")
    head = ["benchmark", *CELLS, *(name for effect in effects for name in (effect, "95 %")), "rows"]
    rows = []
    for name, one in found.items():
        intervals = (one.ability, one.format, one.interaction)
        ends = [cell for i in intervals for cell in (signed(i), between(i))]
        rows.append([name, *(percent(one.cells[c]) for c in CELLS), *ends, str(one.rows)])
    return Table(title, head, rows)
