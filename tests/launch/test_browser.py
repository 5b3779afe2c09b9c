"""The dashboard in a real Chromium, over the real engine with staged slowness."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.launch.staged import HOSTILE, Slowness, Staged, faster_looks

pytestmark = pytest.mark.slow
SCREENSHOTS = os.environ.get("STREAMZERO_SCREENSHOTS")
"""A folder for pictures of what the tests saw."""


SITUATIONS = {
    "renderer": Slowness(picture=0.12),
    "solver": Slowness(server=0.3),
    "learner": Slowness(step=0.25),
}


@pytest.mark.parametrize("part", SITUATIONS)
def test_the_sentence_names_the_bottleneck(
    part: str, tmp_path: Path, browse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster_looks(monkeypatch)
    with Staged(tmp_path, SITUATIONS[part]) as staged:
        watched = browse(staged.url)
        if part == "solver":  # all servers are equally slow: any of the three is right
            expected = "proposer|coder|solver"
        else:
            expected = part
        watched.page.wait_for_function(
            "expected => new RegExp(`^(${expected})$`).test("
            "document.querySelector('#bottleneck').dataset.part)",
            arg=expected,
        )
        sentence = watched.page.inner_text("#bottleneck")
        assert "bottleneck" in sentence
        assert {"renderer": "renderer", "solver": "servers of", "learner": "learners"}[
            part
        ] in sentence
        assert not watched.complaints


def test_numbers_move_games_show_and_scripts_stay_text(
    tmp_path: Path, browse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster_looks(monkeypatch)
    with Staged(tmp_path, Slowness(picture=0.02)) as staged:
        watched = browse(staged.url)
        page = watched.page
        page.wait_for_function(
            "() => document.querySelector('#connection').dataset.state === 'live'"
        )
        first = watched.number("#finished")
        watched.wait_for_more("#finished", first + 3)
        for section in ("throughput", "learning", "health"):
            watched.look(f"#{section}", f"#charts-{section} canvas")
        watched.look("#gallery", "#games details.game img")
        page.wait_for_function(
            "() => [...document.querySelectorAll('#games details[open] img')].some("
            "image => image.naturalWidth === 24)"
        )
        # What the model wrote is there to read, and nothing else.
        assert "<script>window.hacked = 1</script>" in page.inner_text("#games")
        assert page.evaluate("window.hacked") is None
        page.locator("#games a", has_text="link to this game").first.click()
        page.wait_for_url("**/game/*")
        assert "<script>window.hacked = 1</script>" in page.inner_text("main")
        assert page.evaluate("window.hacked") is None
        assert page.locator("script").count() == 0
        assert not watched.complaints


def test_the_held_out_points_stand_beside_the_dev_curve_with_their_intervals(
    tmp_path: Path, browse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster_looks(monkeypatch)
    with Staged(tmp_path) as staged:
        assert staged.loop is not None
        assert staged.watcher is not None
        record = staged.watcher.record
        records: list[tuple[str, dict[str, Any]]] = [
            ("dev", {"step": 20, "means": {"m": 0.5}}),
            ("heldout", {"when": "heldout-before", "step": 0, "means": {"m": 0.4},
                         "ci95": {"m": [0.1, 0.5]}}),
            ("heldout", {"when": "heldout-after", "step": 100, "means": {"m": 0.6},
                         "ci95": {"m": [0.5, 0.9]}}),
        ]  # fmt: skip
        for one in records:
            staged.loop.call_soon_threadsafe(record, *one)
        watched = browse(staged.url)
        page = watched.page
        page.wait_for_selector("#charts-learning figure[data-chart=heldout]")
        figure = "#charts-learning figure[data-chart=heldout]"
        watched.look(figure, f"{figure} canvas")
        page.wait_for_selector("#charts-learning figure[data-chart=dev]")
        points = page.evaluate("charts.get('heldout').series.get('m')")
        assert points == [[0, 0.4, 0.1, 0.5], [100, 0.6, 0.5, 0.9]]
        scale = page.evaluate("(({min, max}) => [min, max])(charts.get('heldout').plot.scales.y)")
        assert scale[0] <= 0.1
        assert scale[1] >= 0.9
        # The bar of the first interval reaches below its point: something of its colour is there.
        drawn = page.evaluate(
            """() => {
              const {plot} = charts.get('heldout');
              const [x, y] = [plot.valToPos(0, 'x', true), plot.valToPos(0.2, 'y', true)];
              const {data} = plot.ctx.getImageData(x - 2, y - 1, 5, 3);
              return [...data].some((value, place) => place % 4 === 3 && value > 100);
            }"""
        )
        assert drawn
        if SCREENSHOTS:
            page.screenshot(path=f"{SCREENSHOTS}/heldout.png", full_page=True)
        assert not watched.complaints


def test_hostile_words_in_events_and_reasons_are_text(
    tmp_path: Path, browse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster_looks(monkeypatch)
    with Staged(tmp_path) as staged:
        assert staged.loop is not None
        assert staged.watcher is not None
        staged.loop.call_soon_threadsafe(staged.watcher.on_event, "warning", HOSTILE)
        watched = browse(staged.url)
        watched.page.wait_for_function(
            "() => document.querySelector('#events').textContent.includes('window.hacked')"
        )
        assert watched.page.evaluate("window.hacked") is None
        assert watched.page.locator("#events img, #events script").count() == 0
        assert not watched.complaints


@pytest.mark.parametrize(
    "context",
    [
        {"viewport": {"width": 1400, "height": 1000}, "color_scheme": "light"},
        {"viewport": {"width": 1400, "height": 1000}, "color_scheme": "dark"},
        {"viewport": {"width": 360, "height": 800}, "has_touch": True, "is_mobile": True},
    ],
    ids=["light", "dark", "phone"],
)
def test_it_fits_every_screen(
    context: dict[str, Any],
    tmp_path: Path,
    browse: Any,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    faster_looks(monkeypatch)
    with Staged(tmp_path, Slowness(picture=0.05)) as staged:
        watched = browse(staged.url, **context)
        page = watched.page
        watched.look("#gallery", "#games details.game")
        page.evaluate("window.scrollTo(0, 0)")
        width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert width[0] <= width[1]
        if SCREENSHOTS:
            name = request.node.callspec.id
            page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)
        assert not watched.complaints


def test_control_pauses_a_run(tmp_path: Path, browse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    faster_looks(monkeypatch)
    with Staged(tmp_path, settings={"port": 0, "control": "true"}) as staged:
        watched = browse(staged.url)
        page = watched.page
        page.locator("#control summary").click()
        page.fill("#token", "wrong")
        page.click("button[data-action=pause]")
        page.wait_for_function(
            "() => document.querySelector('#control-answer').textContent.includes('token')"
        )
        page.fill("#token", "right-token")
        page.click("button[data-action=pause]")
        page.wait_for_selector("#paused:not([hidden])")
        page.click("button[data-action=resume]")
        page.wait_for_selector("#paused", state="hidden")


def test_it_comes_back_after_a_restart_of_the_engine(
    tmp_path: Path, browse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster_looks(monkeypatch)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Staged(tmp_path / "a", settings={"port": 0}) as staged:
        watched = browse(staged.url)
        watched.page.wait_for_selector("#connection[data-state=live]")
        assert staged.dashboard is not None
        port = staged.dashboard.port
    watched.page.wait_for_function(
        "() => document.querySelector('#connection').dataset.state !== 'live'"
    )
    with Staged(tmp_path / "b", settings={"port": port}) as staged:
        assert staged.dashboard is not None
        assert staged.dashboard.port == port
        watched.page.wait_for_selector("#connection[data-state=live]")
        before = watched.number("#finished")
        watched.wait_for_more("#finished", before)
