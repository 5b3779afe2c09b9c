"""The real sampler against servers in this process that speak SGLang's protocol."""

import asyncio
import contextlib
import socket
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import sampler as sampler_module
from engine.errors import EngineError, GameDropped
from engine.replies import Asked, ProtocolError, parse_reply
from engine.routing import ServerPool
from engine.sampler import RoleSampler, SamplerConfig, client_session
from engine.types import Rollout, SamplingParams, Segment

IMAGE, EOS, VOCAB = 999, 7, 1000
PARAMS = SamplingParams(max_new_tokens=8)
MESSAGES = [{"role": "user", "content": "hello"}]
WAIT_S = 10.0

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
    spans: list[tuple[int, int, int]] | None = None,
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

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeServer"]:
        app = web.Application()
        app.add_routes(
            [web.post("/generate", self.generate), web.post("/abort_request", self.abort)]
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


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "_BACKOFF_S", 0.0)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_rollout_is_what_was_sampled_and_every_parameter_is_sent() -> None:
    async def scene() -> None:
        async with stage() as it:
            messages = [{"role": "user", "content": [{"type": "image"}, "a", "b"]}]
            params = SamplingParams(max_new_tokens=5, temperature=0.7)
            rollouts = await it.sampler().sample(messages, n=2, params=params, images=[b"png"])
            for rollout in rollouts:
                assert rollout.prompt_ids == (IMAGE, 97, 98)
                assert rollout.images == (b"png",)
                assert rollout.token_ids == (20, 21, EOS)
                assert rollout.logprobs == (-0.2, -0.21, -0.07)
                assert rollout.segments == (Segment(0, 3),)
                assert (rollout.finish, rollout.text) == ("stop", "20 21")
                assert (rollout.role, rollout.policy) == ("solver", "policy")
                assert rollout.server == it.servers[0].url
                assert rollout.sampling == params
                assert rollout.started_s <= rollout.finished_s
            first, second = it.servers[0].requests
            assert first["rid"] != second["rid"]
            assert all(len(body["rid"]) == 32 for body in (first, second))
            assert first["input_ids"] == [IMAGE, 97, 98]
            assert first["image_data"] == ["cG5n"]
            assert (first["return_logprob"], first["logprob_start_len"]) == (True, -1)
            sent = first["sampling_params"]
            assert sent["max_new_tokens"] == 5
            assert (sent["temperature"], sent["top_p"]) == (0.7, 1.0)
            assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (-1, 0.0, 1.0)
            assert sent["stop_token_ids"] == [EOS]
            stats = it.pool.stats()
            assert (stats["requests"], stats["tokens"], stats["waiting"]) == (2, 6, 0)
            assert stats["servers"][it.servers[0].url] == {
                "version": 3, "running": 0, "outstanding": 0,
            }  # fmt: skip

    asyncio.run(scene())


def test_results_are_in_the_order_of_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(100, 200))
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=next(numbers)))

    async def scene() -> None:
        async with stage() as it:
            server = it.servers[0]
            gates = {number: asyncio.Event() for number in range(100, 104)}

            async def behave(body: Body) -> web.StreamResponse:
                number = int(body["rid"], 16)
                if number + 1 in gates:
                    await gates[number + 1].wait()
                gates[number].set()  # so that the last is answered first
                return web.json_response(answer(body, [number]))

            server.script.extend([behave] * 4)
            rollouts = await it.sampler().sample(MESSAGES, n=4, params=PARAMS)
            assert [rollout.token_ids for rollout in rollouts] == [(100,), (101,), (102,), (103,)]

    asyncio.run(scene())


def test_a_failing_server_is_left_for_another_one() -> None:
    async def scene() -> None:
        async with stage(2) as it:
            for server in it.servers:
                server.reply({"error": {"message": "out of memory"}}, status=500)
            rollout = await it.one(retries=2)
            assert rollout.token_ids == (20, 21, EOS)
            assert sorted(len(server.requests) for server in it.servers) == [1, 2]
            assert it.pool.stats()["retries"] == 2

    asyncio.run(scene())


def test_a_dead_server_is_no_black_hole() -> None:
    async def scene() -> None:
        async with stage(1) as it:
            async with it.pool.place(b"", 1000) as busy:
                it.pool.mark_ready(f"http://127.0.0.1:{free_port()}", 3)
                for _ in range(6):
                    assert (await it.one(retries=1)).server == busy
            assert it.pool.stats()["retries"] == 1

    asyncio.run(scene())


def test_retries_are_bounded() -> None:
    async def scene() -> None:
        async with stage(0) as it:
            it.pool.mark_ready(f"http://127.0.0.1:{free_port()}", 3)
            with pytest.raises(GameDropped) as dropped:
                await it.one(retries=2)
            assert dropped.value.reason == "retries"
            assert it.pool.stats()["requests"] == 3
            assert it.pool.stats()["dropped_retries"] == 1

    asyncio.run(scene())


def test_a_connection_that_breaks_off_is_retried() -> None:
    async def scene() -> None:
        async with stage() as it:

            async def behave(body: Body) -> web.StreamResponse:
                response = web.Response(text='{"output_ids": [', content_type="application/json")
                response.content_length = 1000
                response.force_close()
                return response

            it.servers[0].script.append(behave)
            assert (await it.one()).token_ids == (20, 21, EOS)
            assert it.pool.stats()["retries"] == 1

    asyncio.run(scene())


def test_an_interrupted_rollout_goes_on_under_the_new_weights() -> None:
    async def scene() -> None:
        async with stage() as it:
            server = it.servers[0]
            server.reply_with(lambda body: answer(body, [], finish="abort", spans=[]))
            server.reply_with(lambda body: answer(body, [30, 31, 32], finish="abort"))
            server.reply_with(
                lambda body: answer(body, [33, 34], finish="abort", spans=[(3, 0, 1), (4, 1, 2)])
            )
            server.reply_with(lambda body: answer(body, [35, EOS], spans=[(4, 0, 1), (5, 1, 2)]))
            rollout = await it.one()
            assert rollout.token_ids == (30, 31, 32, 33, 34, 35, EOS)
            assert rollout.logprobs == tuple(-token / 100 for token in rollout.token_ids)
            assert rollout.segments == (Segment(0, 3), Segment(4, 4), Segment(6, 5))
            assert rollout.versions == (3, 4, 5)
            assert rollout.finish == "stop"
            prompt = [ord(letter) for letter in "hello"]
            assert rollout.prompt_ids == tuple(prompt)
            bodies = server.requests
            assert bodies[2]["input_ids"] == [*prompt, 30, 31, 32]
            assert bodies[3]["input_ids"] == [*prompt, 30, 31, 32, 33, 34]
            budgets = [body["sampling_params"]["max_new_tokens"] for body in bodies]
            assert budgets == [8, 8, 5, 3]
            assert len({body["rid"] for body in bodies}) == 4
            assert it.pool.stats()["resumed"] == 3
            assert it.pool.stats()["tokens"] == 7

    asyncio.run(scene())


@pytest.mark.parametrize(
    "ids, finish", [([30, EOS], "stop"), ([30, 31, 32, 33, 34, 35, 36, 37], "length")]
)
def test_an_abort_after_the_last_token_is_no_interruption(ids: list[int], finish: str) -> None:
    async def scene() -> None:
        async with stage() as it:
            it.servers[0].reply_with(lambda body: answer(body, ids, finish="abort"))
            rollout = await it.one()
            assert (list(rollout.token_ids), rollout.finish) == (ids, finish)
            assert len(it.servers[0].requests) == 1

    asyncio.run(scene())


def test_interruptions_without_progress_are_bounded() -> None:
    async def scene() -> None:
        async with stage() as it:
            for _ in range(5):
                it.servers[0].reply_with(lambda body: answer(body, [], finish="abort", spans=[]))
            with pytest.raises(GameDropped) as dropped:
                await it.one(retries=2)
            assert dropped.value.reason == "retries"
            assert len(it.servers[0].requests) == 3

    asyncio.run(scene())


def test_the_deadline_ends_the_request_on_the_server_too() -> None:
    async def scene() -> None:
        async with stage() as it:
            it.servers[0].hang()
            with pytest.raises(GameDropped) as dropped:
                await it.one(request_timeout_s=0.2)
            assert dropped.value.reason == "deadline"
            assert it.servers[0].aborted == [it.servers[0].requests[0]["rid"]]
            assert it.pool.stats()["servers"][it.servers[0].url]["running"] == 0

    asyncio.run(scene())


def test_the_deadline_includes_the_wait_for_a_server() -> None:
    async def scene() -> None:
        async with stage() as it:
            it.pool.mark_unready(it.servers[0].url)
            with pytest.raises(GameDropped) as dropped:
                await it.one(request_timeout_s=0.1)
            assert dropped.value.reason == "deadline"
            assert it.servers[0].requests == []
            assert it.pool.stats()["waiting"] == 0
            waiting = asyncio.create_task(it.one())
            for _ in range(5):  # lets the task, and its own task, run up to the wait
                await asyncio.sleep(0)
            assert it.pool.stats()["waiting"] == 1
            it.pool.mark_ready(it.servers[0].url, 4)
            assert (await waiting).token_ids == (20, 21, EOS)

    asyncio.run(scene())


def test_cancellation_aborts_every_request() -> None:
    async def scene() -> None:
        async with stage() as it:
            server = it.servers[0]
            for _ in range(3):
                server.hang()
            task = asyncio.create_task(it.sampler().sample(MESSAGES, n=3, params=PARAMS))
            while len(server.requests) < 3:
                server.on_request.clear()
                await server.on_request.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert sorted(server.aborted) == sorted(body["rid"] for body in server.requests)
            assert it.pool.stats()["servers"][server.url]["running"] == 0

    asyncio.run(scene())


def test_one_dropped_rollout_aborts_its_siblings() -> None:
    async def scene() -> None:
        async with stage() as it:
            server = it.servers[0]
            server.hang()

            async def refuse(body: Body) -> web.StreamResponse:
                return web.json_response({"error": {"message": "too long"}}, status=400)

            server.script.append(refuse)
            with pytest.raises(GameDropped) as dropped:
                await it.sampler().sample(MESSAGES, n=2, params=PARAMS)
            assert dropped.value.reason == "rejected"
            assert "too long" in dropped.value.detail
            assert len(server.aborted) == 1

    asyncio.run(scene())


def test_an_address_that_is_no_server_ends_the_run() -> None:
    async def scene() -> None:
        async with stage() as it:
            it.servers[0].reply({"error": "no such path"}, status=404)
            with pytest.raises(EngineError, match="404") as error:
                await it.one()
            assert not isinstance(error.value, GameDropped)

    asyncio.run(scene())


def test_concurrency_at_a_server_is_bounded() -> None:
    async def scene() -> None:
        async with stage(max_concurrency=3) as it:
            rollouts = await it.sampler().sample(MESSAGES, n=20, params=PARAMS)
            assert len(rollouts) == 20
            assert it.servers[0].most_running <= 3

    asyncio.run(scene())


def test_requests_of_one_prompt_share_a_server() -> None:
    async def scene() -> None:
        async with stage(2) as it:
            sampler = it.sampler()
            picture = [{"role": "user", "content": [{"type": "image"}, "a"]}]
            other_question = [{"role": "user", "content": [{"type": "image"}, "b"]}]
            for messages in (picture, other_question):
                await sampler.sample(messages, n=6, params=PARAMS, images=[b"one"])
            assert sorted(len(server.requests) for server in it.servers) == [0, 12]

    asyncio.run(scene())


def test_untrainable_parameters_are_warned_of_once() -> None:
    async def scene() -> None:
        async with stage() as it:
            sampler = it.sampler()
            for top_p in (1.0, 0.9, 0.9):
                params = SamplingParams(max_new_tokens=8, top_p=top_p)
                await sampler.sample(MESSAGES, n=1, params=params)
            assert len(it.warnings) == 1
            assert "top_p=0.9" in it.warnings[0]

    asyncio.run(scene())


def test_images_and_placeholders_must_agree() -> None:
    async def scene() -> None:
        async with stage() as it:
            with pytest.raises(ValueError, match="0 image placeholders for 1 images"):
                await it.sampler().sample(MESSAGES, n=1, params=PARAMS, images=[b"png"])

    asyncio.run(scene())


def _changed(**changes: Any) -> Callable[[Body], Any]:
    def make(body: Body) -> Body:
        good = answer(body, [20, 21])
        meta = {k: v for k, v in changes.items() if k != "output_ids"}
        ids = {"output_ids": changes["output_ids"]} if "output_ids" in changes else {}
        return good | ids | {"meta_info": good["meta_info"] | meta}

    return make


GARBAGE: dict[str, Callable[[Body], Any]] = {
    "null": lambda body: None,
    "a list": lambda body: [answer(body, [20])],
    "an empty object": lambda body: {},
    "no meta": lambda body: {"output_ids": [20]},
    "no token": lambda body: answer(body, [], spans=[]),
    "too many tokens": lambda body: answer(body, list(range(20, 29))),
    "an unknown token": lambda body: answer(body, [VOCAB]),
    "a negative token": lambda body: answer(body, [-1]),
    "other ids": _changed(output_ids=[20, 22]),
    "no log-prob": _changed(output_token_logprobs=[[None, 20, None], [-1.0, 21, None]]),
    "too few log-probs": _changed(output_token_logprobs=[[-1.0, 20, None]]),
    "a foreign version": _changed(weight_versions=[{"version": "default", "start": 0, "end": 2}]),
    "no versions": _changed(weight_versions=[]),
    "a gap": _changed(weight_versions=[{"version": "3", "start": 1, "end": 2}]),
    "a short span": _changed(weight_versions=[{"version": "3", "start": 0, "end": 1}]),
    "a long span": _changed(weight_versions=[{"version": "3", "start": 0, "end": 3}]),
    "another prompt": _changed(prompt_tokens=6),
    "an unknown end": _changed(finish_reason={"type": "tired"}),
    "no end": _changed(finish_reason=None),
}


@pytest.mark.parametrize("make", GARBAGE.values(), ids=GARBAGE.keys())
def test_an_answer_that_contradicts_itself_is_retried_then_dropped(
    make: Callable[[Body], Any],
) -> None:
    async def scene() -> None:
        async with stage() as it:
            it.servers[0].reply_with(make)
            assert (await it.one(retries=1)).token_ids == (20, 21, EOS)
            for _ in range(2):
                it.servers[0].reply_with(make)
            with pytest.raises(GameDropped) as dropped:
                await it.one(retries=1)
            assert dropped.value.reason == "protocol"

    asyncio.run(scene())


def test_an_answer_that_is_no_json_is_a_protocol_error() -> None:
    async def scene() -> None:
        async with stage() as it:

            async def behave(body: Body) -> web.StreamResponse:
                return web.Response(body=b"\xff\xfe<html>")

            it.servers[0].script.append(behave)
            with pytest.raises(GameDropped) as dropped:
                await it.one(retries=0)
            assert dropped.value.reason == "protocol"

    asyncio.run(scene())


def test_images_that_were_lost_are_a_protocol_error() -> None:
    async def scene() -> None:
        async with stage() as it:
            messages = [{"role": "user", "content": [{"type": "image"}]}]
            it.servers[0].reply_with(lambda body: answer(body, [20], image_tokens=None))
            with pytest.raises(GameDropped) as dropped:
                await it.sampler(retries=0).sample(messages, n=1, params=PARAMS, images=[b"png"])
            assert dropped.value.reason == "protocol"
            assert "images" in dropped.value.detail

    asyncio.run(scene())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
META = (
    "finish_reason", "prompt_tokens", "weight_versions", "output_token_logprobs", "image_tokens",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(META), json_values, json_values)
def test_no_answer_raises_anything_else(key: str, value: Any, ids: Any) -> None:
    asked = Asked(prompt_tokens=None, has_images=False, max_new_tokens=8, vocab_size=VOCAB)
    good = answer({"rid": "", "input_ids": [1]}, [20, 21])
    span = {"version": "1", "start": value, "end": ids}
    for bad in (
        value,
        good | {"output_ids": ids},
        good | {"meta_info": value},
        good | {"meta_info": good["meta_info"] | {key: value}},
        good | {"meta_info": good["meta_info"] | {key: [value]}},
        good | {"meta_info": good["meta_info"] | {"weight_versions": [span]}},
    ):
        with contextlib.suppress(ProtocolError):
            reply = parse_reply(bad, asked)
            assert len(reply.token_ids) == len(reply.logprobs)
