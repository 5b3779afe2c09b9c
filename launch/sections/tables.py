"""Tables and numbers of a report."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """Empty where there are no rows."""
    if not rows:
        return ""
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(f"<tr>{cells(row)}</tr>" for row in rows)
    return f"<table>{above}<tr>{titles}</tr>{body}</table>"


def cells(values: Sequence[Any]) -> str:
    return "".join(f"<td>{escape(str(value))}</td>" for value in values)


def grid(charts: Sequence[str]) -> str:
    """Charts side by side; empty ones are left out."""
    found = "".join(charts)
    return f'<div class="charts">{found}</div>' if found else ""


def decimal(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else ""


def reasons(numbers: Mapping[str, int]) -> str:
    """The most frequent first."""
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason} {number}" for reason, number in ordered)
