"""The frame of a page: one file without scripts or references."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

STYLE = Path(__file__).parents[1] / "report.css"


def page(title: str, sections: Iterable[tuple[str, str]]) -> str:
    """Of (heading, HTML); empty sections are left out, and so is an empty heading."""
    body = "".join(
        (f"<h2>{escape(heading)}</h2>" if heading else "") + html
        for heading, html in sections
        if html
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text()}</style></head>"
        f"<body>{body}</body></html>"
    )


def write_page(path: Path, text: str) -> Path:
    """Replace `path` at once; the path."""
    temporary = path.with_suffix(".tmp")
    # Model text may hold lone surrogates, which UTF-8 can't.
    temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    temporary.replace(path)
    return path
