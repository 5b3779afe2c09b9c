"""`await pool.render(text)`: a picture, or a named reason why there is none.

    render() --> source (extract.py) --> cache --> a turn (turns.py) --> a worker --> result
                                                                    ^      | deadline, end of file,
                                                          fork <----+      v cancellation
                                                        template        SIGKILL

A caller waits for its turn (that is the back-pressure: nothing is queued but callers) and then owns
a worker until its answer is there. A worker that misses the deadline, dies or is abandoned by a
cancelled caller is killed, and the next caller has another one forked (about ten milliseconds).
Two callers with the same source share one drawing. A source that ended its worker is not tried
again while the pool lives and it is one of the last `_POISONS` of them; one whose worker somebody
else's SIGKILL ended (for want of memory, say) is none of these.
"""

import asyncio
import hashlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from importlib import metadata
from types import TracebackType
from typing import Any

from engine.errors import EngineError
from engine.types import Invalid, Picture
from render_pool import fonts, protocol
from render_pool.cache import Cache, Result
from render_pool.config import RenderConfig
from render_pool.extract import source
from render_pool.measure import Measures
from render_pool.picture import Pixels
from render_pool.processes import Answer, Template, Worker, check_system, describe
from render_pool.reasons import REASONS, Reason, invalid
from render_pool.turns import Turns

__all__ = ["RenderPool", "check_system"]

log = logging.getLogger(__name__)

_POISONS = 8192
"""Sources that ended their worker and are remembered, whatever the cache keeps."""
_FORK_ATTEMPTS = 5
_STALLED = 0.2
"""Share of the deadline: a worker that had less processor time was not slow, its machine was."""
_LIBRARIES = {
    "cairosvg": ("cairosvg", "cairocffi", "cssselect2", "tinycss2"),
    "resvg": ("resvg-py",),
}


class RenderPool:
    """Worker processes that draw SVG. Use as an async context manager, within one event loop.

    Entering raises ConfigError where a library is missing. With `audit`, workers are ended by what
    they are otherwise refused (files, network, processes): for tests.
    """

    def __init__(self, cfg: RenderConfig, *, audit: bool = False) -> None:
        self._cfg = cfg
        self._settings = protocol.Settings(
            backend=cfg.backend,
            side=cfg.side,
            grid=cfg.grid,
            fit=cfg.fit,
            cpu_s=cfg.cpu_s,
            memory_mb=cfg.memory_mb,
            is_audited=audit,
        )
        self._template: Template | None = None
        self._restart = asyncio.Lock()
        self._turns = Turns(cfg.workers, cfg.queue)
        self._idle: list[Worker] = []
        self._flights: dict[bytes, _Flight] = {}
        self._cache = Cache(cfg.cache_entries)
        self._poisons = Cache(_POISONS)
        self._measures = Measures()
        self._salt = b""
        self._sandbox = ""

    async def __aenter__(self) -> "RenderPool":
        self._template = await Template.start(self._settings)
        self._salt = _salt(self._cfg)  # not before: the backend is known to be installed now
        try:
            first = await self._forked()
        except BaseException:
            self._template.close(kill=True)
            raise
        self._sandbox = first.sandbox
        self._idle.append(first)
        level = logging.INFO if "seccomp" in first.sandbox and "land" in first.sandbox else 30
        log.log(level, "render pool: its workers are confined by: %s", first.sandbox)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        flights = [flight.task for flight in self._flights.values()]
        for task in flights:
            task.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        template, self._template = self._template, None
        for worker in self._idle:
            worker.close()
        self._idle.clear()
        if template is not None:
            template.close()

    @property
    def pid(self) -> int | None:
        """Process (and session) id of the template, the parent of all workers."""
        return self._template.pid if self._template else None

    async def render(self, svg: str | bytes, owner: Hashable = None) -> Picture | Invalid:
        """Draw the first SVG of a model's text. Never raises for what the text holds.

        `owner`: whose request it is (a game); waiting owners are served in rotation.
        """
        result = await self._request(svg, owner, protocol.PNG)
        assert not isinstance(result, Pixels)
        return result

    async def pixels(self, svg: str | bytes, owner: Hashable = None) -> Pixels | Invalid:
        """The same as raw RGB, for those who would only decode the PNG."""
        result = await self._request(svg, owner, protocol.RGB)
        assert not isinstance(result, Picture)
        return result

    def of(self, owner: Hashable) -> "Renderer":
        """This pool on behalf of one owner."""
        return Renderer(self, owner)

    def stats(self) -> dict[str, Any]:
        """Counts since the start, percentiles of recent times in ms, and what goes on now.

        `busy_s` and `cpu_s` are summed over the workers, over requests that were answered."""
        return self._measures.as_dict() | {
            "waiting": self._turns.num_waiting,
            "workers": self._cfg.workers,
            "backend": self._cfg.backend,
            "sandbox": self._sandbox,
        }

    # one request

    async def _request(self, text: str | bytes, owner: Hashable, kind: bytes) -> Result:
        svg = source(text, self._cfg.max_bytes)
        if isinstance(svg, Invalid):
            self._measures.came(svg, is_cached=False)
            return svg
        key = hashlib.sha256(self._salt + kind + svg).digest()
        kept = self._cache.get(key) or self._poisons.get(key)
        result = kept or await self._shared(key, lambda: self._drawn(svg, owner, kind, key))
        self._measures.came(result, is_cached=kept is not None)
        return result

    async def _shared(self, key: bytes, draw: Callable[[], Awaitable[Result]]) -> Result:
        """One drawing for all who ask for it at the same time; the last to go away ends it."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.ensure_future(draw()))
        flight.num_waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.num_waiting -= 1
            if flight.num_waiting == 0:
                flight.task.cancel()  # nothing, where it is done
                if self._flights.get(key) is flight:
                    del self._flights[key]

    async def _drawn(self, svg: bytes, owner: Hashable, kind: bytes, key: bytes) -> Result:
        """Wait for a turn and draw; a machine that stood still gets a second chance."""
        asked = time.monotonic()
        await self._turns.take(owner)
        self._measures.waited(time.monotonic() - asked)
        self._measures.running += 1
        began = time.monotonic()
        try:
            for is_last in (False, True):
                worker = self._idle_worker() or await self._forked()
                try:
                    result, memory = await self._draw_on(worker, svg, kind)
                    break
                except _StoodStill:
                    self._measures.counts["retried"] += 1
                    if is_last:
                        return invalid("timeout", "the machine stood still")
        finally:
            self._measures.busy_s += time.monotonic() - began
            self._measures.running -= 1
            self._turns.give()
        if memory is not None:
            memory.put(key, result)
        return result

    async def _draw_on(
        self, worker: Worker, svg: bytes, kind: bytes
    ) -> tuple[Result, Cache | None]:
        """One drawing on one worker, which afterwards is idle again, or ended. With it, where it is
        to be remembered: `_poisons` where the source is to blame for that end, None where the
        result says nothing about the source."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._cfg.deadline_s):
                answer = await worker.draw(svg, kind, self._cfg.side)
        except TimeoutError:  # before OSError, whose subclass it is
            used_s = worker.used_cpu_s() - worker.told_cpu_s
            self._kill(worker, "deadline")
            if used_s < _STALLED * self._cfg.deadline_s:
                raise _StoodStill from None
            return invalid("timeout", f"{self._cfg.deadline_s:g} s"), self._poisons
        except (OSError, EOFError):
            return await self._ended(worker)
        except ValueError as error:
            self._kill(worker, "nonsense")
            return invalid("crashed", str(error)[:80]), self._poisons
        except asyncio.CancelledError:
            self._kill(worker, "cancelled")
            raise
        self._measures.drew(time.monotonic() - began, answer.cpu_s)
        self._give_back(worker, answer)
        result = _result(answer)
        is_poison = isinstance(result, Invalid) and result.reason == "memory"
        return result, self._poisons if is_poison else self._cache

    async def _ended(self, worker: Worker) -> tuple[Result, Cache | None]:
        """What it means that a worker ended in the middle of a drawing."""
        template = self._template
        status = await template.ended(worker) if template is not None else None
        if status in (-signal.SIGPROF, -signal.SIGXCPU):
            self._measures.kills["processor time"] += 1
            return invalid("timeout", f"{self._cfg.cpu_s:g} s of processor time"), self._poisons
        self._measures.kills["crashed"] += 1
        # Somebody else's signal says nothing about the source.
        is_its_own = status is not None and status != -signal.SIGKILL
        return invalid("crashed", describe(status)), self._poisons if is_its_own else None

    # the workers

    def _idle_worker(self) -> Worker | None:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_idle:
                return worker
            self._kill(worker, "idle")
        return None

    async def _forked(self) -> Worker:
        """A new worker; a template that is gone is replaced first."""
        for _ in range(_FORK_ATTEMPTS):
            template = self._template
            if template is None:
                raise EngineError("render pool: closed")
            try:
                return await template.fork()
            except EOFError:  # the new worker ended before its first word; perhaps only it
                continue
            except OSError:
                async with self._restart:
                    if self._template is template:
                        template.close(kill=True)
                        self._template = await Template.start(self._settings)
        raise EngineError(f"render pool: no worker after {_FORK_ATTEMPTS} attempts")

    def _give_back(self, worker: Worker, answer: Answer) -> None:
        is_spent = (
            answer.is_last
            or worker.num_drawn >= self._cfg.recycle_after
            or answer.peak_mb > self._cfg.recycle_mb
        )
        if is_spent or self._template is None:
            self._measures.counts["recycled"] += 1
            worker.close()
        else:
            self._idle.append(worker)

    def _kill(self, worker: Worker, why: str) -> None:
        self._measures.kills[why] += 1
        if self._template is not None:
            self._template.kill(worker)
        else:
            worker.close()


class Renderer:
    """A pool on behalf of one owner."""

    def __init__(self, pool: RenderPool, owner: Hashable) -> None:
        self._pool = pool
        self._owner = owner

    async def render(self, svg: str) -> Picture | Invalid:
        return await self._pool.render(svg, self._owner)


class _StoodStill(Exception):
    """The deadline passed while the worker had no processor."""


@dataclass(slots=True)
class _Flight:
    """A drawing under way, and how many wait for it."""

    task: "asyncio.Future[Result]"
    num_waiting: int = 0


def _result(answer: Answer) -> Result:
    if answer.kind == protocol.PNG:
        return Picture(answer.payload, answer.width, answer.height, answer.note)
    if answer.kind == protocol.RGB:
        return Pixels(answer.payload, answer.width, answer.height, answer.note)
    name, _, detail = answer.note.partition(":")
    reason: Reason = next((known for known in REASONS if known == name), "crashed")
    return invalid(reason, detail[:80])


def _salt(cfg: RenderConfig) -> bytes:
    """What a result depends on besides its source."""
    versions = [f"{name} {metadata.version(name)}" for name in _LIBRARIES[cfg.backend]]
    parts = (cfg.backend, cfg.side, cfg.grid, cfg.fit, fonts.fingerprint(), *versions)
    return hashlib.sha256(repr(parts).encode()).digest()
