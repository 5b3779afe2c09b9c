"""A page in a real browser, and what its console complained of."""

import shutil
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DEADLINE_MS = 120_000
_NUMBER = r"""selector => {
  const written = document.querySelector(selector).textContent.match(/\d[\d,]*(\.\d+)?/);
  return written === null ? NaN : Number(written[0].replaceAll(',', ''));
}"""
"""The first number that stands there, as `toLocaleString('en-GB')` writes it: 4,345."""


class Watched:
    """A page, and what its console complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def number(self, selector: str) -> float:
        """The first one there."""
        return self.page.evaluate(f"selector => ({_NUMBER})(selector)", selector)

    def wait_for_more(self, selector: str, number: float) -> None:
        """Until the number there has grown beyond this one."""
        self.page.wait_for_function(
            f"([selector, number]) => ({_NUMBER})(selector) > number", arg=[selector, number]
        )

    def look(self, place: str, selector: str) -> None:
        """Scroll to ``place`` until ``selector`` is there: what is loaded when it is seen may have
        been pushed out of sight by sections above it that filled meanwhile."""
        self.page.wait_for_function(
            """([place, selector]) => {
              document.querySelector(place)?.scrollIntoView();
              return document.querySelector(selector) !== null;
            }""",
            arg=[place, selector],
        )
