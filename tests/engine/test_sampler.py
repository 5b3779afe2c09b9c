"""The real sampler against servers in this process that speak SGLang's protocol."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from engine import sampler as sampler_module
from engine.errors import EngineError, GameDropped
from engine.nodes import free_ports
from engine.sampler import client_session
from engine.types import SamplingParams, Segment
from tests.engine.fake_servers import EOS, IMAGE, MESSAGES, PARAMS, Body, answer, stage


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "_BACKOFF_S", 0.0)


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
                it.pool.mark_ready(f"http://127.0.0.1:{free_ports(1)[0]}", 3)
                for _ in range(6):
                    assert (await it.one(retries=1)).server == busy
            assert it.pool.stats()["retries"] == 1

    asyncio.run(scene())


def test_retries_are_bounded() -> None:
    async def scene() -> None:
        async with stage(1) as it:
            for _ in range(3):
                it.servers[0].reply({"error": {"message": "out of memory"}}, status=500)
            with pytest.raises(GameDropped) as dropped:
                await it.one(retries=2)
            assert dropped.value.reason == "retries"
            assert it.pool.stats()["requests"] == 3
            assert it.pool.stats()["dropped_retries"] == 1

    asyncio.run(scene())


def test_a_server_that_is_gone_waits_until_somebody_vouches_for_its_weights() -> None:
    async def scene() -> None:
        async with stage(1) as it:
            dead = f"http://127.0.0.1:{free_ports(1)[0]}"
            it.pool.mark_unready(it.servers[0].url)
            it.pool.mark_ready(dead, 3)
            waiting = asyncio.create_task(it.one(retries=1))
            while dead in it.pool.ready:
                await asyncio.sleep(0)
            it.pool.mark_ready(it.servers[0].url, 4)
            assert (await waiting).server == it.servers[0].url

    asyncio.run(scene())


def test_a_server_with_foreign_weights_gets_no_more_requests() -> None:
    async def scene() -> None:
        async with stage(2) as it:
            spans = [("default", 0, 1)]
            it.servers[0].reply_with(lambda body: answer(body, [EOS], spans=spans))
            await it.sampler(retries=2).sample(MESSAGES, n=4, params=PARAMS)
            assert list(it.pool.ready) == [it.servers[1].url]

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
                await it.one(request_timeout_s=2.0)
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


def streamed(chunks: Sequence[Body], *, breaks_off: bool = False) -> web.Response:
    """A stream of events, torn at odd places; it ends in order, or with the server's death."""

    async def events() -> AsyncIterator[bytes]:
        for chunk in chunks:
            data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
            for i in range(0, len(data), 37):
                yield data[i : i + 37]
        if breaks_off:
            raise ConnectionResetError("killed")
        yield b"data: [DONE]\n\n"

    return web.Response(body=events(), content_type="text/event-stream")


def unfinished(body: Body, ids: list[int]) -> Body:
    chunk = answer(body, ids)
    chunk["meta_info"]["finish_reason"] = None
    del chunk["meta_info"]["weight_versions"]
    return chunk


def test_a_streamed_answer_is_its_last_event() -> None:
    async def scene() -> None:
        async with stage() as it:

            async def behave(body: Body) -> web.StreamResponse:
                chunks = [unfinished(body, [30]), unfinished(body, [30, 31])]
                return streamed([*chunks, answer(body, [30, 31, EOS])])

            it.servers[0].script.append(behave)
            rollout = await it.one(stream=True, stream_interval=5)
            assert rollout.token_ids == (30, 31, EOS)
            (body,) = it.servers[0].requests
            assert body["stream"] is True
            assert body["sampling_params"]["stream_interval"] == 5
            assert it.pool.stats()["tokens"] == 3
            assert it.pool.stats()["retries"] == 0

    asyncio.run(scene())


def test_tokens_that_came_before_a_server_died_are_kept() -> None:
    async def scene() -> None:
        async with stage(2) as it:
            asked: list[Body] = []

            async def die_then_go_on(body: Body) -> web.StreamResponse:
                asked.append(body)
                if len(asked) == 1:
                    chunks = [unfinished(body, [30]), unfinished(body, [30, 31, 32])]
                    return streamed(chunks, breaks_off=True)
                return streamed([answer(body, [33, EOS], spans=[(4, 0, 2)])])

            for server in it.servers:
                server.script.append(die_then_go_on)
            rollout = await it.one(stream=True)
            assert rollout.token_ids == (30, 31, 32, 33, EOS)
            assert rollout.segments == (Segment(0, 3), Segment(3, 4))
            assert rollout.logprobs == tuple(-token / 100 for token in rollout.token_ids)
            assert [len(server.requests) for server in it.servers] == [1, 1]
            first, second = asked
            assert second["input_ids"] == [*first["input_ids"], 30, 31, 32]
            assert second["sampling_params"]["max_new_tokens"] == PARAMS.max_new_tokens - 3
            assert it.pool.stats()["retries"] == 1

    asyncio.run(scene())


@pytest.mark.parametrize("spans", [[("default", 0, 2)], [(3, 0, 1)]])
def test_what_a_dead_server_left_is_checked_like_a_whole_answer(spans: list[Any]) -> None:
    async def scene() -> None:
        async with stage() as it:

            async def die(body: Body) -> web.StreamResponse:
                chunk = unfinished(body, [30, 31])
                chunk["meta_info"]["weight_versions"] = answer(body, [30, 31], spans=spans)[
                    "meta_info"
                ]["weight_versions"]
                return streamed([chunk], breaks_off=True)

            async def answers(body: Body) -> web.StreamResponse:
                return streamed([answer(body, [20, 21, EOS])])

            it.servers[0].script.extend([die, answers])
            assert (await it.one(stream=True)).token_ids == (20, 21, EOS)

    asyncio.run(scene())


def test_what_an_update_met_before_a_server_died_is_not_used() -> None:
    """Nobody can tell which of its tokens are by the new weights."""

    async def scene() -> None:
        async with stage() as it:

            async def die(body: Body) -> web.StreamResponse:
                chunks = [unfinished(body, [30]), unfinished(body, [30, 31])]
                chunks[1]["meta_info"]["weight_version"] = "4"
                return streamed(chunks, breaks_off=True)

            async def answers(body: Body) -> web.StreamResponse:
                return streamed([answer(body, [20, 21, EOS])])

            it.servers[0].script.extend([die, answers])
            assert (await it.one(stream=True)).token_ids == (20, 21, EOS)

    asyncio.run(scene())


def test_a_router_without_servers_is_waited_for() -> None:
    async def scene() -> None:
        async with stage() as it:
            error = {"code": "no_available_workers", "message": "all circuits open or unhealthy"}
            it.servers[0].reply({"error": error}, status=503)
            asked = asyncio.create_task(it.one(retries=1))
            while it.pool.ready:
                await asyncio.sleep(0.01)
            assert not asked.done()
            it.pool.mark_ready(it.servers[0].url, 3)
            assert (await asked).token_ids == (20, 21, EOS)

    asyncio.run(scene())


def test_a_stream_that_dies_after_its_last_token_lacks_nothing() -> None:
    async def scene() -> None:
        async with stage() as it:

            async def die(body: Body) -> web.StreamResponse:
                return streamed(
                    [unfinished(body, [30]), unfinished(body, [30, EOS])], breaks_off=True
                )

            it.servers[0].script.append(die)
            rollout = await it.one(stream=True)
            assert (rollout.token_ids, rollout.finish) == ((30, EOS), "stop")
            assert len(it.servers[0].requests) == 1

    asyncio.run(scene())


def test_a_server_that_swallows_everything_is_given_up() -> None:
    """It takes connections and answers nothing: neither the request nor whether it is there."""

    async def scene() -> None:
        async with stage(1) as it, swallowing() as hole:
            it.pool.mark_unready(it.servers[0].url)
            it.pool.mark_ready(hole, 3)
            task = asyncio.create_task(it.one(stall_s=0.2))
            while hole in it.pool.ready:
                await asyncio.sleep(0.01)
            it.pool.mark_ready(it.servers[0].url, 4)
            assert (await task).server == it.servers[0].url
            assert it.pool.stats()["servers"][hole]["running"] == 0

    asyncio.run(scene())


def test_a_busy_server_is_waited_for() -> None:
    """It is slow to answer the request, but it is there."""

    async def scene() -> None:
        async with stage(1) as it:
            server, asked = it.servers[0], asyncio.Event()

            async def behave(body: Body) -> web.StreamResponse:
                while server.times_asked < 5:
                    await asyncio.sleep(0.01)
                asked.set()
                return web.json_response(answer(body, [20, EOS]))

            server.script.append(behave)
            assert (await it.one(stall_s=1.0)).token_ids == (20, EOS)
            assert asked.is_set()
            assert it.pool.stats()["retries"] == 0

    asyncio.run(scene())


def test_a_server_gets_no_more_requests_than_it_says_that_it_runs() -> None:
    async def scene() -> None:
        async with stage(max_concurrency=64) as it:
            server = it.servers[0]
            server.max_running = 2

            async def slow(body: Body) -> web.StreamResponse:
                await asyncio.sleep(0.05)
                return web.json_response(answer(body, [20, EOS]))

            while server.most_running != 2:  # it is known soon after the first request
                server.most_running = 0
                server.script.extend([slow] * 12)
                await it.sampler().sample(MESSAGES, n=12, params=PARAMS)
                assert not server.script
            await it.sampler().sample(MESSAGES, n=12, params=PARAMS)
            assert server.most_running == 2

    asyncio.run(scene())


@asynccontextmanager
async def swallowing() -> AsyncIterator[str]:
    """The url of a port where connections are taken and nothing is ever said."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with server:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())


def test_connections_of_a_peak_are_left_alone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle ones end by themselves; one that is used in turn with others never would."""
    monkeypatch.setattr(sampler_module, "_KEEP_ALIVE_S", 300.0)

    async def scene() -> None:
        peers: list[Any] = []
        all_here, num = asyncio.Event(), 20

        async def ask(request: web.Request) -> web.Response:
            assert request.transport is not None
            peers.append(request.transport.get_extra_info("peername"))
            if len(peers) >= num:
                all_here.set()
            await all_here.wait()
            return web.Response()

        app = web.Application()
        app.router.add_get("/", ask)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"

        async def get(_: int = 0) -> None:
            async with session.get(url) as response:
                await response.read()

        async with client_session() as session:
            await asyncio.gather(*map(get, range(num)))
            assert len(set(peers)) == num
            for _ in range(2 * num):
                await get()
            assert len(set(peers[num:])) == 1
        await runner.cleanup()

    asyncio.run(scene())
