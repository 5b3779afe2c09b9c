"""The real pool: real processes, real cairo, hostile drawings."""

import asyncio
import io
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.errors import ConfigError
from engine.types import Invalid, Picture
from render_pool.config import RenderConfig
from render_pool.pool import RenderPool
from render_pool.processes import check_system
from render_pool.reasons import REASONS

# A circle this large keeps cairo in C code that never comes back to Python. How large it is can't
# be told from any one of its references.
STUCK = (
    '<svg viewBox="0 0 96 96"><defs><circle id="u0" cx="{n}" r="5"/>'
    + "".join(
        f'<g id="u{k}"><use href="#u{k - 1}" transform="scale(9999)"/></g>' for k in range(1, 9)
    )
    + '</defs><use href="#u8"/></svg>'
)
WAIT_S = 25.0


def circle(x: int = 48, fill: str = "red") -> str:
    return f'<svg viewBox="0 0 96 96"><circle cx="{x}" cy="48" r="20" fill="{fill}"/></svg>'


def config(**changes: float) -> RenderConfig:
    return RenderConfig.model_validate(
        {"side": 96, "deadline_s": WAIT_S, "cpu_s": WAIT_S, **changes}
    )


def pixels(result: Picture | Invalid) -> Image.Image:
    assert isinstance(result, Picture), result
    picture = Image.open(io.BytesIO(result.png))
    assert picture.mode == "RGB"
    assert picture.size == (result.width, result.height)
    return picture


async def until(condition: Callable[[], bool]) -> None:
    """Poll a condition that other processes make true."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)


def workers_of(pool: RenderPool) -> list[int]:
    children = Path(f"/proc/{pool.pid}/task/{pool.pid}/children").read_text()
    return [int(pid) for pid in children.split() if is_alive(pid)]


def is_alive(pid: str) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_drawing(pid: int) -> bool:
    """Whether a worker has used far more processor time than its start takes."""
    user_ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])
    return user_ticks >= 0.1 * os.sysconf("SC_CLK_TCK")


def wait_for_end(pidfd: int) -> None:
    assert select.select([pidfd], [], [], WAIT_S)[0], "the process is still there"
    os.close(pidfd)


def test_pictures_are_opaque_rgb_on_white() -> None:
    async def scene() -> None:
        async with RenderPool(config()) as pool:
            picture = pixels(await pool.render(circle()))
            assert picture.size == (96, 96)
            assert picture.getpixel((48, 48)) == (255, 0, 0)
            assert picture.getpixel((2, 2)) == (255, 255, 255)
            black = pixels(await pool.render(circle(fill="black")))
            assert black.getpixel((48, 48)) == (0, 0, 0)
            assert black.getpixel((2, 2)) == (255, 255, 255)
            half = pixels(await pool.render(circle().replace("<circle", '<circle opacity="0.5"')))
            assert half.getpixel((48, 48))[1:] in {(127, 127), (128, 128)}

    asyncio.run(scene())


def test_an_oblong_drawing_is_padded_with_white() -> None:
    async def scene() -> None:
        async with RenderPool(config()) as pool:
            wide = (
                '<svg width="200" height="100"><rect width="200" height="100" fill="{}"/>{}</svg>'
            )
            picture = pixels(await pool.render(wide.format("blue", '<circle r="50"/>')))
            assert picture.size == (96, 64)
            assert picture.getpixel((90, 46)) == (0, 0, 255)
            assert picture.getpixel((90, 50)) == (255, 255, 255)

    asyncio.run(scene())


def test_unusable_drawings_have_reasons_and_cost_no_worker() -> None:
    cases = {
        "nothing here": "not_svg",
        '<svg viewBox="0 0 9 9"/><svg viewBox="0 0 9 9"></svg>': "blank",
        '<svg viewBox="0 0 9 9"><rect width="9" height="9" fill="blue"/></svg>': "blank",
        '<svg viewBox="0 0 9 9"><rect width="9" height="9" opacity="50%"/></svg>': "malformed",
        '<svg viewBox="0 0 9 9"><g id="a"><use href="#a"/></g></svg>': "too_costly",
    }

    async def scene() -> None:
        async with RenderPool(config()) as pool:
            for text, reason in cases.items():
                result = await pool.render(text)
                assert isinstance(result, Invalid), text
                assert result.reason == reason, (text, result)
            stats = pool.stats()
            assert stats["kills"] == 0
            assert sum(stats["invalid"].values()) == len(cases)

    asyncio.run(scene())


def test_results_are_remembered_up_to_a_bound() -> None:
    async def scene() -> None:
        async with RenderPool(config(cache_entries=2)) as pool:
            first = await pool.render(circle(1))
            assert await pool.render(f"again: {circle(1)}") is first
            assert pool.stats()["cached"] == 1
            await pool.render(circle(2))
            await pool.render(circle(3))
            again = await pool.render(circle(1))
            assert again == first
            assert again is not first

    asyncio.run(scene())


def test_workers_are_recycled() -> None:
    async def scene() -> None:
        async with RenderPool(config(workers=1, recycle_after=2)) as pool:
            for x in range(6):
                assert isinstance(await pool.render(circle(x)), Picture)
            assert pool.stats()["recycled"] == 3
            await until(lambda: workers_of(pool) == [])

    asyncio.run(scene())


def test_while_a_worker_is_stuck_the_others_go_on() -> None:
    async def scene() -> None:
        async with RenderPool(config()) as pool:
            stuck = asyncio.create_task(pool.render(STUCK.format(n=9)))
            await until(lambda: pool.stats()["running"] == 1)
            for x in range(20):
                assert isinstance(await pool.render(circle(x)), Picture)
            assert not stuck.done()
            stuck.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stuck

    asyncio.run(scene())


def test_a_stuck_worker_is_killed_at_its_deadline() -> None:
    async def scene() -> None:
        async with RenderPool(config(deadline_s=1.5)) as pool:
            began = time.monotonic()
            result = await pool.render(STUCK.format(n=9))
            assert isinstance(result, Invalid)
            assert result.reason == "timeout"
            assert time.monotonic() - began < WAIT_S, "its processor time would end it then"
            assert pool.stats()["kills"] >= 1
            both = await asyncio.gather(*(pool.render(circle(x)) for x in range(30, 34)))
            assert all(isinstance(result, Picture) for result in both)

    asyncio.run(scene())


def test_every_request_is_answered_when_all_workers_are_killed() -> None:
    async def scene() -> None:
        async with RenderPool(config(workers=2)) as pool:
            stuck = [asyncio.create_task(pool.render(STUCK.format(n=n))) for n in (8, 9)]
            await until(lambda: sum(map(is_drawing, workers_of(pool))) == 2)
            waiting = [asyncio.create_task(pool.render(circle(x))) for x in range(10)]
            await until(lambda: pool.stats()["waiting"] == 10)
            for pid in workers_of(pool):
                os.kill(pid, signal.SIGKILL)
            answers = await asyncio.wait_for(asyncio.gather(*stuck, *waiting), WAIT_S)
            assert [a.reason for a in answers if isinstance(a, Invalid)] == ["crashed"] * 2
            assert sum(isinstance(answer, Picture) for answer in answers) == 10

    asyncio.run(scene())


def test_idle_workers_that_died_are_blamed_on_nobody() -> None:
    async def scene() -> None:
        async with RenderPool(config(workers=1)) as pool:
            await pool.render(circle(1))
            (pid,) = workers_of(pool)
            gone = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            wait_for_end(gone)
            assert isinstance(await pool.render(circle(2)), Picture)

    asyncio.run(scene())


def test_a_killed_template_is_replaced() -> None:
    async def scene() -> None:
        async with RenderPool(config(workers=2)) as pool:
            await pool.render(circle(1))
            first, children = pool.pid, [os.pidfd_open(pid) for pid in workers_of(pool)]
            assert first is not None
            os.kill(first, signal.SIGKILL)
            for child in children:
                wait_for_end(child)
            pictures = await asyncio.gather(*(pool.render(circle(x)) for x in range(2, 8)))
            assert all(isinstance(picture, Picture) for picture in pictures)
            assert pool.pid != first

    asyncio.run(scene())


def test_cancellation_frees_the_worker() -> None:
    async def scene() -> None:
        async with RenderPool(config(workers=1)) as pool:
            stuck = asyncio.create_task(pool.render(STUCK.format(n=9)))
            await until(lambda: any(map(is_drawing, workers_of(pool))))
            waiting = asyncio.create_task(pool.render(circle(1)))
            abandoned = asyncio.create_task(pool.render(circle(2)))
            await until(lambda: pool.stats()["waiting"] == 2)
            abandoned.cancel()
            stuck.cancel()
            assert isinstance(await asyncio.wait_for(waiting, WAIT_S - 5), Picture)
            with pytest.raises(asyncio.CancelledError):
                await stuck
            assert pool.stats()["waiting"] == pool.stats()["running"] == 0

    asyncio.run(scene())


def test_a_worker_opens_no_url() -> None:
    async def scene(port: int) -> None:
        url = f"http://127.0.0.1:{port}/x"
        attempts = {
            f'<image href="{url}" width="9" height="9"/>': "forbidden",
            f'<use href="{url}#a"/>': "forbidden",
            '<image href="file:///etc/passwd" width="9" height="9"/>': "forbidden",
            f'<style>@import url("{url}");</style>': "drawn",
            f'<a href="{url}"><text>a link</text></a>': "drawn",
            f'<rect width="9" height="9" fill="url({url}#a)" filter="url({url}#b)"/>': "drawn",
        }
        async with RenderPool(config(), audit=True) as pool:
            for attempt, expected in attempts.items():
                svg = f'<svg viewBox="0 0 96 96"><circle r="20"/>{attempt}</svg>'
                result = await pool.render(svg)
                assert (result.reason if isinstance(result, Invalid) else "drawn") == expected

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(scene(listener.getsockname()[1]))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_memory_is_bounded() -> None:
    huge = (
        '<svg viewBox="0 0 96 96"><pattern id="p" width="30000" height="30000" '
        'patternUnits="userSpaceOnUse"><circle r="9"/></pattern>'
        '<rect width="96" height="96" fill="url(#p)"/></svg>'
    )

    async def scene() -> None:
        async with RenderPool(config(workers=1)) as pool:
            result = await pool.render(huge)
            assert isinstance(result, Invalid), "a tile of 3.6 GB"
            assert result.reason == "memory"
            assert isinstance(await pool.render(circle()), Picture)
            assert await pool.render(huge) == result
            stats = pool.stats()
            assert (stats["cached"], stats["recycled"], stats["kills"]) == (1, 1, 0)

    asyncio.run(scene())


def test_processor_time_is_bounded_in_c_code_too() -> None:
    async def scene() -> None:
        async with RenderPool(config(cpu_s=0.3)) as pool:
            result = await pool.render(STUCK.format(n=9))
            assert isinstance(result, Invalid)
            assert (result.reason, result.detail) == ("timeout", "0.3 s of processor time")
            assert pool.stats()["kills_by_reason"] == {"processor time": 1}

    asyncio.run(scene())


def test_a_worker_holds_only_its_own_socket() -> None:
    async def scene() -> None:
        async with RenderPool(config(workers=2)) as pool:
            tasks = [asyncio.create_task(pool.render(STUCK.format(n=n))) for n in (8, 9)]
            await until(lambda: len(workers_of(pool)) == 2)
            for pid in workers_of(pool):
                folder = Path(f"/proc/{pid}/fd")

                def sockets(folder: Path = folder) -> int:
                    try:
                        return sum("socket" in os.readlink(fd) for fd in folder.iterdir())
                    except FileNotFoundError:  # closed while we looked
                        return -1

                await until(lambda sockets=sockets: sockets() == 1)
                assert os.getsid(pid) != os.getsid(0)
            for task in tasks:
                task.cancel()

    asyncio.run(scene())


ORPHAN = """
import asyncio, sys
from render_pool.config import RenderConfig
from render_pool.pool import RenderPool

async def main():
    async with RenderPool(RenderConfig(side=96, deadline_s=60)) as pool:
        print(pool.pid, flush=True)
        await pool.render(sys.argv[1])

asyncio.run(main())
"""


def test_the_death_of_the_parent_leaves_no_orphan() -> None:
    command = [sys.executable, "-c", ORPHAN, STUCK.format(n=9)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        template = int(parent.stdout.readline())
        children = Path(f"/proc/{template}/task/{template}/children")

        async def first_child() -> None:
            await until(lambda: children.read_text() != "")

        asyncio.run(first_child())
        pidfds = [os.pidfd_open(pid) for pid in (template, int(children.read_text()))]
        parent.kill()
        for pidfd in pidfds:
            wait_for_end(pidfd)


def test_leaving_the_pool_leaves_no_process() -> None:
    async def scene() -> list[int]:
        async with RenderPool(config()) as pool:
            await asyncio.gather(*(pool.render(circle(x)) for x in range(4)))
            assert pool.pid is not None
            return [os.pidfd_open(pid) for pid in (pool.pid, *workers_of(pool))]

    for pidfd in asyncio.run(scene()):
        wait_for_end(pidfd)


def test_a_system_that_can_draw_passes() -> None:
    check_system()


def test_a_missing_libcairo_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cairosvg").mkdir()
    (tmp_path / "cairosvg" / "__init__.py").write_text(
        "raise OSError('no library called \"cairo-2\" was found\\nno library called cairo')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"apt-get install -y libcairo2 libfontconfig1") as one:
        check_system()
    assert "\n" not in str(one.value)
    with pytest.raises(ConfigError, match="libcairo"):
        asyncio.run(enter())


async def enter() -> None:
    async with RenderPool(config()):
        pass


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def pool(runner: asyncio.Runner) -> Iterator[RenderPool]:
    pool = RenderPool(config(deadline_s=2))
    runner.run(pool.__aenter__())
    yield pool
    runner.run(pool.__aexit__(None, None, None))


values = st.one_of(
    st.sampled_from(
        ["url(#a)", "#a", "1e9", "nan", "inf", "-1", "50%", "red", "M0 0 L9 9z", "1_0"]
    ),
    st.floats(allow_nan=True).map(str),
    st.text("MLHVCSQTAZmlaz0123456789 .,-e()%#", max_size=30),
)
NAMES = (
    "x y width height cx cy r d points fill stroke opacity transform style mask filter id href "
    "viewBox clip-path marker-end stroke-dasharray font-size class preserveAspectRatio"
)
TAGS = (
    "g rect circle path text use image style defs mask pattern filter linearGradient stop tspan "
    "marker symbol clipPath polygon polyline svg switch a feOffset"
)
names = st.sampled_from(NAMES.split())
tags = st.sampled_from(TAGS.split())


def element(tag: str, attributes: dict[str, str], children: list[str]) -> str:
    inside = "".join(f' {k}="{v}"' for k, v in attributes.items())
    return f"<{tag}{inside}>{''.join(children)}</{tag}>"


elements = st.recursive(
    st.text("ab {}:;.#*>~", max_size=12).map(lambda text: text.replace(">", "&gt;")),
    lambda inner: st.builds(
        element, tags, st.dictionaries(names, values, max_size=5), st.lists(inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(elements, st.one_of(st.just('viewBox="0 0 96 96"'), values.map(lambda v: f'width="{v}"')))
def test_fuzzed_drawings_are_pictures_or_invalid(
    runner: asyncio.Runner, pool: RenderPool, inside: str, root: str
) -> None:
    result = runner.run(pool.render(f"<svg {root}>{inside}</svg>"))
    assert isinstance(result, Picture) or result.reason in REASONS


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(max_size=400), st.binary(max_size=400).map(lambda b: b.decode("latin1"))))
def test_garbage_is_invalid(runner: asyncio.Runner, pool: RenderPool, text: str) -> None:
    result = runner.run(pool.render(text))
    assert isinstance(result, Invalid)
    assert result.reason in REASONS
