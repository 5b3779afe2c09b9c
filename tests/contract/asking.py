"""What contract tests ask a server with: a stream that can be watched, the project's own sampler,
and a learner to compare with."""

import asyncio
import functools
import http.client
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import torch

from engine.encoding import TextEncoder
from engine.learner.config import LearnerConfig
from engine.learner.trainer import PolicyTrainer
from engine.routing import ServerPool
from engine.sampler import Encoder, RoleSampler, SamplerConfig
from engine.types import Group, Rollout, SamplingParams, Segment
from tests.engine.server_process import KEY, body_of, in_background, tiny_dir

Item = tuple[Sequence[int], Sequence[bytes]]


class Stream:
    """A streamed /generate, read by a thread of its own."""

    def __init__(self, url: str, ids: Sequence[int], images: Sequence[bytes] = (), **rest: Any):
        body = {**body_of(ids, images, **rest), "stream": True}
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        self._connection.request("POST", "/generate", json.dumps(body), headers)
        self.chunks: list[dict[str, Any]] = []
        self.is_done = False
        """[DONE] came."""
        self._end = in_background(self._read)

    def _read(self) -> None:
        response = self._connection.getresponse()
        self.content_type = response.getheader("Content-Type") or ""
        for line in response:
            text = line.decode().strip().removeprefix("data: ")
            if text == "[DONE]":
                self.is_done = True
            elif text:
                self.chunks.append(json.loads(text))
        self._connection.close()

    @property
    def num_tokens(self) -> int:
        """That have arrived."""
        return len(self.chunks[-1]["output_ids"]) if self.chunks else 0

    def result(self) -> dict[str, Any]:
        """The last chunk, once the stream has ended."""
        self._end.result(90)
        return self.chunks[-1]


@asynccontextmanager
async def sampler(
    *urls: str, encoder: Encoder | None = None, router: str | None = None, **cfg: Any
) -> AsyncIterator[RoleSampler]:
    """The project's own sampler, with these servers alone; `cfg` as in SamplerConfig."""
    pool = ServerPool("tiny", max_concurrency=64, router=router)
    for url in urls:
        pool.mark_ready(url, 11)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
        yield RoleSampler(
            "solver",
            "tiny",
            encoder or TextEncoder.load(tiny_dir()),
            pool,
            session,
            SamplerConfig.model_validate(cfg),
            lambda _: None,
        )


@asynccontextmanager
async def cut_off(url: str, events: int) -> AsyncIterator[str]:
    """URL of a server's stand-in, which dies in the middle of the streamed event after so many
    whole ones, and with all of its connections."""
    parts = urlsplit(url)

    async def serve(client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        forward = asyncio.create_task(_pass_on(client, writer))
        left = events
        while left and (line := await reader.readline()):
            answer.write(line)
            left -= line.startswith(b"data:")
        answer.write((await reader.readline())[:2] + await reader.read(40))
        await answer.drain()
        if not left:
            listener.close()
        forward.cancel()
        for end in (writer, answer):
            end.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 24)
    async with listener:
        yield "http://{}:{}".format(*listener.sockets[0].getsockname()[:2])


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)


@functools.cache
def learner(seed: int) -> PolicyTrainer:
    """A learner of the tiny model of `seed`."""
    return PolicyTrainer("tiny", tiny_dir(seed), LearnerConfig(), total_steps=1)


def learner_logprobs(
    trainer: PolicyTrainer, item: Item, token_ids: Sequence[int], temperature: float = 1.0
) -> torch.Tensor:
    """[tokens] as the learner scores them when it trains."""
    ids, images = item
    rollout = Rollout(
        policy="tiny",
        role="tiny",
        prompt_ids=tuple(ids),
        images=tuple(images),
        token_ids=tuple(token_ids),
        logprobs=(0.0,) * len(token_ids),
        segments=(Segment(0, 0),),
        finish="length",
        sampling=SamplingParams(max_new_tokens=len(token_ids), temperature=temperature),
        text="",
    )
    group = Group(stream="tiny", game=0, rollouts=(rollout,), rewards=(0.0,))
    (part,) = trainer.prepare([group]).parts
    (logprobs_T,) = trainer._frozen(trainer.model, part.to(trainer.device))
    return logprobs_T.float().cpu()
