"""`await sampler.sample(messages, n=8, params=...)`: the one place that asks rollout servers.

Everything between a game and a server is here: routing (`engine.routing`), retries on another
server, deadlines, and the resumption of rollouts that an update interrupted, whose tokens keep the
versions and log-probs with which they were sampled. Answers are checked (`engine.replies`).

A request ends as a rollout, or as a named failure of its game:

    deadline   no rollout within `request_timeout_s`, waiting for a server included
    retries    servers failed or were unreachable, time and again
    protocol   servers answered what contradicts the request (a wrong vocabulary, lost images, ...)
    rejected   the server refuses the request itself (a prompt longer than its context)
"""

import asyncio
import base64
import hashlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import orjson
from pydantic import Field

from engine.config import Section
from engine.encoding import TextEncoder
from engine.errors import GameDropped
from engine.generation import Client, Failure, Prompt
from engine.liveness import Liveness
from engine.replies import Reply
from engine.routing import ServerPool
from engine.tasks import concurrently
from engine.types import Finish, Message, Rollout, SamplingParams, Segment

__all__ = ["RoleSampler", "SamplerConfig", "ServerPool", "TextEncoder", "client_session"]

_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 5.0


class SamplerConfig(Section):
    """How patiently and how hard the servers are asked."""

    request_timeout_s: float = Field(600.0, gt=0)
    """Wall seconds for one rollout, with all waiting and all retries."""
    retries: int = Field(4, ge=0)
    """Failed attempts that are forgiven one rollout; an interruption that made progress is none."""
    max_concurrency: int = Field(256, ge=1)
    """Requests at one server at a time, or fewer where the server says that it runs fewer;
    further ones wait here."""
    stall_s: float = Field(20.0, gt=0)
    """A server that answers nothing for so long, not even whether it is there, has failed."""
    stream: bool = False
    """Have answers streamed, so that tokens that came before a server died are kept. It costs
    some of the tokens per second."""
    stream_interval: int = Field(16, ge=1)
    """Tokens between two events of a streamed answer."""


class Encoder(Protocol):
    """What a sampler needs to know of a model; `engine.encoding.TextEncoder` is one."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_ids(self) -> Sequence[int]: ...

    def encode(self, messages: Sequence[Message]) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def num_images(self, ids: Sequence[int]) -> int: ...

    def prompt_tokens(self, ids: Sequence[int], images: Sequence[bytes]) -> int | None: ...


class _NewestFirst(aiohttp.TCPConnector):
    """Takes the connection again that was used last, so that those of a peak grow idle and end.
    Taken in turns, as aiohttp does by itself, they would all stay for ever."""

    async def _get(self, key: Any, traces: Any) -> Any:
        free = self._conns.get(key)
        if free:
            free.rotate(1)  # it takes the first, and puts those that are done at the end
        return await super()._get(key, traces)


_KEEP_ALIVE_S = 3.0
"""Idle connections are ours to close: SGLang closes them after 5 s, and a request that is sent in
that moment would look like the server's death."""


def client_session(key: str | None = None) -> aiohttp.ClientSession:
    """A session for samplers: they bound concurrency and time themselves. `key`: the servers'."""
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {key}"} if key else None,
        connector=_NewestFirst(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),  # nobody sets any: not to look for them
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
    )


@dataclass(slots=True)
class _Progress:
    """A rollout on its way: what was sampled so far, over all of its attempts."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    url: str = ""

    def extend(self, reply: Reply) -> None:
        offset = len(self.token_ids)
        for segment in reply.segments:
            if not self.segments or self.segments[-1].version != segment.version:
                self.segments.append(Segment(offset + segment.first, segment.version))
        self.token_ids.extend(reply.token_ids)
        self.logprobs.extend(reply.logprobs)


class RoleSampler:
    """Samples as one role, from the servers of its policy. Structurally a `roles.table.Sampler`."""

    def __init__(
        self,
        role: str,
        policy: str,
        encoder: Encoder,
        pool: ServerPool,
        session: aiohttp.ClientSession,
        cfg: SamplerConfig,
        warn: Callable[[str], None],
    ) -> None:
        self._role = role
        self._policy = policy
        self._encoder = encoder
        self._pool = pool
        self._cfg = cfg
        self._client = Client(
            session=session,
            liveness=Liveness(session, stall_s=cfg.stall_s, on_limit=pool.set_limit),
            counts=pool.counts,
            eos_ids=encoder.eos_ids,
            vocab_size=encoder.vocab_size,
            stream_interval=cfg.stream_interval if cfg.stream else None,
        )
        self._warn = warn
        self._has_warned = False

    async def sample(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        params: SamplingParams,
        images: Sequence[bytes] = (),
    ) -> tuple[Rollout, ...]:
        """`n` rollouts of one prompt. Raises GameDropped, by the reasons above."""
        if not params.is_trainable and not self._has_warned:
            self._has_warned = True
            self._warn(f"{self._role}: rollouts sampled with {params} are not fit for training")
        prompt = self._prompt(messages, tuple(images), params)
        return await concurrently(lambda _: self._rollout(prompt), range(n))

    def _prompt(
        self, messages: Sequence[Message], images: tuple[bytes, ...], params: SamplingParams
    ) -> Prompt:
        ids = self._encoder.encode(messages)
        if self._encoder.num_images(ids) != len(images):
            raise ValueError(
                f"{self._role}: {self._encoder.num_images(ids)} image placeholders for "
                f"{len(images)} images"
            )
        # One such id ends an SGLang server, and with it everyone's requests.
        if ids and not 0 <= min(ids) <= max(ids) < self._encoder.vocab_size:
            raise ValueError(f"{self._role}: a prompt id is not in the model's vocabulary")
        encoded = orjson.dumps(ids)
        return Prompt(
            ids=tuple(ids),
            ids_json=encoded,
            images=images,
            images_json=b"[%s]" % b", ".join(b'"%s"' % base64.b64encode(image) for image in images),
            length=self._encoder.prompt_tokens(ids, images),
            prefix=hashlib.sha256(b"".join(images) or encoded).digest(),
            params=params,
        )

    async def _rollout(self, prompt: Prompt) -> Rollout:
        started_s = time.time()
        progress = _Progress()
        try:
            async with asyncio.timeout(self._cfg.request_timeout_s) as deadline:
                finish = await self._finish(prompt, progress)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise self._dropped("deadline", f"{self._cfg.request_timeout_s:g} s") from None
        return Rollout(
            policy=self._policy,
            role=self._role,
            prompt_ids=prompt.ids,
            images=prompt.images,
            token_ids=tuple(progress.token_ids),
            logprobs=tuple(progress.logprobs),
            segments=tuple(progress.segments),
            finish=finish,
            sampling=prompt.params,
            text=self._encoder.decode(progress.token_ids),
            server=progress.url,
            started_s=started_s,
            finished_s=time.time(),
        )

    async def _finish(self, prompt: Prompt, progress: _Progress) -> Finish:
        """Attempt after attempt until the rollout is whole; `progress` has what was sampled.

        What had arrived from a server that failed is kept. Beginning anew would favour short
        rollouts, as the longer one takes the likelier its server dies meanwhile.
        """
        most, failures = prompt.params.max_new_tokens, 0
        avoid: str | None = None
        while True:
            rest = most - len(progress.token_ids)
            async with self._pool.place(prompt.prefix, rest, avoid=avoid) as url:
                progress.url = url
                result = await self._client.generate(url, prompt, progress.token_ids)
            failure = result if isinstance(result, Failure) else None
            reply = result if isinstance(result, Reply) else result.partial
            if failure is not None:
                if failure.reason == "rejected":
                    raise self._dropped(failure.reason, failure.detail)
                if failure.is_gone:  # until a learner vouches for its weights again
                    self._pool.mark_unready(url, failure.detail.removeprefix(f"{url}: "))
                self._pool.report_failure(url)
                avoid = url
            if reply is not None:
                progress.extend(reply)
                self._pool.counts["tokens"] += len(reply.token_ids)
                finish = self._finished(reply, progress, most)
                if finish is not None:
                    return finish
                self._pool.counts["resumed"] += 1
                if failure is None and reply.token_ids:
                    continue
            if failure is None:
                failure = Failure("retries", f"{url} interrupted the request again and again")
            failures += 1
            if failures > self._cfg.retries:
                raise self._dropped(failure.reason, failure.detail)
            self._pool.counts["retries"] += 1
            pause = min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2 ** (failures - 1))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    def _finished(self, reply: Reply, progress: _Progress, most: int) -> Finish | None:
        """How the rollout ended; None where it was interrupted."""
        if reply.finish != "abort":
            return reply.finish
        if progress.token_ids and progress.token_ids[-1] in self._encoder.eos_ids:
            return "stop"
        return "length" if len(progress.token_ids) >= most else None

    def _dropped(self, reason: str, detail: str) -> GameDropped:
        self._pool.counts[f"dropped_{reason}"] += 1
        return GameDropped(reason, f"{self._role}: {detail}")
