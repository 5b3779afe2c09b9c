"""Any server that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, a provider.

The server applies the model's chat template; pictures go along as data URLs.
"""

import base64
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import aiohttp

from engine.errors import ConfigError, TransportError
from engine.types import Finish, Message, SamplingParams
from evals.benchmark import Question
from evals.endpoint import Refused, Response, failure_of

_LOOK = aiohttp.ClientTimeout(total=30)
_FINISH: Mapping[Any, Finish] = {"stop": "stop", "eos": "stop", "length": "length"}
_MIME = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp", b"GIF8": "gif"}


class OpenAIEndpoint:
    """One model at one or several servers; a question goes to the one with the fewest."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        urls: Sequence[str],
        model: str,
        *,
        key: str | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        """`urls`: up to and including /v1; `key`: the bearer token, never written anywhere."""
        self._session = session
        self._model = model
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=10)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._running = {url.rstrip("/"): 0 for url in urls}
        self._identity = {"model": model, "template": "the server's"}

    @property
    def identity(self) -> Mapping[str, str]:
        return self._identity

    async def look(self) -> None:
        """Ask the servers what they have loaded under the model's name. Where they say so it is
        part of the identity: a name may stand for another checkpoint tomorrow.

        Raises ConfigError where they have different models, TransportError where one is away.
        """
        told = {url: loaded_of(await self._models(url), self._model) for url in self._running}
        found = sorted({one for one in told.values() if one is not None})
        if len(found) > 1:
            raise ConfigError(f"these servers have different models as {self._model!r}: {told}")
        if found:
            self._identity["loaded"] = found[0]

    async def _models(self, url: str) -> str:
        """The answer to /models; empty from servers that have none for us."""
        status, text = await self._request("GET", f"{url}/models", timeout=_LOOK)
        if isinstance(failure := failure_of(status, text), TransportError) and status != 501:
            raise failure
        return "" if failure else text

    async def generate(
        self, question: Question, params: SamplingParams, seed: int, *, stop: Sequence[str] = ()
    ) -> Response:
        body = request_body(self._model, question, params, seed, stop)
        url = min(self._running, key=self._running.__getitem__)
        began_s = time.perf_counter()
        self._running[url] += 1
        try:
            status, text = await self._request("POST", f"{url}/chat/completions", body)
        finally:
            self._running[url] -= 1
        if (failure := failure_of(status, text)) is not None:
            raise failure
        return parse_completion(text, seconds=time.perf_counter() - began_s, server=url)

    async def _request(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> tuple[int, str]:
        try:
            async with self._session.request(
                method, url, json=body, headers=self._headers, timeout=timeout or self._timeout
            ) as response:
                data = await response.read()
                return response.status, data.decode(errors="replace")
        except aiohttp.InvalidURL:
            raise ConfigError(f"{url} is no URL of a server") from None
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise TransportError(f"{url}: {type(error).__name__}: {error}") from error


def request_body(
    model: str, question: Question, params: SamplingParams, seed: int, stop: Sequence[str]
) -> dict[str, Any]:
    """The JSON of one request. Values that are OpenAI's own are always sent; those that only some
    servers know (top_k, min_p) only where they do something."""
    images = iter(question.images)
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message, images) for message in question.messages],
        "max_tokens": params.max_new_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": seed,
        "n": 1,
        "stream": False,
    }
    if params.top_k != -1:
        body["top_k"] = params.top_k
    if params.min_p:
        body["min_p"] = params.min_p
    if stop:
        body["stop"] = list(stop)
    return body


def _message(message: Message, images: Iterator[bytes]) -> dict[str, Any]:
    """A turn in OpenAI's form; "image" parts take the pictures in order."""
    content = message["content"]
    if isinstance(content, str):
        return {"role": message["role"], "content": content}
    if all(part["type"] == "text" for part in content):
        return {"role": message["role"], "content": "".join(part["text"] for part in content)}
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(next(images))}}
        if part["type"] == "image"
        else {"type": "text", "text": part["text"]}
        for part in content
    ]
    return {"role": message["role"], "content": parts}


def data_url(image: bytes) -> str:
    """`image` as a data URL, its type by its first bytes."""
    kind = next((kind for magic, kind in _MIME.items() if image.startswith(magic)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def parse_completion(text: str, *, seconds: float, server: str) -> Response:
    """The answer in the JSON of a completion. Raises TransportError for anything else."""
    try:
        answer = json.loads(text)
        choice = answer["choices"][0]
        content = choice["message"]["content"]
        usage = answer.get("usage") or {}
        reason = choice.get("finish_reason")
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise TransportError(
            f"{server}: not a completion ({type(error).__name__}: {error}): {text[:200]!r}"
        ) from None
    if content is None:
        content = ""  # a reasoning server that was cut off before the answer
    if not isinstance(content, str):
        raise TransportError(f"{server}: the content of a completion is {type(content).__name__}")
    if reason == "content_filter":
        raise Refused(f"{server}: its filter stopped the answer")
    if reason not in _FINISH:  # "abort", "error": no answer of the model
        raise TransportError(f"{server}: finish_reason {reason!r}")
    return Response(
        text=_thoughts(choice["message"]) + content,
        finish=_FINISH[reason],
        prompt_tokens=_count(usage, "prompt_tokens"),
        tokens=_count(usage, "completion_tokens"),
        seconds=seconds,
        server=server,
    )


def loaded_of(text: str, model: str) -> str | None:
    """What the JSON of /models says is behind `model`: the `root` of its entry, else its id. Where
    there is one entry only, of whatever name, that is it. None where it says nothing more than the
    name itself."""
    try:
        entries = json.loads(text)["data"]
        named = [entry for entry in entries if entry.get("id") == model]
        (entry,) = named[:1] or entries
        loaded = entry.get("root") or entry.get("id")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return loaded if isinstance(loaded, str) and loaded != model else None


def _thoughts(message: Mapping[str, Any]) -> str:
    """What a server's reasoning parser took out of the text, put back where it was."""
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    if not isinstance(thoughts, str) or not thoughts:
        return ""
    closing = "</think>\n" if message.get("content") else ""
    return f"<think>{thoughts}{closing}"


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if type(value) is int else None
