"""The tables of a report as rows of short texts, and their forms: terminal, Markdown, LaTeX.

Scores are in percent, rates too; an empty cell means that there is no such number.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

from evals.comparison import Change, Comparison
from evals.intervals import Interval
from evals.report.measures import Measures
from evals.report.summary import Summary

_WIDTH = 160
_ENTRIES = {"mmmu_pro": "MMMU-Pro (mean of its forms)"}


@dataclass(frozen=True, slots=True)
class Table:
    """Texts; the first column names the row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def scores(summary: Summary) -> Table:
    """One row per benchmark, then the means over them."""
    head = ["benchmark", "score", "95 %", "rows", "rule", "reference", "judge", "kappa"]
    head += ["truncated", "unparsed", "empty", "judge failed", "skipped", "missing"]
    head += ["guess", "with guesses"]
    rows = [[r.benchmark.title, *_cells(summary.measures[r.name])] for r in summary.results]
    rows += [
        [overall_name(name, len(summary.scored())), percent(i.estimate), between(i)]
        + [""] * (len(head) - 3)
        for name, i in summary.overall.items()
    ]
    return Table(f"{summary.model}, regime {summary.regime}", head, rows)


def overall_name(name: str, benchmarks: int) -> str:
    """ "macro", "micro" or an entry that is folded of several benchmarks."""
    if name in ("macro", "micro"):
        return f"{name} mean of {benchmarks} benchmarks"
    return _ENTRIES.get(name, name)


def _cells(own: Measures) -> list[str]:
    score = own.score()
    kappa = None if own.agreement is None else own.agreement.kappa
    rates = [own.rates[flag] for flag in ("truncated", "unparsed", "empty", "judge_failed")]
    return [
        "unscored" if score is None else percent(score.estimate),
        "" if score is None else between(score),
        str(own.scored),
        percent(own.rule),
        percent(own.reference),
        percent(own.judge),
        "" if kappa is None else f"{kappa:.2f}",
        *[percent(rate) for rate in rates],
        str(own.skipped),
        str(own.missing),
        percent(own.guess),
        percent(own.with_guesses),
    ]


def changes(summary: Summary) -> Table | None:
    """Before and after; None where nothing was compared."""
    caption = f"{summary.against} (before) and {summary.model} (after)"
    return _changes(summary, summary.comparison, caption)


def pictures(summary: Summary) -> Table | None:
    """What the pictures add; None where nobody asked without them."""
    caption = f"{summary.model} without the pictures (before) and with them (after)"
    return _changes(summary, summary.pictures, caption)


def _changes(summary: Summary, found: Comparison | None, caption: str) -> Table | None:
    if found is None:
        return None
    head = ["benchmark", "before", "after", "change", "95 %", "p", "p (Holm)", "pairs", "lost"]
    head += ["only before", "only after", "readable before", "readable after", "other prompt"]
    titles = {result.name: result.benchmark.title for result in summary.results}
    rows = [[titles[name], *_change(change)] for name, change in found.changes.items()]
    for name, gap in found.overall.items():
        if len(found.changes) > 1:
            told = [overall_name(name, len(found.changes)), "", "", signed(gap), between(gap)]
            rows.append(told + [""] * (len(head) - len(told)))
    return Table(caption, head, rows)


def _change(change: Change) -> list[str]:
    apart = change.discordant
    lost = change.lost_before + change.lost_after
    return [
        percent(change.before),
        percent(change.after),
        signed(change.delta),
        between(change.delta),
        f"{change.p:.3g}",
        f"{change.p_holm:.3g}",
        str(change.pairs),
        str(lost or ""),
        "" if apart is None else str(apart.only_before),
        "" if apart is None else str(apart.only_after),
        percent(change.readable.before),
        percent(change.readable.after),
        str(change.other_prompt or ""),
    ]


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def signed(interval: Interval) -> str:
    return f"{100 * interval.estimate:+.1f}"


def between(interval: Interval) -> str:
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def as_text(table: Table) -> str:
    """For a terminal: what fits; the page has all columns."""
    shown = [
        n
        for n, name in enumerate(table.head)
        if n == 0 or (name in _TOLD and any(row[n] for row in table.rows))
    ]
    drawn = RichTable(
        title=Text(table.caption), title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for number in shown:
        justify: JustifyMethod = "left" if number == 0 else "right"
        drawn.add_column(Text(table.head[number]), justify=justify, no_wrap=True)
    for row in table.rows:
        drawn.add_row(*[Text(row[number]) for number in shown])
    out = io.StringIO()
    Console(file=out, width=_WIDTH, highlight=False, emoji=False).print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def markdown(text: str) -> str:
    """`text` as Markdown shows it: names are anybody's, and may mean something in it or in HTML."""
    return re.sub(r"([\\|`*_<>\[\]&])", r"\\\1", " ".join(text.split()))


def as_markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(markdown, cells))} |"

    rule = f"|{' --- |'}{' ---: |' * (len(table.head) - 1)}"
    rows = [line(table.head), rule, *map(line, table.rows)]
    return "\n".join([markdown(table.caption), "", *rows]) + "\n"


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def tex(text: str) -> str:
    """`text` as LaTeX shows it."""
    return "".join(_TEX.get(letter, letter) for letter in " ".join(text.split()))


def as_latex(table: Table) -> str:
    """A `tabular` of the package booktabs, for a manuscript: scores and intervals only."""
    shown = [n for n, name in enumerate(table.head) if name in _PRINTED]
    lines = [
        f"% {' '.join(table.caption.split())}",
        rf"\begin{{tabular}}{{l{'r' * (len(shown) - 1)}}}",
        r"\toprule",
        " & ".join(tex(table.head[n]) for n in shown) + r" \\",
        r"\midrule",
        *[" & ".join(_braced(tex(row[n])) for n in shown) + r" \\" for row in table.rows],
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


_PRINTED = {"benchmark", "score", "95 %", "rows", "before", "after", "change", "p (Holm)", "pairs"}
_PRINTED |= {"truncated", "unparsed", "missing"}
_TOLD = _PRINTED | {"rule", "judge", "kappa", "empty", "judge failed", "skipped"}
_TOLD |= {"p", "lost", "other prompt", "ability", "format", "interaction"}


def _braced(cell: str) -> str:
    """A bracket after the end of a row would be read as the argument of its `\\\\`."""
    return f"{{{cell}}}" if cell.startswith("[") else cell
