"""Rollout servers as an `evals.endpoint.Endpoint`: /generate, of SGLang and the embedded server.

The chat template is applied here, by the model folder's own files, so that a prompt is known to the
token; a question goes to the server with the fewest under way.
"""

import base64
import io
import json
import struct
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from PIL import Image

from engine.encoding import TextEncoder
from engine.errors import ConfigError, TransportError
from engine.routing import SUSPECT_S
from engine.types import Finish, SamplingParams
from evals.benchmark import Question
from evals.endpoint import Refused, Response, failure_of

LOW_PRIORITY = -1
"""That of play is 0. A difference of 1 lets others go first, and interrupts nobody in SGLang."""
_INFO_TIMEOUT_S = 10.0
_PNG = b"\x89PNG\r\n\x1a\n"
_FINISH: Mapping[Any, Finish] = {"stop": "stop", "length": "length"}


@dataclass(slots=True)
class _Server:
    url: str
    context: int | None = None
    """Tokens of prompt and answer; None: not known."""
    running: int = 0
    suspect_until_s: float = 0.0
    """Until then others are preferred: a request failed at it."""


class RolloutEndpoint:
    """One model at one or several servers."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        urls: Sequence[str],
        encoder: TextEncoder,
        identity: Mapping[str, str],
        *,
        key: str | None = None,
        timeout_s: float = 600.0,
        while_training: bool = False,
    ) -> None:
        """`key`: the servers' bearer token; `while_training`: they are those of a run, whose
        weights are renewed meanwhile, and whose own requests go first."""
        self._session = session
        self._encoder = encoder
        self._identity = dict(identity)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=10)
        self._servers = [_Server(url.rstrip("/")) for url in urls]
        self._while_training = while_training
        self._version: str | None = None
        """Of the weights that all answers must have, or of the oldest that they may have; None:
        any."""

    @property
    def identity(self) -> Mapping[str, str]:
        return self._identity

    async def look(self, *, by_path: bool = False) -> list[dict[str, Any]]:
        """What each server says of itself; afterwards their context lengths are known, and the
        version of their weights is part of the identity (not while training, where it goes on).
        `by_path`: so is what they have loaded, since the folder that is at hand need not be theirs.
        Raises ConfigError where one is no rollout server, or not there, or has other weights than
        the rest (while training: than a run's)."""
        found = [await self._look(server) for server in self._servers]
        versions = {str(one["weight_version"]) for one in found}
        if self._while_training:
            if not all(map(_is_of_run, versions)):
                raise ConfigError(f"--while-training: these are not of a run: {sorted(versions)}")
            self._version = min(versions, key=int)
            return found
        if len(versions) > 1:
            raise ConfigError(f"--server: these have different weights: {sorted(versions)}")
        (self._version,) = versions
        self._identity["served"] = self._version
        if by_path:
            self._identity["model_path"] = _path_of(found)
        return found

    async def generate(
        self, question: Question, params: SamplingParams, seed: int, *, stop: Sequence[str] = ()
    ) -> Response:
        ids = self._encoder.encode(question.messages)
        self._check(ids, question)
        length = self._encoder.prompt_tokens(ids, [_as_png(image) for image in question.images])
        began_s = time.perf_counter()
        # One that is dead answers at once, and would always be the least busy.
        server = min(self._servers, key=lambda s: (s.suspect_until_s > began_s, s.running))
        granted = _granted(params.max_new_tokens, length, server.context)
        body = self._body(ids, question.images, params, granted, seed, stop)
        server.running += 1
        try:
            status, text = await self._post(f"{server.url}/generate", body)
            if (failure := failure_of(status, text)) is not None:
                raise failure
        except TransportError:
            server.suspect_until_s = time.perf_counter() + SUSPECT_S
            raise
        finally:
            server.running -= 1
        response = _parsed(
            text,
            has_images=bool(question.images),
            seconds=time.perf_counter() - began_s,
            server=server.url,
            granted=None if granted == params.max_new_tokens else granted,
        )
        self._check_weights(server, response)
        return response

    def _check_weights(self, server: _Server, response: Response) -> None:
        """Raises TransportError where it is asked again later, ConfigError where that is vain."""
        found, wanted = response.weights, self._version
        if wanted is None or found == wanted:
            return
        if not self._while_training:
            raise ConfigError(
                f"{server.url} answers with weights {found!r}, and the evaluation began with "
                f"{wanted!r}: give it servers that nobody updates meanwhile"
            )
        if not _is_of_run(found) or int(found) < int(wanted):
            # It was started again, and nobody has filled it yet.
            raise TransportError(f"{server.url} has weights {found!r}, not yet those of the run")

    def _check(self, ids: Sequence[int], question: Question) -> None:
        """One wrong id, or one placeholder too many, can end an SGLang server. Raises Refused."""
        places = self._encoder.num_images(ids)
        if places != len(question.images):
            raise Refused(f"{places} image placeholders for {len(question.images)} pictures")
        if not all(0 <= token < self._encoder.vocab_size for token in ids):
            raise Refused("a prompt id is not in the model's vocabulary")

    def _body(
        self,
        ids: Sequence[int],
        images: Sequence[bytes],
        params: SamplingParams,
        max_new_tokens: int,
        seed: int,
        stop: Sequence[str],
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "rid": uuid.uuid4().hex,
            "input_ids": list(ids),
            # Every value is sent: else a model's own generation defaults apply.
            "sampling_params": {
                "max_new_tokens": max_new_tokens,
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
                "sampling_seed": seed,
                "n": 1,
                **({"stop": list(stop)} if stop else {}),
            },
            "stream": False,
        }
        if images:
            body["image_data"] = [base64.b64encode(image).decode() for image in images]
        if self._while_training:
            body["priority"] = LOW_PRIORITY
        return body

    async def _post(self, url: str, body: Mapping[str, Any]) -> tuple[int, str]:
        try:
            async with self._session.post(
                url, json=body, headers=self._headers, timeout=self._timeout
            ) as response:
                return response.status, (await response.read()).decode(errors="replace")
        except aiohttp.InvalidURL:
            raise ConfigError(f"--server: {url} is no URL of a server") from None
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise TransportError(f"{url}: {type(error).__name__}: {error}") from error

    async def _look(self, server: _Server) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=_INFO_TIMEOUT_S)
        found: dict[str, Any] = {}
        # In this order: SGLang's /server_info goes on telling the version that it was started with.
        for path in ("/server_info", "/model_info"):
            try:
                async with self._session.get(
                    f"{server.url}{path}", headers=self._headers, timeout=timeout
                ) as response:
                    if response.status != 200:
                        raise ConfigError(
                            f"--server: {server.url}{path} answers {response.status}; is it an "
                            "SGLang or embedded server? Others are named with --openai URL"
                        )
                    found |= await response.json(content_type=None)
            except (aiohttp.ClientError, OSError, ValueError, TypeError) as error:
                raise ConfigError(
                    f"--server: {server.url}{path}: {type(error).__name__}: {error}"
                ) from None
        context = found.get("context_length")
        server.context = context if type(context) is int else None
        names = ("model_path", "weight_version", "version", "dtype", "context_length")
        return {"url": server.url, **{name: found.get(name) for name in names}}


def _path_of(found: Sequence[Mapping[str, Any]]) -> str:
    """The one path from which all servers have loaded. Raises ConfigError."""
    paths = {one["url"]: str(one["model_path"]) for one in found}
    if len(set(paths.values())) > 1:
        raise ConfigError(f"--server: these have loaded different models: {paths}")
    return next(iter(paths.values()))


def _is_of_run(version: str) -> bool:
    """Whether a learner has named these weights (`engine.versions`)."""
    return version.isascii() and version.isdigit()


def _as_png(image: bytes) -> bytes:
    """A header with the size of `image`: all that the encoder reads, of PNG only."""
    if image.startswith(_PNG):
        return image
    with Image.open(io.BytesIO(image)) as picture:
        return _PNG + bytes(8) + struct.pack(">II", *picture.size)


def _granted(asked: int, prompt: int | None, context: int | None) -> int:
    """Tokens that the context leaves for an answer, at most `asked`. Raises Refused for none."""
    if prompt is None or context is None:
        return asked
    left = context - prompt - 1
    if left < 1:
        raise Refused(f"a prompt of {prompt} tokens in a context of {context}")
    return min(asked, left)


def _parsed(
    text: str, *, has_images: bool, seconds: float, server: str, granted: int | None
) -> Response:
    """The answer in the JSON of /generate. Raises TransportError for anything else."""
    try:
        answer = json.loads(text)
        meta = answer["meta_info"]
        said, reason = answer["text"], meta["finish_reason"]["type"]
        version, image_tokens = str(meta.get("weight_version", "")), meta.get("image_tokens")
        counts = meta["prompt_tokens"], meta["completion_tokens"]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise TransportError(
            f"{server}: no answer of a rollout server ({type(error).__name__}: {error})"
        ) from None
    if not isinstance(said, str) or reason not in _FINISH:  # "abort": interrupted from outside
        raise TransportError(f"{server}: finish_reason {reason!r}")
    if has_images and not image_tokens:
        raise Refused("the server dropped the pictures")
    return Response(
        text=said,
        finish=_FINISH[reason],
        prompt_tokens=counts[0],
        tokens=counts[1],
        seconds=seconds,
        server=server,
        weights=version,
        max_new_tokens=granted,
    )
