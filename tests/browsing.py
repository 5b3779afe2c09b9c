"""A page in a real browser, and what its console complained of."""

import re
import shutil
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DEADLINE_MS = 30_000


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

    def number(self, selector: str, pattern: str = r"([\d.]+)") -> float:
        found = re.search(pattern, self.page.inner_text(selector))
        assert found is not None, self.page.inner_text(selector)
        return float(found.group(1))

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
