"""Pieces of a page. All text from models and data sets goes through `text`; no page has a script.

The pages refer to nothing but each other, and a policy forbids what a mistake here would let in.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from evals.report.tables import Table

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"


def page(title: str, body: str) -> str:
    """A whole page; `body` is HTML."""
    style = (Path(__file__).parent / "page.css").read_text()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}; form-action \'none\'">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{text(title)}</title><style>{style}</style></head><body>{body}</body></html>"
    )


def write_page(path: Path, html: str) -> None:
    """In one step. Model text may hold lone surrogates, which UTF-8 can't."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(html, encoding="utf-8", errors="xmlcharrefreplace")
    temporary.replace(path)


def text(value: Any, most: int = 20_000) -> str:
    """Escaped; at most so many characters, and then how many more there are."""
    found = value if isinstance(value, str) else "" if value is None else str(value)
    cut = len(found) - most
    if cut <= 0:
        return escape(found)
    return f'{escape(found[:most])}<span class="dim"> ... {cut} more in records.jsonl</span>'


def pre(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, indent=1, default=str)
    return f"<pre>{text(shown)}</pre>"


def table(found: Table) -> str:
    """Columns that are empty throughout are left out."""
    shown = [n for n, _ in enumerate(found.head) if n == 0 or any(row[n] for row in found.rows)]
    head = "".join(f"<th>{text(found.head[n])}</th>" for n in shown)
    rows = "".join(
        f"<tr>{''.join(f'<td>{text(row[n])}</td>' for n in shown)}</tr>" for row in found.rows
    )
    caption = f"<caption>{text(found.caption)}</caption>"
    return f'<div class="wide"><table>{caption}<tr>{head}</tr>{rows}</table></div>'


def facts(told: Mapping[str, Any]) -> str:
    """A list of names and values; nothing for what is empty."""
    rows = "".join(
        f"<dt>{text(name)}</dt><dd>{text(_plain(value))}</dd>"
        for name, value in told.items()
        if value not in (None, "", [], {})
    )
    return f"<dl>{rows}</dl>"


def _plain(value: Any) -> str:
    if isinstance(value, str | int | float):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def folded(title: str, body: str) -> str:
    """`title` and `body` are HTML."""
    return f"<details><summary>{title}</summary>{body}</details>"


def link(target: str, label: str) -> str:
    """`target`: the name of a file beside the page."""
    return f'<a href="{escape(target)}">{text(label)}</a>'


def warnings(said: Sequence[str]) -> str:
    return "".join(f'<div class="warning">{text(line)}</div>' for line in said)
