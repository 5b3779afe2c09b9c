"""A real browser for tests of web pages; Hypothesis without a clock, since machines pause."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from tests.browsing import CHROMIUM, DEADLINE_MS, Watched

settings.register_profile("streamzero", deadline=None)
settings.load_profile("streamzero")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("NO BROWSER TEST RAN: install Debian's package chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium: Any) -> Iterator[Any]:
    contexts = []

    def open_page(url: str, **context: Any) -> Watched:
        contexts.append(chromium.new_context(**context))
        watched = Watched(contexts[-1].new_page())
        watched.page.set_default_timeout(DEADLINE_MS)
        watched.page.goto(url)
        return watched

    yield open_page
    for context in contexts:
        context.close()
