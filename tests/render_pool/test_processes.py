"""The pool's side of its processes: frames are untrusted, the environment is bare, ends told."""

import asyncio
import os
import select
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.errors import ConfigError, EngineError
from render_pool import fonts, processes
from render_pool import protocol as wire
from render_pool.picture import encode_png
from render_pool.processes import Answer, Template, Worker, check_system, describe

SIDE = 96
SVG = b'<svg viewBox="0 0 96 96"><circle cx="48" cy="48" r="20"/></svg>'
GOOD_PNG = encode_png(Image.new("RGB", (64, 32), "red"))
SETTINGS = wire.Settings("cairosvg", SIDE, 32, "pad", 10.0, 768)


def reply(
    kind: bytes = wire.PNG,
    width: int = 64,
    height: int = 32,
    note: bytes = b"",
    payload: bytes = GOOD_PNG,
    *,
    note_length: int | None = None,
    length: int | None = None,
) -> bytes:
    told = len(note) if note_length is None else note_length
    size = len(payload) if length is None else length
    head = wire.REPLY.pack(kind, False, width, height, 1500, 2048, told, size)
    return head + note + payload


def answered(data: bytes, kind: bytes = wire.PNG) -> Answer:
    """What the pool makes of a worker that says this, and then ends."""

    async def scene() -> Answer:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)
            worker = Worker(0, "", ours)
            try:
                return await asyncio.wait_for(worker.draw(SVG, kind, SIDE), 25)
            finally:
                worker.close()

    return asyncio.run(scene())


def test_a_good_answer_is_taken_as_it_is() -> None:
    answer = answered(reply(note="\u4e2d".encode()))
    assert (answer.kind, answer.width, answer.height) == (wire.PNG, 64, 32)
    assert (answer.note, answer.payload) == ("\u4e2d", GOOD_PNG)
    assert (answer.cpu_s, answer.peak_mb, answer.is_last) == (0.0015, 2.0, False)
    raw = answered(reply(wire.RGB, payload=bytes(64 * 32 * 3)), wire.RGB)
    assert len(raw.payload) == 64 * 32 * 3
    refused = answered(reply(wire.INVALID, 0, 0, b"blank:", b""))
    assert (refused.kind, refused.note) == (wire.INVALID, "blank:")


@pytest.mark.parametrize(
    "data, kind",
    [
        (reply(b"X"), wire.PNG),
        (reply(wire.RGB, payload=bytes(64 * 32 * 3)), wire.PNG),  # asked for the other
        (reply(wire.PNG), wire.RGB),
        (reply(width=97), wire.PNG),
        (reply(width=65), wire.PNG),  # not that of the PNG
        (reply(height=0), wire.PNG),
        (reply(payload=b""), wire.PNG),
        (reply(payload=b"GIF89a" + bytes(60)), wire.PNG),
        (reply(length=0xFFFFFFFF), wire.PNG),
        (reply(width=0, height=0, length=1 << 17), wire.PNG),
        (reply(note=b"x" * 401, note_length=401), wire.PNG),
        (reply(note_length=0xFFFF), wire.PNG),
        (reply(wire.RGB, payload=bytes(64 * 32 * 3 - 1)), wire.RGB),
        (reply(wire.RGB, payload=bytes(64 * 32 * 3 + 1)), wire.RGB),
    ],
)
def test_nonsense_is_noticed(data: bytes, kind: bytes) -> None:
    with pytest.raises(ValueError):
        answered(data, kind)


@pytest.mark.parametrize("end", [0, 1, wire.REPLY.size - 1, wire.REPLY.size, len(reply()) - 1])
def test_an_answer_that_breaks_off_is_an_end(end: int) -> None:
    with pytest.raises((EOFError, OSError)):
        answered(reply()[:end])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([wire.PNG, wire.RGB]), st.integers(0, 40))
def test_no_bytes_are_trusted(noise: bytes, kind: bytes, start: int) -> None:
    good = reply()
    for data in (noise, good[:start] + noise + good[start + len(noise) :]):
        try:
            answer = answered(data, kind)
        except (ValueError, EOFError, OSError):
            continue
        assert answer.kind in (kind, wire.INVALID)
        assert max(answer.width, answer.height) <= SIDE


def test_a_worker_that_speaks_unasked_is_not_idle() -> None:
    async def scene() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        worker = Worker(0, "", ours)
        assert worker.is_idle
        theirs.sendall(b"x")
        assert not worker.is_idle
        theirs.close()
        assert not worker.is_idle
        worker.close()
        assert not worker.is_idle

    asyncio.run(scene())


@pytest.mark.parametrize(
    "status, words",
    [
        (None, "with the process that forked it"),
        (0, "exit 0"),
        (3, "exit 3"),
        (-11, "signal 11, SIGSEGV"),
        (-31, "signal 31, SIGSYS"),
        (-250, "signal 250"),
    ],
)
def test_an_end_in_words(status: int | None, words: str) -> None:
    assert describe(status) == words


def test_a_template_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HOME", "/root/secret")
    monkeypatch.setenv("FONTCONFIG_FILE", "/elsewhere")
    monkeypatch.setenv("PYTHONPATH", "/one:/two")
    given = processes._environment()
    assert "secret" not in "".join(given.values())
    assert given["FONTCONFIG_FILE"] == str(fonts.FOLDER / "fonts.conf")
    assert given["PYTHONPATH"].split(":")[1:] == ["/one", "/two"]


# real ones


def with_template(scene: Callable[[Template], Awaitable[None]]) -> None:
    async def run() -> None:
        template = await Template.start(SETTINGS)
        try:
            await scene(template)
        finally:
            template.close()

    asyncio.run(run())


def wait_until_gone(pidfd: int) -> None:
    assert select.select([pidfd], [], [], 20)[0], "the process is still there"
    os.close(pidfd)


def test_how_workers_end_is_told() -> None:
    async def scene(template: Template) -> None:
        for sent in (signal.SIGSEGV, signal.SIGPROF, signal.SIGKILL, signal.SIGTERM):
            worker = await template.fork()
            gone = os.pidfd_open(worker.pid)
            os.kill(worker.pid, sent)
            wait_until_gone(gone)
            with pytest.raises((EOFError, OSError)):
                await worker.draw(SVG, wire.PNG, SIDE)
            assert await template.ended(worker) == -sent
        worker = await template.fork()
        assert (await worker.draw(SVG, wire.PNG, SIDE)).kind == wire.PNG
        worker.close()

    with_template(scene)


def test_ends_that_are_asked_for_at_the_same_time_are_not_mixed_up() -> None:
    signals = [signal.SIGSEGV, signal.SIGPROF, signal.SIGTERM, signal.SIGKILL] * 3

    async def scene(template: Template) -> None:
        workers = [await template.fork() for _ in signals]
        for worker, sent in zip(workers, signals, strict=True):
            gone = os.pidfd_open(worker.pid)
            os.kill(worker.pid, sent)
            wait_until_gone(gone)
        told = await asyncio.gather(*(template.ended(worker) for worker in workers))
        assert told == [-sent for sent in signals]

    with_template(scene)


def test_an_answer_that_nobody_waits_for_any_more_is_not_the_next_ones() -> None:
    """A caller goes away while the template is asked how its worker ended."""

    async def scene(template: Template) -> None:
        first, second = await template.fork(), await template.fork()
        for worker, sent in ((first, signal.SIGSEGV), (second, signal.SIGPROF)):
            gone = os.pidfd_open(worker.pid)
            os.kill(worker.pid, sent)
            wait_until_gone(gone)
        os.kill(template.pid, signal.SIGSTOP)
        try:
            asking = asyncio.create_task(template.ended(first))
            for _ in range(3):
                await asyncio.sleep(0)  # it has asked
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        finally:
            os.kill(template.pid, signal.SIGCONT)
        assert await template.ended(second) == -signal.SIGPROF

    with_template(scene)


def test_a_killed_worker_is_gone_and_asking_about_it_is_answered() -> None:
    async def scene(template: Template) -> None:
        worker = await template.fork()
        gone = os.pidfd_open(worker.pid)
        template.kill(worker)
        wait_until_gone(gone)
        await asyncio.wait_for(template.ended(worker), 25)

    with_template(scene)


def test_what_a_template_is_gone_for_is_an_error_at_once() -> None:
    async def scene(template: Template) -> None:
        worker = await template.fork()
        gone, child = os.pidfd_open(template.pid), os.pidfd_open(worker.pid)
        os.kill(template.pid, signal.SIGKILL)
        wait_until_gone(gone)
        wait_until_gone(child)
        assert await asyncio.wait_for(template.ended(worker), 25) is None
        with pytest.raises((OSError, EOFError)):
            await asyncio.wait_for(template.fork(), 25)
        template.kill(worker)

    with_template(scene)


def test_a_template_that_won_t_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('half\\ninstalled')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ConfigError, match="does not start") as one:
        check_system()
    assert "\n" not in str(one.value)
    with pytest.raises(EngineError, match="ended while it started"):
        asyncio.run(Template.start(SETTINGS))


def test_who_is_cancelled_at_the_moment_a_worker_says_hello_gets_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python 3.11's `asyncio.wait_for` would forget the cancellation; a pool that is closed then
    waited until the drawing had ended."""

    pairs: list[socket.socket] = []
    socketpair = socket.socketpair

    def noted(*given: int) -> tuple[socket.socket, socket.socket]:
        pairs.extend(pair := socketpair(*given))
        return pair

    async def scene() -> None:
        template = await Template.start(SETTINGS)
        try:
            hello, is_waiting = asyncio.get_running_loop().create_future(), asyncio.Event()

            async def receive(sock: socket.socket, size: int) -> bytes:
                is_waiting.set()
                return bytes(await hello)

            monkeypatch.setattr(processes, "receive", receive)
            monkeypatch.setattr(socket, "socketpair", noted)
            forking = asyncio.create_task(template.fork())
            await is_waiting.wait()
            hello.set_result(wire.HELLO.pack(1, b""))
            forking.cancel()  # in one turn of the loop
            with pytest.raises(asyncio.CancelledError):
                await forking
            assert [sock.fileno() for sock in pairs] == [-1, -1], "the worker ends: nobody has it"
        finally:
            template.close()

    asyncio.run(scene())


def test_who_asks_a_template_that_is_closed_meanwhile_is_answered() -> None:
    """A socket that is closed under a waiting reader would never wake it."""

    async def scene() -> None:
        template = await Template.start(SETTINGS)
        worker = await template.fork()
        os.kill(template.pid, signal.SIGSTOP)  # it will not answer
        asking = [asyncio.create_task(template.ended(worker)) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in asking)
        control = template._control
        template.close(kill=True)
        async with asyncio.timeout(25):
            assert await asyncio.gather(*asking) == [None, None]
        assert control.fileno() == -1

    asyncio.run(scene())
