"""Puts a report into a folder: results.json, report.html with rows-*.html, table.md, table.tex."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.benchmark import Published
from evals.report import html, tables
from evals.report.measures import Measures
from evals.report.results import RESULTS, BenchmarkResult
from evals.report.rows import filters, pages, refused_html, row_html
from evals.report.summary import Summary, warning_of
from evals.report.tables import Table
from evals.report.thumbnails import Thumbnails

_INLINE = 10
"""Rows of each benchmark on the first page."""


def write(summary: Summary, folder: Path, *, images: Path | None = None) -> str:
    """Write the report of one model under one regime; the tables as text, for a terminal.

    `images`: the cache of prepared pictures. Blocking.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = [tables.scores(summary), tables.changes(summary), tables.pictures(summary)]
    shown = [table for table in found if table is not None]
    _write(folder / RESULTS, json.dumps(summary.to_json(), indent=1, allow_nan=False) + "\n")
    notes = [f"- {tables.markdown(line)}" for line in summary.warnings()]
    _write(folder / "table.md", _lines([*map(tables.as_markdown, shown), _lines(notes)]))
    _write(folder / "table.tex", _lines(map(tables.as_latex, shown)))
    thumbnails = Thumbnails(images)
    links = {r.name: _row_pages(r, folder, thumbnails) for r in summary.results}
    html.write_page(folder / "report.html", report_page(summary, thumbnails, links))
    said = [f"WARNING {line}" for line in summary.warnings()]
    told = _lines([*map(tables.as_text, shown), *said, str(folder / "report.html")])
    # A lone surrogate of a data set or of a model's name can't be printed.
    return told.encode(errors="backslashreplace").decode()


def _lines(parts: Iterable[str]) -> str:
    return "".join(part if part.endswith("\n") else f"{part}\n" for part in parts if part)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)


def _row_pages(result: BenchmarkResult, folder: Path, thumbnails: Thumbnails) -> list[str]:
    """Write the pages of all rows; their names."""
    for old in folder.glob(f"rows-{result.name}-*.html"):
        old.unlink()
    names = []
    for number, rows in enumerate(pages(result.benchmark, result.records, thumbnails), start=1):
        name = f"rows-{result.name}-{number}.html"
        title = f"{result.benchmark.title}, {result.model}, page {number}"
        head = f"<h1>{html.text(title)}</h1><p>{html.link('report.html', 'report')}</p>"
        html.write_page(folder / name, html.page(title, head + filters() + rows))
        names.append(name)
    return names


def report_page(
    summary: Summary, thumbnails: Thumbnails, links: Mapping[str, Sequence[str]]
) -> str:
    """The first page: tables, then each benchmark."""
    titled = {
        "Before and after": tables.changes(summary),
        "What the pictures add": tables.pictures(summary),
    }
    change = "".join(f"<h2>{h}</h2>{html.table(t)}" for h, t in titled.items() if t is not None)
    sections = "".join(
        _benchmark(summary, result, thumbnails, links[result.name]) for result in summary.results
    )
    title = f"{summary.model}: {summary.regime}"
    return html.page(
        title,
        f"<h1>{html.text(title)}</h1>"
        '<p class="dim">Percent, with intervals of 95 % over clusters of rows that share a picture '
        "or a problem. What could not be read is wrong; what has no answer or no judge is not "
        "counted.</p>"
        f"{html.warnings(summary.warnings())}"
        f"<h2>Scores</h2>{html.table(tables.scores(summary))}{change}"
        f"<h2>Settings</h2>{html.facts(_flat(summary.settings))}"
        f"<h2>Rows</h2>{filters()}{sections}",
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _benchmark(
    summary: Summary, result: BenchmarkResult, thumbnails: Thumbnails, links: Sequence[str]
) -> str:
    benchmark, own = result.benchmark, summary.measures[result.name]
    line = warning_of(summary, result)
    told = {
        "data": f"{benchmark.dataset}, {benchmark.split}, revision {result.revision}",
        "configurations": [name for name in benchmark.configs if name],
        "fingerprint": result.fingerprint,
        "rows": f"{result.found} found, {benchmark.num_rows} expected, {result.rows} asked",
        "licence": benchmark.licence,
        "citation": benchmark.citation,
        "samples": {name: round(value, 4) for name, value in own.samples.items()},
    }
    rows = "".join(row_html(benchmark, r, thumbnails) for r in result.records[:_INLINE])
    numbered = " ".join(html.link(name, str(n)) for n, name in enumerate(links, start=1))
    return (
        f"<h3>{html.text(benchmark.title)}</h3>{html.warnings([line] if line else [])}"
        f"{html.table(_aggregates(own))}{_published(benchmark.published)}"
        f"{html.folded('data and rules', html.facts(told))}"
        f"{refused_html(result.refused, result.missing)}"
        f"{rows}<p>all rows, page {numbered or '(none)'}</p>"
    )


def _aggregates(own: Measures) -> Table:
    rows = [
        [
            name,
            tables.percent(interval.estimate),
            tables.between(interval),
            str(own.units.get(name, "")),
            interval.how,
        ]
        for name, interval in own.aggregates.items()
    ]
    return Table("", ["", "score", "95 %", "units", "interval"], rows)


def _published(published: Sequence[Published]) -> str:
    rows = [[one.model, f"{one.score:.1f}", one.source, one.note] for one in published]
    head = ["published", "score", "source", "note"]
    return html.folded("published scores", html.table(Table("", head, rows))) if rows else ""
