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
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import aiohttp
from pydantic import Field

from engine.config import Section
from engine.encoding import TextEncoder
from engine.errors import EngineError, GameDropped
from engine.replies import Asked, ForeignWeights, ProtocolError, Reply, parse_reply
from engine.routing import ServerPool
from engine.tasks import concurrently
from engine.types import Finish, Message, Rollout, SamplingParams, Segment

__all__ = ["RoleSampler", "SamplerConfig", "ServerPool", "TextEncoder", "client_session"]

_ABORT_S = 2.0
"""Wall seconds for telling a server that a request is no longer wanted."""
_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 5.0
_REFUSED = (400, 413, 422)


class SamplerConfig(Section):
    """How patiently and how hard the servers are asked."""

    request_timeout_s: float = Field(600.0, gt=0)
    """Wall seconds for one rollout, with all waiting and all retries."""
    retries: int = Field(4, ge=0)
    """Failed attempts that are forgiven one rollout; an interruption that made progress is none."""
    max_concurrency: int = Field(256, ge=1)
    """Requests at one server at a time; further ones wait here."""


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


def client_session() -> aiohttp.ClientSession:
    """A session for samplers: they bound concurrency and time themselves."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """What the n requests of one call share."""

    ids: tuple[int, ...]
    images: tuple[bytes, ...]
    images_base64: tuple[str, ...]
    length: int | None
    """Of the expanded prompt; None where not known."""
    prefix: bytes
    """Requests with the same one are best served by the same server."""
    params: SamplingParams


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


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an attempt gave nothing, and how a game ends that has no attempts left."""

    reason: Literal["retries", "protocol"]
    detail: str
    is_gone: bool = False
    """The server is not there, or not with our weights."""


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
        self._session = session
        self._cfg = cfg
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
    ) -> _Prompt:
        ids = self._encoder.encode(messages)
        if self._encoder.num_images(ids) != len(images):
            raise ValueError(
                f"{self._role}: {self._encoder.num_images(ids)} image placeholders for "
                f"{len(images)} images"
            )
        # One such id ends an SGLang server, and with it everyone's requests.
        if not all(0 <= token < self._encoder.vocab_size for token in ids):
            raise ValueError(f"{self._role}: a prompt id is not in the model's vocabulary")
        shared = b"".join(images) or b",".join(b"%d" % token for token in ids)
        return _Prompt(
            ids=tuple(ids),
            images=images,
            images_base64=tuple(base64.b64encode(image).decode() for image in images),
            length=self._encoder.prompt_tokens(ids, images),
            prefix=hashlib.sha256(shared).digest(),
            params=params,
        )

    async def _rollout(self, prompt: _Prompt) -> Rollout:
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

    async def _finish(self, prompt: _Prompt, progress: _Progress) -> Finish:
        """Attempt after attempt until the rollout is whole; `progress` has what was sampled."""
        failures = 0
        avoid: str | None = None
        while True:
            rest = prompt.params.max_new_tokens - len(progress.token_ids)
            async with self._pool.place(prompt.prefix, rest, avoid=avoid) as url:
                progress.url = url
                result = await self._attempt(url, prompt, progress, rest)
            if isinstance(result, Reply):
                progress.extend(result)
                self._pool.counts["tokens"] += len(result.token_ids)
                finish = self._finished(result, progress, prompt.params.max_new_tokens)
                if finish is not None:
                    return finish
                self._pool.counts["resumed"] += 1
                if result.token_ids:
                    continue
                result = _Failure("retries", f"{url} interrupted the request again and again")
            else:
                if result.is_gone:
                    self._pool.mark_unready(url)  # until a learner vouches for its weights again
                self._pool.report_failure(url)
                avoid = url
            failures += 1
            if failures > self._cfg.retries:
                raise self._dropped(result.reason, result.detail)
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

    async def _attempt(
        self, url: str, prompt: _Prompt, progress: _Progress, rest: int
    ) -> Reply | _Failure:
        """One request. GameDropped where no server would take it; else an answer or a failure."""
        rid = uuid.uuid4().hex  # of one length: servers match the ids to abort by prefix
        body = self._body(rid, prompt, progress, rest)
        self._pool.counts["requests"] += 1
        try:
            async with self._session.post(f"{url}/generate", json=body) as response:
                status = response.status
                answer = await response.json(content_type=None)
        except asyncio.CancelledError:
            await self._abort(url, rid)
            raise
        except (aiohttp.ClientError, OSError) as error:
            is_gone = isinstance(error, aiohttp.ClientConnectorError)
            return _Failure("retries", f"{url}: {type(error).__name__}: {error}", is_gone=is_gone)
        except ValueError:
            answer = None
        if status != 200:
            return self._refusal(url, status, answer)
        asked = Asked(
            prompt_tokens=None
            if prompt.length is None
            else prompt.length + len(progress.token_ids),
            has_images=bool(prompt.images),
            max_new_tokens=rest,
            vocab_size=self._encoder.vocab_size,
        )
        try:
            return parse_reply(answer, asked)
        except ProtocolError as error:
            is_gone = isinstance(error, ForeignWeights)
            return _Failure("protocol", f"{url}: {error}", is_gone=is_gone)

    def _body(self, rid: str, prompt: _Prompt, progress: _Progress, rest: int) -> dict[str, Any]:
        params = prompt.params
        body: dict[str, Any] = {
            "rid": rid,
            "input_ids": [*prompt.ids, *progress.token_ids],
            # Every value is sent: else a model's own generation defaults apply.
            "sampling_params": {
                "max_new_tokens": rest,
                "temperature": params.temperature,
                "top_p": params.top_p,
                "top_k": params.top_k,
                "min_p": params.min_p,
                "frequency_penalty": 0.0,
                "presence_penalty": 0.0,
                "repetition_penalty": 1.0,
                "min_new_tokens": 0,
                "ignore_eos": False,
                "stop_token_ids": list(self._encoder.eos_ids),
                "skip_special_tokens": True,
                "n": 1,
            },
            "return_logprob": True,
            "logprob_start_len": -1,
            "stream": False,
        }
        if prompt.images:
            body["image_data"] = list(prompt.images_base64)
        return body

    def _refusal(self, url: str, status: int, answer: Any) -> _Failure:
        message = str(answer)[:300]
        if status in _REFUSED:
            raise self._dropped("rejected", f"{url}: {message}")
        if status < 500 and status not in (408, 429):
            raise EngineError(f"{self._role}: {url} answers {status}: {message}")
        return _Failure("retries", f"{url} answers {status}: {message}")

    async def _abort(self, url: str, rid: str) -> None:
        """Tell the server, as well as can be, that nobody waits for `rid` any more."""
        self._pool.counts["aborted"] += 1
        try:
            async with (
                asyncio.timeout(_ABORT_S),
                self._session.post(f"{url}/abort_request", json={"rid": rid}),
            ):
                pass
        except (aiohttp.ClientError, OSError, RuntimeError):
            pass  # dead, or the session is closing: then the request ends with its connection

    def _dropped(self, reason: str, detail: str) -> GameDropped:
        self._pool.counts[f"dropped_{reason}"] += 1
        return GameDropped(reason, f"{self._role}: {detail}")
