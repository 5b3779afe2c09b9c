"""OpenAI's chat completions: what is sent, what is believed, how failures are told apart."""

import asyncio
import base64
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from engine.errors import ConfigError, TransportError
from engine.types import SamplingParams
from evals.benchmark import Question
from evals.endpoint import Refused, Response
from evals.openai_endpoint import (
    OpenAIEndpoint,
    data_url,
    loaded_of,
    parse_completion,
    request_body,
)
from tests.evals.small_benchmark import png

T = TypeVar("T")
PARAMS = SamplingParams(max_new_tokens=7, temperature=0.5, top_p=0.9)
QUESTION = Question(
    messages=[
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "First "},
                {"type": "image"},
                {"type": "text", "text": " or "},
                {"type": "image"},
            ],
        },
    ],
    images=[png("red"), png("blue", kind="JPEG")],
)


def completion(**changes: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": "B"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 12, "completion_tokens": 3}
    return {"choices": [choice], "usage": usage} | changes


def chosen(content: Any, finish: Any = "stop", **rest: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **rest}
    return completion(choices=[{"message": message, "finish_reason": finish}])


def parsed(answer: Any) -> Response:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return parse_completion(text, seconds=0.5, server="u")


def ask_server(
    handle: Callable[[web.Request], Awaitable[web.StreamResponse]],
    use: Callable[[OpenAIEndpoint], Awaitable[T]],
    **settings: Any,
) -> T:
    """What `use` makes of an endpoint at a server with this handler."""

    async def go() -> T:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", handle)
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            url = str(server.make_url("/v1"))
            return await use(OpenAIEndpoint(session, [url], "tiny", **settings))

    return asyncio.run(go())


def test_a_request_has_pictures_where_they_belong_and_every_parameter() -> None:
    body = request_body("tiny", QUESTION, PARAMS, 11, ("\n",))
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "First "},
                {"type": "image_url", "image_url": {"url": data_url(png("red"))}},
                {"type": "text", "text": " or "},
                {"type": "image_url", "image_url": {"url": data_url(png("blue", kind="JPEG"))}},
            ],
        },
    ]
    del body["messages"]
    assert body == {
        "model": "tiny",
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 11,
        "n": 1,
        "stream": False,
        "stop": ["\n"],
    }


def test_a_picture_is_sent_as_the_kind_that_it_is() -> None:
    head, _, data = data_url(png(kind="JPEG")).partition(",")
    assert head == "data:image/jpeg;base64"
    assert base64.b64decode(data) == png(kind="JPEG")
    assert data_url(png()).startswith("data:image/png;base64,")


def test_an_answer_is_read() -> None:
    response = parsed(completion())
    assert (response.text, response.finish) == ("B", "stop")
    assert (response.prompt_tokens, response.tokens) == (12, 3)
    assert parsed(completion(usage=None)).tokens is None


@pytest.mark.parametrize(
    "message, text",
    [
        ({"content": "B", "reasoning_content": "hm"}, "<think>hm</think>\nB"),
        ({"content": "B", "reasoning": "hm"}, "<think>hm</think>\nB"),
        ({"content": None, "reasoning_content": "hm"}, "<think>hm"),
        ({"content": "", "reasoning_content": "hm"}, "<think>hm"),
        ({"content": "B", "reasoning_content": None}, "B"),
        ({"content": None}, ""),
    ],
)
def test_thoughts_that_a_server_took_out_are_put_back(message: dict[str, Any], text: str) -> None:
    assert parsed(chosen(**message)).text == text


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "<html>",
        "[]",
        "null",
        "[" * 100_000,
        "{}",
        '{"choices": []}',
        '{"choices": [{}]}',
        '{"choices": [{"message": []}]}',
        chosen(["B"]),
        chosen("B", "abort"),
        chosen("B", None),
    ],
)
def test_what_is_no_answer_of_the_model_is_a_transport_error(answer: Any) -> None:
    with pytest.raises(TransportError):
        parsed(answer)


def test_what_a_filter_stopped_is_refused() -> None:
    with pytest.raises(Refused, match="filter"):
        parsed(chosen("I", "content_filter"))


def test_length_is_told() -> None:
    assert parsed(chosen("B", "length")).finish == "length"


@pytest.mark.parametrize(
    "status, error",
    [
        (400, Refused),
        (413, Refused),
        (422, Refused),
        (401, ConfigError),
        (403, ConfigError),
        (404, ConfigError),
        (408, TransportError),
        (429, TransportError),
        (500, TransportError),
        (503, TransportError),
    ],
)
def test_a_status_says_whose_fault_it_is(status: int, error: type[Exception]) -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="because")

    with pytest.raises(error, match=f"{status}: because"):
        ask_server(handle, lambda endpoint: endpoint.generate(QUESTION, PARAMS, 0))


def test_a_connection_that_breaks_is_a_transport_error() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    with pytest.raises(TransportError):
        ask_server(handle, lambda endpoint: endpoint.generate(QUESTION, PARAMS, 0))


def test_an_answer_that_never_comes_is_a_transport_error() -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    with pytest.raises(TransportError, match="Timeout"):
        ask_server(handle, lambda endpoint: endpoint.generate(QUESTION, PARAMS, 0), timeout_s=0.05)


def test_the_key_is_sent_and_shown_nowhere() -> None:
    seen = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.json_response(completion())

    async def use(endpoint: OpenAIEndpoint) -> str:
        answer = await endpoint.generate(QUESTION, PARAMS, 0)
        return f"{endpoint.identity} {answer}"

    assert "secret" not in ask_server(handle, use, key="secret")
    assert seen == ["Bearer secret"]


def test_a_question_goes_to_the_server_with_the_fewest() -> None:
    async def go() -> list[int]:
        counts = [0, 0]
        gate = asyncio.Event()

        def handler(number: int) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
            async def handle(_: web.Request) -> web.StreamResponse:
                counts[number] += 1
                if sum(counts) == 6:
                    gate.set()
                await gate.wait()
                return web.json_response(completion())

            return handle

        apps = [web.Application(), web.Application()]
        for number, app in enumerate(apps):
            app.router.add_post("/v1/chat/completions", handler(number))
        async with (
            TestServer(apps[0]) as one,
            TestServer(apps[1]) as two,
            aiohttp.ClientSession() as session,
        ):
            urls = [str(server.make_url("/v1")) for server in (one, two)]
            endpoint = OpenAIEndpoint(session, urls, "tiny")
            async with asyncio.timeout(300):
                await asyncio.gather(*(endpoint.generate(QUESTION, PARAMS, i) for i in range(6)))
        return counts

    assert asyncio.run(go()) == [3, 3]


def models(*entries: Any) -> str:
    return json.dumps({"object": "list", "data": list(entries)})


@pytest.mark.parametrize(
    "text, loaded",
    [
        (models({"id": "tiny", "root": "/models/step-100"}), "/models/step-100"),
        (models({"id": "other", "root": "/o"}, {"id": "tiny", "root": "/t"}), "/t"),
        (models({"id": "/models/tiny.gguf"}), "/models/tiny.gguf"),  # which takes any name
        (models({"id": "tiny", "root": "tiny"}), None),
        (models({"id": "tiny"}), None),
        (models({"id": "one"}, {"id": "two"}), None),
        (models({"id": "tiny", "root": 5}), None),
        (models(), None),
        (models("tiny"), None),
        ('{"data": {"id": "tiny"}}', None),
        ("[]", None),
        ("null", None),
        ("<html>", None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_what_stands_behind_a_name_is_what_the_server_says(text: str, loaded: str | None) -> None:
    assert loaded_of(text, "tiny") == loaded


def looked_at(*replies: tuple[int, str]) -> dict[str, str]:
    """The identity after a look at servers that answer /models so."""

    async def go() -> dict[str, str]:
        async with contextlib.AsyncExitStack() as stack:
            urls = []
            for status, text in replies:
                app = web.Application()
                app.router.add_get("/v1/models", telling(status, text))
                server = await stack.enter_async_context(TestServer(app))
                urls.append(str(server.make_url("/v1")))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            endpoint = OpenAIEndpoint(session, urls, "tiny")
            await endpoint.look()
            return dict(endpoint.identity)

    return asyncio.run(go())


def telling(status: int, text: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text)

    return handle


def served(root: str) -> tuple[int, str]:
    return 200, models({"id": "tiny", "root": root})


def test_another_checkpoint_under_the_same_name_is_another_model() -> None:
    """Else it would get the answers that are kept of the first."""
    assert looked_at(served("/step-1")) == looked_at(served("/step-1"), served("/step-1"))
    assert looked_at(served("/step-1")) != looked_at(served("/step-2"))


@pytest.mark.parametrize("status", [401, 403, 404, 405, 501])
def test_a_server_that_tells_of_no_models_is_known_by_its_name(status: int) -> None:
    assert looked_at((status, "no")) == {"model": "tiny", "template": "the server's"}
    assert looked_at((status, "no"), served("/t"))["loaded"] == "/t"


def test_a_server_that_is_away_for_now_is_asked_again() -> None:
    """It must not get another name for it: what is kept would be asked again."""
    with pytest.raises(TransportError, match="503: starting"):
        looked_at((503, "starting"))


def test_servers_with_different_models_are_named() -> None:
    with pytest.raises(ConfigError, match=r"different models as 'tiny'.*/step-1.*/step-2"):
        looked_at(served("/step-1"), served("/step-2"))
