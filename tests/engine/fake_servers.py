"""Servers in this process that speak SGLang's protocol by a script, and a sampler before them."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from engine.routing import ServerPool
from engine.sampler import RoleSampler, SamplerConfig, client_session
from engine.types import Rollout, SamplingParams

IMAGE, EOS, VOCAB = 999, 7, 1000
PARAMS = SamplingParams(max_new_tokens=8)
MESSAGES = [{"role": "user", "content": "hello"}]
WAIT_S = 300.0

Body = dict[str, Any]
Behaviour = Callable[[Body], Awaitable[web.StreamResponse]]


class FakeEncoder:
    """One id per character; every image is nine tokens long."""

    vocab_size = VOCAB
    eos_ids = (EOS,)

    def encode(self, messages: Any) -> list[int]:
        parts = [part for message in messages for part in message["content"]]
        return [IMAGE if isinstance(part, dict) else ord(part) for part in parts]

    def decode(self, ids: Any) -> str:
        return " ".join(str(token) for token in ids if token != EOS)

    def num_images(self, ids: Any) -> int:
        return list(ids).count(IMAGE)

    def prompt_tokens(self, ids: Any, images: Any) -> int:
        return len(ids) + 8 * len(images)


def answer(
    body: Body,
    ids: list[int],
    *,
    finish: str = "stop",
    spans: Sequence[tuple[Any, int, int]] | None = None,
    **meta: Any,
) -> Body:
    """An answer as SGLang gives it; `spans` are (version, start, end)."""
    images = len(body.get("image_data", ()))
    spans = [(3, 0, len(ids))] if spans is None else spans
    return {
        "text": "",
        "output_ids": ids,
        "meta_info": {
            "id": body["rid"],
            "finish_reason": {"type": finish},
            "prompt_tokens": len(body["input_ids"]) + 8 * images,
            "completion_tokens": len(ids),
            **({"image_tokens": 9 * images} if images else {}),
            "weight_version": str(spans[-1][0]) if spans else "3",
            "weight_versions": [{"version": str(v), "start": s, "end": e} for v, s, e in spans],
            "output_token_logprobs": [[-token / 100, token, None] for token in ids],
            **meta,
        },
    }


class FakeServer:
    """Plays its script of behaviours, then answers `20 21 EOS` for ever."""

    def __init__(self) -> None:
        self.script: deque[Behaviour] = deque()
        self.requests: list[Body] = []
        self.aborted: list[str] = []
        self.on_request = asyncio.Event()
        self.on_abort = asyncio.Event()
        self.running = 0
        self.most_running = 0
        self.max_running = 256
        """As it says by /server_info."""
        self.times_asked = 0
        """Whether it is there."""
        self.url = ""

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.on_request.set()
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.script:
                return await self.script.popleft()(body)
            return web.json_response(answer(body, [20, 21, EOS]))
        finally:
            self.running -= 1

    async def abort(self, request: web.Request) -> web.StreamResponse:
        self.aborted.append((await request.json())["rid"])
        self.on_abort.set()
        return web.Response()

    async def ready(self, request: web.Request) -> web.StreamResponse:
        self.times_asked += 1
        return web.Response()

    async def info(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"max_running_requests": self.max_running})

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeServer"]:
        app = web.Application()
        app.add_routes(
            [
                web.post("/generate", self.generate),
                web.post("/abort_request", self.abort),
                web.get("/ready", self.ready),
                web.get("/server_info", self.info),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*runner.addresses[0][:2])
        try:
            yield self
        finally:
            await runner.cleanup()

    def reply(self, value: Any, status: int = 200) -> None:
        async def behave(body: Body) -> web.StreamResponse:
            return web.json_response(value, status=status)

        self.script.append(behave)

    def reply_with(self, make: Callable[[Body], Body]) -> None:
        async def behave(body: Body) -> web.StreamResponse:
            return web.json_response(make(body))

        self.script.append(behave)

    def hang(self) -> None:
        async def behave(body: Body) -> web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError

        self.script.append(behave)


class Scene:
    """A sampler, its pool and its servers."""

    def __init__(self, servers: list[FakeServer], pool: ServerPool, session: Any) -> None:
        self.servers = servers
        self.pool = pool
        self.warnings: list[str] = []
        self._session = session

    def sampler(self, **cfg: Any) -> RoleSampler:
        config = SamplerConfig.model_validate({"request_timeout_s": WAIT_S, **cfg})
        return RoleSampler(
            "solver", "policy", FakeEncoder(), self.pool, self._session, config,
            self.warnings.append,
        )  # fmt: skip

    async def one(self, **cfg: Any) -> Rollout:
        (rollout,) = await self.sampler(**cfg).sample(MESSAGES, n=1, params=PARAMS)
        return rollout


@contextlib.asynccontextmanager
async def stage(num_servers: int = 1, max_concurrency: int = 64) -> AsyncIterator[Scene]:
    pool = ServerPool("policy", max_concurrency=max_concurrency)
    async with contextlib.AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(FakeServer().serving()) for _ in range(num_servers)
        ]
        for server in servers:
            pool.mark_ready(server.url, 3)
        session = await stack.enter_async_context(client_session())
        async with asyncio.timeout(WAIT_S):
            yield Scene(servers, pool, session)
