"""One request to one server: what is sent, and what comes of it, in whole or in part.

A streamed answer is cumulative, so of all its events the newest matters: at the end it is the
answer, and when the server dies before it is what is left of it. Which weights sampled which tokens
only the answer says; an event says which are served now. So what is left can be used where the
first event and the newest say the same.
"""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import orjson

from engine.errors import EngineError
from engine.liveness import Liveness, Silent
from engine.replies import Asked, ForeignWeights, ProtocolError, Reply, parse_reply
from engine.sse import payloads
from engine.types import SamplingParams

_ABORT_S = 2.0
"""Wall seconds for telling a server that a request is no longer wanted."""
_REFUSED = (400, 413, 422)
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the n requests of one call share."""

    ids: tuple[int, ...]
    images: tuple[bytes, ...]
    ids_json: bytes
    """`ids` as JSON: encoded once for all requests."""
    images_json: bytes
    """The images in base64, as JSON."""
    length: int | None
    """Of the expanded prompt; None where not known."""
    prefix: bytes
    """Requests with the same one are best served by the same server."""
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request gave no answer, and how a game ends that has no attempts left."""

    reason: Literal["retries", "protocol", "rejected"]
    """`rejected`: no server would take it."""
    detail: str
    is_gone: bool = False
    """The server is not there, or not with our weights."""
    partial: Reply | None = None
    """What had arrived before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Asks servers to generate."""

    session: aiohttp.ClientSession
    liveness: Liveness
    counts: Counter[str]
    eos_ids: Sequence[int]
    vocab_size: int
    stream_interval: int | None
    """Tokens between two events of a streamed answer; None: answers come whole."""

    async def generate(self, url: str, prompt: Prompt, done: Sequence[int]) -> Reply | Failure:
        """Go on from `prompt` and the tokens that are `done`. Raises EngineError where `url` is no
        rollout server."""
        rid = uuid.uuid4().hex  # of one length: servers match the ids to abort by prefix
        body = self._body(rid, prompt, done)
        asked = Asked(
            prompt_tokens=None if prompt.length is None else prompt.length + len(done),
            has_images=bool(prompt.images),
            max_new_tokens=prompt.params.max_new_tokens - len(done),
            vocab_size=self.vocab_size,
        )
        self.counts["requests"] += 1
        events: list[bytes] = []
        try:
            async with self.liveness.watched(url):
                status = await self._post(url, body, events)
        except asyncio.CancelledError:
            await self._abort(url, rid)
            raise
        except (Silent, aiohttp.ClientError, OSError) as error:
            detail = f"{url}: {type(error).__name__}: {error}"
            # A connection that ends without an answer is what a death looks like from afar.
            is_gone = isinstance(error, Silent | aiohttp.ClientConnectionError)
            return Failure("retries", detail, is_gone, _partial(events, asked))
        answer = _json(events[-1:])
        if status != 200:
            return _refusal(url, status, answer)
        try:
            if self.stream_interval is not None and _is_unfinished(answer):
                detail = f"{url}: the stream ended before the answer"
                return Failure("retries", detail, partial=_partial(events, asked))
            return parse_reply(answer, asked)
        except ProtocolError as error:
            return Failure("protocol", f"{url}: {error}", isinstance(error, ForeignWeights))

    async def _post(self, url: str, body: bytes, events: list[bytes]) -> int:
        """Send the request; the status. `events` always holds the first event and the newest, or
        the answer."""
        async with self.session.post(f"{url}/generate", data=body, headers=_JSON) as response:
            if self.stream_interval is None or response.status != 200:
                events[:] = [await response.read()]
            else:
                async for payload in payloads(response.content.iter_any()):
                    events[:] = [*events[:1], payload]
            return response.status

    def _body(self, rid: str, prompt: Prompt, done: Sequence[int]) -> bytes:
        """The JSON of a request. The long parts, ids and images, are those of `prompt`."""
        params = prompt.params
        body: dict[str, Any] = {
            "rid": rid,
            # Every value is sent: else a model's own generation defaults apply.
            "sampling_params": {
                "max_new_tokens": params.max_new_tokens - len(done),
                "temperature": params.temperature,
                "top_p": params.top_p,
                "top_k": params.top_k,
                "min_p": params.min_p,
                "frequency_penalty": 0.0,
                "presence_penalty": 0.0,
                "repetition_penalty": 1.0,
                "min_new_tokens": 0,
                "ignore_eos": False,
                "stop_token_ids": list(self.eos_ids),
                "skip_special_tokens": True,
                "n": 1,
            },
            "return_logprob": True,
            "logprob_start_len": -1,
            "stream": self.stream_interval is not None,
        }
        if self.stream_interval is not None:
            body["sampling_params"]["stream_interval"] = self.stream_interval
        ids = prompt.ids_json
        if done:
            ids = b"%s, %s" % (ids[:-1], orjson.dumps(list(done))[1:])
        parts = [orjson.dumps(body)[:-1], b', "input_ids": ', ids]
        if prompt.images:
            parts += [b', "image_data": ', prompt.images_json]
        return b"".join((*parts, b"}"))

    async def _abort(self, url: str, rid: str) -> None:
        """Tell the server, as well as can be, that nobody waits for `rid` any more."""
        self.counts["aborted"] += 1
        # Dead, or the session is closing: then the request ends with its connection.
        with suppress(aiohttp.ClientError, OSError, RuntimeError):
            async with asyncio.timeout(_ABORT_S):
                (await self.session.post(f"{url}/abort_request", json={"rid": rid})).release()


def _refusal(url: str, status: int, answer: Any) -> Failure:
    message = str(answer)[:300]
    if status in _REFUSED:
        return Failure("rejected", f"{url}: {message}")
    if status < 500 and status not in (408, 429):
        raise EngineError(f"{url} answers {status}: {message}")
    # A router whose servers are all gone or in an update: wait for them, not for a random while.
    has_none = status == 503 and "no_available_workers" in message
    return Failure("retries", f"{url} answers {status}: {message}", has_none)


def _json(data: Sequence[bytes]) -> Any:
    """The value of the only element; None where there is none, or it is no JSON."""
    if not data:
        return None
    try:
        return orjson.loads(data[0])
    except ValueError:
        pass
    try:  # it alone takes a text with half a surrogate pair
        return json.loads(data[0])
    except (ValueError, RecursionError):
        return None


def _is_unfinished(answer: Any) -> bool:
    """True of an event that others were to follow, and of none at all."""
    try:
        return answer is None or answer["meta_info"]["finish_reason"] is None
    except (KeyError, TypeError):
        return False


def _partial(events: Sequence[bytes], asked: Asked) -> Reply | None:
    """The tokens of an answer that was broken off, checked like those of a whole one."""
    first, event = _json(events[:1]), _json(events[-1:])
    if event is None or not _is_unfinished(event):
        return None
    meta = event["meta_info"]
    meta["finish_reason"] = {"type": "abort"}
    try:
        if "weight_versions" not in meta:
            version = meta["weight_version"]
            # The first event has to be of the first token, or older weights may be behind it.
            if first["meta_info"]["weight_version"] != version or len(first["output_ids"]) != 1:
                return None
            span = {"version": version, "start": 0, "end": len(event["output_ids"])}
            meta["weight_versions"] = [span]
        reply = parse_reply(event, asked)
    except (ProtocolError, KeyError, TypeError):
        return None
    return reply if reply.token_ids else None
