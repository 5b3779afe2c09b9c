"""/generate as an endpoint: what is sent, what is believed, and what an SGLang would choke on."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from engine.encoding import TextEncoder
from engine.errors import ConfigError, TransportError
from engine.types import SamplingParams
from evals.benchmark import Question
from evals.endpoint import Refused
from launch.evaluating.models import resolve
from launch.evaluating.rollout_endpoint import RolloutEndpoint
from launch.tiny_base import SHIPPED
from tests.evals.small_benchmark import png

T = TypeVar("T")
PARAMS = SamplingParams(max_new_tokens=30, temperature=0.5, top_p=0.9)
INFO = {"model_path": "/m", "weight_version": "7", "version": "x", "context_length": 4096}


def question(*images: bytes, text: str = "How many?") -> Question:
    parts = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    return Question(messages=[{"role": "user", "content": parts}], images=images)


def answer(**changes: Any) -> dict[str, Any]:
    meta = {
        "finish_reason": {"type": "stop"},
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "image_tokens": 4,
        "weight_version": "7",
    }
    return {"text": "3", "output_ids": [5, 6], "meta_info": meta | changes}


def at_server(
    use: Callable[[RolloutEndpoint], Awaitable[T]],
    *,
    reply: Any = None,
    info: dict[str, Any] | None = None,
    bodies: list[dict[str, Any]] | None = None,
    while_training: bool = False,
) -> T:
    """What `use` makes of an endpoint at a server that always replies so."""

    async def generate(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        if bodies is not None:
            bodies.append(body)
        return web.json_response(answer() if reply is None else reply)

    async def tell(request: web.Request) -> web.Response:
        told = dict(info or INFO)
        if request.path == "/server_info":  # as SGLang: what it was started with
            told["weight_version"] = "unfilled"
        return web.json_response(told)

    async def go() -> T:
        app = web.Application()
        app.router.add_post("/generate", generate)
        app.router.add_get("/model_info", tell)
        app.router.add_get("/server_info", tell)
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            url = str(server.make_url("/"))
            encoder = TextEncoder.load(SHIPPED)
            identity = resolve(str(SHIPPED), with_weights=True).identity()
            endpoint = RolloutEndpoint(
                session, [url], encoder, identity, while_training=while_training
            )
            return await use(endpoint)

    return asyncio.run(go())


def test_a_request_says_everything() -> None:
    bodies: list[dict[str, Any]] = []
    pictures = png(), png(kind="JPEG")
    at_server(lambda e: e.generate(question(*pictures), PARAMS, 11, stop=["\n"]), bodies=bodies)
    (body,) = bodies
    sampling = body["sampling_params"]
    assert sampling["sampling_seed"] == 11
    assert sampling["stop"] == ["\n"]
    assert (sampling["max_new_tokens"], sampling["temperature"], sampling["top_p"]) == (
        30,
        0.5,
        0.9,
    )
    assert (sampling["top_k"], sampling["min_p"], sampling["repetition_penalty"]) == (-1, 0, 1)
    assert len(body["image_data"]) == 2
    encoder = TextEncoder.load(SHIPPED)
    assert body["input_ids"] == encoder.encode(question(*pictures).messages)


def test_an_answer_is_read() -> None:
    response = at_server(lambda e: e.generate(question(png()), PARAMS, 0))
    assert (response.text, response.finish, response.tokens, response.weights) == (
        "3",
        "stop",
        2,
        "7",
    )
    assert response.max_new_tokens is None


def test_the_context_bounds_what_is_asked_for_and_that_is_recorded() -> None:
    bodies: list[dict[str, Any]] = []
    params = SamplingParams(max_new_tokens=5000)

    async def use(endpoint: RolloutEndpoint) -> int | None:
        await endpoint.look()
        return (await endpoint.generate(question(png(kind="JPEG")), params, 0)).max_new_tokens

    granted = at_server(use, bodies=bodies)
    assert granted is not None
    assert granted < 4096
    assert bodies[0]["sampling_params"]["max_new_tokens"] == granted


def test_a_prompt_that_fills_the_context_is_refused_here() -> None:
    async def use(endpoint: RolloutEndpoint) -> None:
        await endpoint.look()
        await endpoint.generate(question(text="why " * 5000), PARAMS, 0)

    with pytest.raises(Refused, match="tokens in a context of 4096"):
        at_server(use)


def test_places_and_pictures_are_counted_before_a_server_sees_them() -> None:
    bad = Question(messages=question(png()).messages, images=[png(), png()])
    with pytest.raises(Refused, match="1 image placeholders for 2 pictures"):
        at_server(lambda e: e.generate(bad, PARAMS, 0))


def test_pictures_that_a_server_drops_are_no_answer() -> None:
    with pytest.raises(Refused, match="dropped the pictures"):
        at_server(lambda e: e.generate(question(png()), PARAMS, 0), reply=answer(image_tokens=0))
    at_server(lambda e: e.generate(question(), PARAMS, 0), reply=answer(image_tokens=0))


@pytest.mark.parametrize(
    "reply",
    [[], {}, {"text": "3"}, answer(finish_reason={"type": "abort"}), answer() | {"text": 3}],
)
def test_what_is_no_answer_is_a_transport_error(reply: Any) -> None:
    with pytest.raises(TransportError):
        at_server(lambda e: e.generate(question(png()), PARAMS, 0), reply=reply)


def test_a_server_of_another_kind_is_named_with_what_to_do() -> None:
    async def go() -> None:
        async with TestServer(web.Application()) as server, aiohttp.ClientSession() as session:
            url = str(server.make_url("/"))
            endpoint = RolloutEndpoint(session, [url], TextEncoder.load(SHIPPED), {})
            await endpoint.look()

    with pytest.raises(ConfigError, match=r"answers 404.*--openai"):
        asyncio.run(go())


def test_weights_at_the_server_are_part_of_who_it_is() -> None:
    async def identity(endpoint: RolloutEndpoint) -> dict[str, str]:
        before = dict(endpoint.identity)
        await endpoint.look()
        assert dict(endpoint.identity) != before
        return dict(endpoint.identity)

    first = at_server(identity)
    assert at_server(identity) == first
    assert at_server(identity, info=INFO | {"weight_version": "8"}) != first


def test_weights_that_change_in_the_middle_end_it() -> None:
    async def use(endpoint: RolloutEndpoint) -> None:
        await endpoint.look()
        await endpoint.generate(question(png()), PARAMS, 0)

    with pytest.raises(ConfigError, match=r"weights '8', .* began with '7'"):
        at_server(use, reply=answer(weight_version="8"))


@pytest.mark.parametrize(
    "version, is_taken", [("7", True), ("9", True), ("6", False), ("x", False)]
)
def test_while_training_weights_may_be_newer_and_play_goes_first(
    version: str, is_taken: bool
) -> None:
    """A server that was started again has the base's weights under another name, or older ones."""
    bodies: list[dict[str, Any]] = []

    async def use(endpoint: RolloutEndpoint) -> dict[str, str]:
        before = dict(endpoint.identity)
        await endpoint.look()
        assert dict(endpoint.identity) == before, "or nothing that is kept would be found again"
        if is_taken:
            response = await endpoint.generate(question(png()), PARAMS, 0)
            assert response.weights == version
        else:
            with pytest.raises(TransportError, match="not yet those of the run"):
                await endpoint.generate(question(png()), PARAMS, 0)
        return before

    at_server(use, reply=answer(weight_version=version), bodies=bodies, while_training=True)
    assert bodies[0]["priority"] < 0


def test_while_training_a_server_must_be_of_a_run() -> None:
    async def use(endpoint: RolloutEndpoint) -> None:
        await endpoint.look()

    with pytest.raises(ConfigError, match=r"not of a run.*default"):
        at_server(use, info=INFO | {"weight_version": "default"}, while_training=True)


def test_what_a_server_has_loaded_is_part_of_who_it_is() -> None:
    """The folder that is at hand need not be the server's, and versions may have the same name."""

    async def identity(endpoint: RolloutEndpoint) -> dict[str, str]:
        await endpoint.look(by_path=True)
        return dict(endpoint.identity)

    first = at_server(identity)
    assert first["model_path"] == "/m"
    assert at_server(identity) == first
    assert at_server(identity, info=INFO | {"model_path": "/other"}) != first

    async def own(endpoint: RolloutEndpoint) -> dict[str, str]:
        await endpoint.look()
        return dict(endpoint.identity)

    # A server of our own has the folder's weights, which are hashed, wherever that lies.
    assert at_server(own) == at_server(own, info=INFO | {"model_path": "/other"})


def test_servers_that_have_loaded_different_models_are_named() -> None:
    async def go() -> None:
        async with contextlib.AsyncExitStack() as stack:
            urls = []
            for path in ("/m", "/other"):
                app = web.Application()
                for name in ("/server_info", "/model_info"):
                    app.router.add_get(name, telling(INFO | {"model_path": path}))
                server = await stack.enter_async_context(TestServer(app))
                urls.append(str(server.make_url("/")))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            endpoint = RolloutEndpoint(session, urls, TextEncoder.load(SHIPPED), {})
            await endpoint.look(by_path=True)

    with pytest.raises(ConfigError, match=r"different models.*/m.*/other"):
        asyncio.run(go())


def telling(info: dict[str, Any]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def tell(_: web.Request) -> web.StreamResponse:
        return web.json_response(info)

    return tell


def test_a_server_that_fails_at_once_is_not_asked_for_ever() -> None:
    """It has always the fewest requests."""
    asked: list[str] = []

    async def go() -> None:
        async def generate(request: web.Request) -> web.Response:
            asked.append("well")
            await asyncio.sleep(0.02)
            return web.json_response(answer())

        async def fail(request: web.Request) -> web.Response:
            asked.append("ill")
            return web.Response(status=500)

        apps = [web.Application(), web.Application()]
        apps[0].router.add_post("/generate", fail)
        apps[1].router.add_post("/generate", generate)
        async with (
            TestServer(apps[0]) as ill,
            TestServer(apps[1]) as well,
            aiohttp.ClientSession() as session,
        ):
            urls = [str(server.make_url("/")) for server in (ill, well)]
            endpoint = RolloutEndpoint(session, urls, TextEncoder.load(SHIPPED), {})
            with pytest.raises(TransportError, match="500"):
                await endpoint.generate(question(), PARAMS, 0)
            await asyncio.gather(*(endpoint.generate(question(), PARAMS, n) for n in range(8)))

    asyncio.run(go())
    assert asked == ["ill", *["well"] * 8]
