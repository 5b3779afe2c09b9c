"""A chat completions server that thinks of nothing: it answers after a while, or fails.

    python -m launch.benches.canned_server PORT [--slots 32] [--mean-s 0.4] [--fail 0.05]

It has so many slots; a request waits for one in the order of arrival and then holds it for a time
that its own `seed` decides (log-normal, a tenth of them three times as long as the mean), so
whoever sends the same requests gets the same work. GET /stats says how busy the slots were.
"""

import argparse
import asyncio
import json
import random
import time
from typing import Any

from aiohttp import web

_SIGMA = 0.8
"""Of the logarithm of the time: as answers of a reasoning model are."""
_MAX_BODY_BYTES = 64 << 20


class Canned:
    """Slots, counts, and the answers."""

    def __init__(self, *, slots: int, mean_s: float, fail: float) -> None:
        self._free = asyncio.Semaphore(slots)
        self._slots, self._mean_s, self._fail = slots, mean_s, fail
        self._chance = random.Random(0)
        self.reset()

    def reset(self) -> None:
        self.requests = self.failures = 0
        self.busy_s = 0.0
        self.first_s = self.last_s = time.perf_counter()

    async def complete(self, http: web.Request) -> web.StreamResponse:
        body = json.loads(await http.read())
        if not self.requests:
            self.first_s = time.perf_counter()
        self.requests += 1
        if self._chance.random() < self._fail:
            self.failures += 1
            return await self._failure(http)
        async with self._free:
            began_s = time.perf_counter()
            await asyncio.sleep(duration_s(body["seed"], self._mean_s))
            self.last_s = time.perf_counter()
            self.busy_s += self.last_s - began_s
        return web.json_response(completion(body))

    async def _failure(self, http: web.Request) -> web.StreamResponse:
        """One of the ways in which servers fail."""
        kind = self.failures % 3
        if kind == 0:
            return web.Response(status=503, text="overloaded")
        if kind == 1:
            return web.Response(text='{"choices": [')  # broken off, and yet 200
        assert http.transport is not None
        http.transport.abort()
        return web.Response()

    async def stats(self, _: web.Request) -> web.Response:
        wall_s = self.last_s - self.first_s
        share = self.busy_s / (self._slots * wall_s) if wall_s else 0.0
        found = {"requests": self.requests, "failures": self.failures}
        return web.json_response({**found, "busy": share, "wall_s": wall_s})

    async def restart(self, _: web.Request) -> web.Response:
        self.reset()
        return web.Response()


def duration_s(seed: int, mean_s: float) -> float:
    """How long the answer to a request with this seed takes."""
    return mean_s * random.Random(seed).lognormvariate(-_SIGMA * _SIGMA / 2, _SIGMA)


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """An answer to any question, decided by the request's seed."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": str(body["seed"] % 10)},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 300, "completion_tokens": 2}
    return {"object": "chat.completion", "choices": [choice], "usage": usage}


def app_of(canned: Canned) -> web.Application:
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_post("/v1/chat/completions", canned.complete)
    app.router.add_get("/stats", canned.stats)
    app.router.add_post("/reset", canned.restart)
    return app


async def serve(options: argparse.Namespace) -> None:
    canned = Canned(slots=options.slots, mean_s=options.mean_s, fail=options.fail)
    runner = web.AppRunner(app_of(canned), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port, backlog=1024).start()
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--mean-s", type=float, default=0.4)
    parser.add_argument("--fail", type=float, default=0.0, help="share of requests that fail")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
