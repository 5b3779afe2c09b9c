"""`await pool.render(text)`: a picture, or a named reason why there is none.

    render() --> checks (svg.py) --> cache --> a free worker --> picture | Invalid
                                                 ^    | deadline, end of file, cancellation
                                   fork <--------+    v
                                 template        SIGKILL

A caller waits for a free worker (that is the backpressure: nothing is queued but callers) and then
owns it until its answer is there. A worker that misses the deadline, dies or is abandoned by a
cancelled caller is killed, and the next caller has another one forked (about ten milliseconds).
A drawing that killed its worker is never tried again.
"""

import asyncio
import hashlib
import time
from collections import Counter, OrderedDict
from types import TracebackType
from typing import Any

from engine.errors import EngineError
from engine.types import Invalid, Picture
from render_pool import worker as protocol
from render_pool.config import RenderConfig
from render_pool.processes import Template, Worker, check_system
from render_pool.svg import Drawing, Reason, invalid, prepare

__all__ = ["RenderPool", "check_system"]

_REASONS: dict[bytes, Reason] = {
    protocol.BLANK: "blank",
    protocol.MALFORMED: "malformed",
    protocol.MEMORY: "memory",
}
# These speak of the moment as much as of the document, so that they are not remembered.
_PASSING = frozenset({"timeout", "memory", "crashed"})
_FORK_ATTEMPTS = 5


class RenderPool:
    """Worker processes that draw SVG. Use as an async context manager, within one event loop.

    Entering raises ConfigError where libcairo or all fonts are missing.
    """

    def __init__(self, cfg: RenderConfig) -> None:
        self._cfg = cfg
        self._template: Template | None = None
        self._restart = asyncio.Lock()
        self._free = asyncio.Semaphore(cfg.workers)
        self._idle: list[Worker] = []
        self._cache: OrderedDict[bytes, Picture | Invalid] = OrderedDict()
        self._count: Counter[str] = Counter()
        self._invalid: Counter[str] = Counter()
        self._waiting = 0
        self._running = 0
        self._busy_s = 0.0

    async def __aenter__(self) -> "RenderPool":
        # The wall deadline comes first; the processor limit outlives it and catches what it missed.
        self._template = await Template.start(cpu_s=self._cfg.deadline_s + 2)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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

    async def render(self, svg: str) -> Picture | Invalid:
        """Draw the first SVG of a model's text. Never raises for what the text holds."""
        drawing = prepare(svg, side=self._cfg.side, max_bytes=self._cfg.max_bytes)
        if isinstance(drawing, Invalid):
            return self._counted(drawing)
        key = hashlib.sha256(drawing.svg).digest()
        if key in self._cache:
            self._cache.move_to_end(key)
            self._count["cached"] += 1
            return self._counted(self._cache[key])
        result = await self._draw(drawing)
        if not (isinstance(result, Invalid) and result.reason in _PASSING):
            self._cache[key] = result
            while len(self._cache) > self._cfg.cache_entries:
                self._cache.popitem(last=False)
        return self._counted(result)

    def stats(self) -> dict[str, Any]:
        """Counts since the start, and what goes on now; `busy_s` is summed over the workers."""
        return {
            "rendered": self._count["rendered"],
            "cached": self._count["cached"],
            "invalid": dict(self._invalid),
            "kills": self._count["kills"],
            "recycled": self._count["recycled"],
            "waiting": self._waiting,
            "running": self._running,
            "busy_s": self._busy_s,
            "workers": self._cfg.workers,
        }

    def _counted(self, result: Picture | Invalid) -> Picture | Invalid:
        if isinstance(result, Invalid):
            self._invalid[result.reason] += 1
        else:
            self._count["rendered"] += 1
        return result

    async def _draw(self, drawing: Drawing) -> Picture | Invalid:
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        began = time.monotonic()
        try:
            worker = self._idle_worker() or await self._forked_worker()
            return await self._draw_on(worker, drawing)
        finally:
            self._busy_s += time.monotonic() - began
            self._running -= 1
            self._free.release()

    async def _draw_on(self, worker: Worker, drawing: Drawing) -> Picture | Invalid:
        """One drawing on one worker, which afterwards is idle again, or ended."""
        is_reusable = False
        try:
            kind, payload = await asyncio.wait_for(worker.draw(drawing), self._cfg.deadline_s)
            is_reusable = kind != protocol.MEMORY
        except TimeoutError:  # before OSError, whose subclass it is
            return invalid("timeout", f"{self._cfg.deadline_s:g} s")
        except (OSError, EOFError, ValueError) as error:
            return invalid("crashed", str(error)[:80])
        finally:
            if is_reusable:
                self._give_back(worker)
            else:
                self._kill(worker)
        if kind == protocol.PICTURE:
            return Picture(payload, *drawing.padded)
        return invalid(_REASONS.get(kind, "crashed"), payload[:80].decode(errors="replace"))

    def _idle_worker(self) -> Worker | None:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_idle:
                return worker
            self._kill(worker)
        return None

    async def _forked_worker(self) -> Worker:
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
                        self._template = await Template.start(cpu_s=self._cfg.deadline_s + 2)
        raise EngineError(f"render pool: no worker after {_FORK_ATTEMPTS} attempts")

    def _give_back(self, worker: Worker) -> None:
        if worker.num_drawn < self._cfg.recycle_after and self._template is not None:
            self._idle.append(worker)
        else:
            self._count["recycled"] += 1
            worker.close()

    def _kill(self, worker: Worker) -> None:
        self._count["kills"] += 1
        if self._template is not None:
            self._template.kill(worker)
        else:
            worker.close()
