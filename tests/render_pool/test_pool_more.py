"""More of the real pool: shared drawings, remembered poison, stalls, confinement, determinism."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

import render_pool.pool as pool_module
from engine.errors import EngineError
from engine.types import Invalid, Picture
from render_pool.corpus.ordinary import stream
from render_pool.measure import summarise, together
from render_pool.picture import Pixels
from render_pool.pool import RenderPool
from render_pool.reasons import REASONS
from tests.render_pool.test_pool import (
    STUCK,
    WAIT_S,
    circle,
    config,
    is_drawing,
    pixels,
    until,
    wait_for_end,
    workers_of,
)

HUGE = (
    '<svg viewBox="0 0 96 96"><pattern id="p" width="30000" height="30000" '
    'patternUnits="userSpaceOnUse"><circle r="9"/></pattern>'
    '<rect width="96" height="96" fill="url(#p)"/></svg>'
)
SOME = list(islice(stream(21, 96), 6))


def reason(result: Picture | Pixels | Invalid) -> str:
    return result.reason if isinstance(result, Invalid) else "picture"


@asynccontextmanager
async def opened(**changes: float | str) -> AsyncIterator[RenderPool]:
    async with RenderPool(config(**changes)) as pool:  # type: ignore[arg-type]
        yield pool


# shared drawings


def test_two_who_ask_for_the_same_share_one_drawing() -> None:
    async def scene() -> None:
        async with opened(workers=2, cache_entries=0) as pool:
            results = await asyncio.gather(*(pool.render(circle(), owner) for owner in "ABCDE"))
            assert all(result is results[0] for result in results)
            assert pool.stats()["rendered"] == 5
            assert len(workers_of(pool)) == 1, "a second worker was never needed"

    asyncio.run(scene())


def test_one_of_two_goes_away_and_the_other_gets_the_picture() -> None:
    async def scene() -> None:
        async with opened(workers=1, cpu_s=0.6) as pool:
            first, second = (asyncio.create_task(pool.render(STUCK.format(n=9))) for _ in "ab")
            await until(lambda: any(map(is_drawing, workers_of(pool))))
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert reason(await second) == "timeout"
            assert pool.stats()["kills_by_reason"] == {"processor time": 1}

    asyncio.run(scene())


def test_the_worker_of_two_who_both_went_away_is_free_again() -> None:
    async def scene() -> None:
        async with opened(workers=1) as pool:
            both = [asyncio.create_task(pool.render(STUCK.format(n=9))) for _ in "ab"]
            await until(lambda: any(map(is_drawing, workers_of(pool))))
            (busy,) = workers_of(pool)
            gone = os.pidfd_open(busy)
            for task in both:
                task.cancel()
            assert isinstance(await asyncio.wait_for(pool.render(circle()), WAIT_S - 5), Picture)
            wait_for_end(gone)
            stats = pool.stats()
            assert stats["kills_by_reason"] == {"cancelled": 1}
            assert stats["running"] == stats["waiting"] == 0

    asyncio.run(scene())


def test_one_who_comes_after_the_others_went_away_has_a_drawing_of_its_own() -> None:
    async def scene() -> None:
        async with opened(workers=1) as pool:
            for _ in range(5):
                task = asyncio.create_task(pool.render(circle(7)))
                await until(lambda task=task: pool.stats()["running"] == 1 or task.done())
                task.cancel()
                again = asyncio.create_task(pool.render(circle(7)))
                assert isinstance(await asyncio.wait_for(again, WAIT_S), Picture)

    asyncio.run(scene())


# what is remembered


def test_poison_is_remembered_though_nothing_else_is() -> None:
    async def scene() -> None:
        async with opened(workers=1, cpu_s=0.3, cache_entries=0) as pool:
            for text, expected in ((STUCK.format(n=9), "timeout"), (HUGE, "memory")):
                first = await pool.render(text)
                assert reason(first) == expected
                before = pool.stats()
                assert await pool.render(f"once more: {text}") == first
                after = pool.stats()
                assert after["cached"] == before["cached"] + 1
                assert (after["kills"], after["cpu_s"]) == (before["kills"], before["cpu_s"])
            await pool.render(circle())
            cached = pool.stats()["cached"]
            await pool.render(circle())
            assert pool.stats()["cached"] == cached

    asyncio.run(scene())


def test_somebody_elses_signal_is_no_poison() -> None:
    async def scene() -> None:
        async with opened(workers=1, cpu_s=0.6) as pool:
            task = asyncio.create_task(pool.render(STUCK.format(n=9)))
            await until(lambda: any(map(is_drawing, workers_of(pool))))
            (pid,) = workers_of(pool)
            os.kill(pid, signal.SIGKILL)
            assert await task == Invalid("crashed", "signal 9, SIGKILL")
            assert reason(await pool.render(STUCK.format(n=9))) == "timeout", "it is tried again"
            assert pool.stats()["kills_by_reason"] == {"crashed": 1, "processor time": 1}

    asyncio.run(scene())


def test_a_crash_is_poison() -> None:
    async def scene() -> None:
        async with opened(workers=1, cache_entries=0) as pool:
            task = asyncio.create_task(pool.render(STUCK.format(n=9)))
            await until(lambda: any(map(is_drawing, workers_of(pool))))
            (pid,) = workers_of(pool)
            os.kill(pid, signal.SIGSEGV)
            assert await task == Invalid("crashed", "signal 11, SIGSEGV")
            assert await pool.render(STUCK.format(n=9)) == Invalid("crashed", "signal 11, SIGSEGV")
            assert pool.stats()["cached"] == 1

    asyncio.run(scene())


# counts


def test_counts_are_those_of_what_happened() -> None:
    async def scene() -> None:
        async with opened(workers=2) as pool:
            empty = pool.stats()
            assert (empty["rendered"], empty["hit_rate"]) == (0, 0.0)
            assert empty["wait_ms"] == empty["draw_ms"] == {}
            assert summarise(empty)
            for text in (circle(1), circle(1), circle(2), "no picture", "<svg/>", HUGE):
                await pool.render(text)
            await pool.pixels(circle(2))
            await pool.render(circle(3).replace("<circle", "<text y='9'>\u4e2d</text><circle"))
            stats = pool.stats()
            assert set(empty) == set(stats)
            assert stats["rendered"] == 5
            assert stats["cached"] == 1
            assert stats["hit_rate"] == 1 / 8
            assert stats["with_boxes"] == 1
            assert stats["invalid"] == {"not_svg": 1, "bad_size": 1, "memory": 1}
            assert (stats["kills"], stats["recycled"], stats["retried"]) == (0, 1, 0)
            assert stats["workers"] == 2
            assert 0 < stats["cpu_s"] < WAIT_S
            assert stats["busy_s"] > 0
            for name in ("wait_ms", "draw_ms"):
                times = stats[name]
                assert list(times) == ["p50", "p95", "p99"]
                assert 0 <= times["p50"] <= times["p95"] <= times["p99"]
            assert "5 pictures, 3 refused" in summarise(stats)
            assert together([stats]) == stats
            both = together([empty, stats, stats])
            doubled = {"rendered": 10, "cached": 2, "workers": 6, "busy_s": 2 * stats["busy_s"]}
            assert both | doubled == both
            assert both["invalid"] == {"not_svg": 2, "bad_size": 2, "memory": 2}
            for name in ("hit_rate", "wait_ms", "draw_ms", "sandbox"):
                assert both[name] == stats[name]
            assert "10 pictures, 6 refused" in summarise(both)

    asyncio.run(scene())


def test_owners_take_turns_with_the_workers() -> None:
    async def scene() -> None:
        async with opened(workers=1, cache_entries=0) as pool:
            finished: list[str] = []

            async def ask(owner: str, x: int) -> None:
                await pool.of(owner).render(circle(x))
                finished.append(owner)

            many = [asyncio.create_task(ask("A", x)) for x in range(30)]
            await until(lambda: pool.stats()["waiting"] >= 10)
            num_before = len(finished)  # some may be drawn before this task sees any waiting
            await ask("B", 99)
            # Of 30 a few: what is drawn, or drawn and not yet told, when B asks, and one more.
            assert finished.index("B") <= num_before + 6, finished
            await asyncio.gather(*many)

    asyncio.run(scene())


def test_callers_beyond_the_room_wait_and_are_answered() -> None:
    async def scene() -> None:
        async with opened(workers=2, queue=1, cache_entries=0) as pool:
            results = await asyncio.gather(*(pool.render(circle(x)) for x in range(40)))
            assert all(isinstance(result, Picture) for result in results)

    asyncio.run(scene())


# what is drawn


def test_pixels_are_those_of_the_png() -> None:
    async def scene() -> None:
        async with opened() as pool:
            for text in SOME:
                picture, raw = await pool.render(text), await pool.pixels(text)
                assert isinstance(raw, Pixels), raw
                image = pixels(picture)
                assert image.size == (raw.width, raw.height)
                assert image.tobytes() == raw.rgb
            for text in ("no picture", "<svg/>", '<svg viewBox="0 0 9 9"/>'):
                assert await pool.render(text) == await pool.pixels(text)

    asyncio.run(scene())


def test_two_pools_draw_the_same_bytes() -> None:
    async def scene() -> None:
        async with opened(workers=2) as one, opened(workers=1, recycle_after=1) as other:
            first = await asyncio.gather(*(one.render(text) for text in SOME))
            second = [await other.render(text) for text in reversed(SOME)]
            assert all(isinstance(result, Picture) for result in first)
            assert list(reversed(second)) == first

    asyncio.run(scene())


WIDE = (
    '<svg width="{w}" height="{h}"><rect width="{w}" height="{h}" fill="blue"/>'
    '<path d="M0 0h{h}v{h}z" fill="red"/></svg>'
)


@pytest.mark.parametrize(
    "grid, fit, shape, expected, drawing",
    [
        (48, "pad", (200, 100), (96, 48), (96, 48)),
        (1, "pad", (300, 100), (96, 32), (96, 32)),
        (96, "pad", (300, 100), (96, 96), (96, 32)),
        (48, "scale", (300, 200), (96, 48), (72, 48)),
        (32, "scale", (400, 10), (96, 32), (96, 2)),
        (32, "scale", (100, 300), (32, 96), (32, 96)),
    ],
)
def test_pages_are_multiples_of_the_grid(
    grid: int, fit: str, shape: tuple[int, int], expected: tuple[int, int], drawing: tuple[int, int]
) -> None:
    async def scene() -> None:
        async with opened(grid=grid, fit=fit, workers=1) as pool:
            width, height = shape
            image = pixels(await pool.render(WIDE.format(w=width, h=height)))
            assert image.size == expected
            assert (image.width % grid, image.height % grid) == (0, 0)
            box = image.getchannel("G").point(lambda level: 255 if level < 250 else 0).getbbox()
            assert box is not None
            size = box[2] - box[0], box[3] - box[1]
            assert all(abs(one - other) <= 2 for one, other in zip(size, drawing, strict=True))

    asyncio.run(scene())


# workers


def test_a_worker_that_grew_is_replaced() -> None:
    large = HUGE.replace("30000", "7000").replace('<circle r="9"/>', '<path d="M0 0H9999V9999"/>')

    async def scene() -> None:
        async with opened(workers=1, side=1472, recycle_mb=128, cache_entries=0) as pool:
            await pool.render(circle())
            (first,) = workers_of(pool)
            assert pool.stats()["recycled"] == 0, "an ordinary picture is no reason"
            assert isinstance(await pool.render(large), Picture)
            assert pool.stats()["recycled"] == 1
            await until(lambda: workers_of(pool) == [])
            assert isinstance(await pool.render(circle()), Picture)
            assert workers_of(pool) != [first]

    asyncio.run(scene())


class Deadlines:
    """Those of a pool's drawings, which pass when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._newest: asyncio.Timeout
        self.number = 0
        own = SimpleNamespace(**vars(asyncio))
        own.timeout = self._timeout
        monkeypatch.setattr(pool_module, "asyncio", own)

    def _timeout(self, _: float) -> asyncio.Timeout:
        self._newest = asyncio.timeout(None)
        self.number += 1
        return self._newest

    def pass_by(self) -> None:
        """That of the newest drawing."""
        self._newest.reschedule(asyncio.get_running_loop().time())


@pytest.fixture
def deadlines(monkeypatch: pytest.MonkeyPatch) -> Deadlines:
    return Deadlines(monkeypatch)


def test_a_machine_that_stood_still_once_is_forgiven(deadlines: Deadlines) -> None:
    async def scene() -> None:
        async with opened(workers=1) as pool:
            await pool.render(circle(1))
            (pid,) = workers_of(pool)
            gone = os.pidfd_open(pid)
            os.kill(pid, signal.SIGSTOP)
            task = asyncio.create_task(pool.render(circle(2)))
            await until(lambda: deadlines.number == 2)
            deadlines.pass_by()
            assert isinstance(await task, Picture)
            wait_for_end(gone)
            stats = pool.stats()
            assert stats["retried"] == 1
            assert stats["kills_by_reason"] == {"deadline": 1}
            assert stats["running"] == 0

    asyncio.run(scene())


def test_a_machine_that_stands_still_twice_is_a_timeout_and_not_remembered(
    deadlines: Deadlines,
) -> None:
    async def scene() -> None:
        async with opened(workers=1) as pool:
            await pool.render(circle(1))
            (first,) = workers_of(pool)
            os.kill(first, signal.SIGSTOP)
            task = asyncio.create_task(pool.render(STUCK.format(n=9)))
            await until(lambda: deadlines.number == 2)
            deadlines.pass_by()
            await until(lambda: any(is_drawing(pid) for pid in workers_of(pool) if pid != first))
            (second,) = set(workers_of(pool)) - {first}
            os.kill(second, signal.SIGSTOP)
            deadlines.pass_by()
            assert await task == Invalid("timeout", "the machine stood still")
            stats = pool.stats()
            assert (stats["retried"], stats["kills_by_reason"]) == (2, {"deadline": 2})
            again = asyncio.create_task(pool.render(STUCK.format(n=9)))
            await until(lambda: any(is_drawing(pid) for pid in workers_of(pool) if pid != second))
            again.cancel()
            with pytest.raises(asyncio.CancelledError):
                await again
            assert isinstance(await pool.render(circle(2)), Picture)

    asyncio.run(scene())


def status_of(pid: int | None) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.split() for key, value in (line.split(":", 1) for line in lines)}


def limits_of(pid: int) -> dict[str, list[str]]:
    """{name: [soft, hard]}."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): line[26:].split()[:2] for line in lines}


def descriptors_of(pid: int) -> list[str]:
    links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    return sorted(link.partition(":")[0] for link in links)


def environment_of(pid: int | None) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def test_a_worker_has_given_everything_up() -> None:
    async def scene() -> None:
        async with opened(workers=1, memory_mb=512) as pool:
            await pool.render(circle())
            (pid,) = workers_of(pool)
            status = status_of(pid)
            assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
            assert status["Threads"] == ["1"]
            if status_of(pool.pid)["Uid"][0] == "0":
                assert {*status["Uid"], *status["Gid"], *status["Groups"]} == {"65534"}
            assert int(status["CapEff"][0], 16) == 0
            limits = limits_of(pid)
            assert limits["Max address space"] == [str(512 << 20)] * 2
            assert limits["Max open files"] == ["32", "32"]
            for name in ("Max file size", "Max processes", "Max core file size"):
                assert limits[name] == ["0", "0"], name
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            assert descriptors_of(pid) == ["/dev/null"] * 3 + ["socket"]

    asyncio.run(scene())


def test_a_secret_of_the_caller_is_in_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2-hunter2")

    async def scene() -> None:
        async with opened(workers=1) as pool:
            await pool.render(circle())
            for pid in (pool.pid, *workers_of(pool)):
                assert b"hunter2" not in environment_of(pid)

    asyncio.run(scene())


def test_the_template_s_death_in_the_middle_leaves_nobody_without_an_answer() -> None:
    async def scene() -> None:
        async with opened(workers=3) as pool:
            stuck = [asyncio.create_task(pool.render(STUCK.format(n=n))) for n in (7, 8, 9)]
            await until(lambda: sum(map(is_drawing, workers_of(pool))) == 3)
            waiting = [asyncio.create_task(pool.render(circle(x))) for x in range(7)]
            await until(lambda: pool.stats()["waiting"] == 7)
            assert pool.pid is not None
            os.kill(pool.pid, signal.SIGKILL)
            results = await asyncio.wait_for(asyncio.gather(*stuck, *waiting), WAIT_S)
            assert [reason(result) for result in results] == ["crashed"] * 3 + ["picture"] * 7
            assert pool.stats()["running"] == pool.stats()["waiting"] == 0
            # What died with the template is to blame for nothing: it would be drawn again.
            assert pool.stats()["cached"] == 0
            again = asyncio.create_task(pool.render(circle(8)))
            assert isinstance(await again, Picture)

    asyncio.run(scene())


def test_the_template_s_death_again_and_again() -> None:
    """Killed while it forks, while its workers draw, and while nothing happens."""

    async def scene() -> None:
        async with opened(workers=2, recycle_after=1, cache_entries=0) as pool:
            for round_ in range(2):
                tasks = [asyncio.create_task(pool.render(circle(x))) for x in range(10)]
                for _ in range(round_ * 9):
                    await asyncio.sleep(0)
                assert pool.pid is not None
                os.kill(pool.pid, signal.SIGKILL)
                results = await asyncio.wait_for(asyncio.gather(*tasks), WAIT_S * 2)
                assert {reason(result) for result in results} <= {"picture", "crashed"}
                assert sum(isinstance(result, Picture) for result in results) >= 8

    asyncio.run(scene())


def test_leaving_with_work_under_way_cancels_it() -> None:
    async def scene() -> None:
        async with opened(workers=1) as pool:
            tasks = [asyncio.create_task(pool.render(STUCK.format(n=n))) for n in (7, 8, 9)]
            await until(lambda: any(map(is_drawing, workers_of(pool))))
            gone = [os.pidfd_open(pid) for pid in (pool.pid or 0, *workers_of(pool))]
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT_S)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        for pidfd in gone:
            wait_for_end(pidfd)
        with pytest.raises(EngineError, match="closed"):
            await pool.render(circle(1))

    asyncio.run(scene())


def test_every_reason_has_its_place() -> None:
    """All reasons that a document can bring about, from one pool."""
    cases = {
        "not_svg": "?",
        "too_large": circle().replace("<circle", f"<desc>{'x' * 70000}</desc><circle"),
        "forbidden": circle().replace("<circle", '<image href="http://x/y"/><circle'),
        "malformed": circle().replace("/>", ">"),
        "bad_size": circle().replace("0 0 96 96", "0 0 1 999"),
        "too_costly": circle().replace("<circle", '<use href="#a" id="a"/><circle'),
        "timeout": STUCK.format(n=9),
        "memory": HUGE,
        "blank": circle(fill="white"),
        "near_blank": circle().replace('r="20"', 'r="1"'),
    }
    assert set(cases) == set(REASONS) - {"crashed"}

    async def scene() -> None:
        async with opened(workers=1, cpu_s=0.3) as pool:
            found = {name: reason(await pool.render(text)) for name, text in cases.items()}
            assert found == {name: name for name in cases}

    asyncio.run(scene())
