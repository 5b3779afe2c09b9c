"""SGLang's own router before embedded servers, and before a real SGLang: what it does to requests
and to servers, and that nothing is sampled from weights that no learner vouches for.

It is installed with SGLang (`make venv-sglang`), so these run with `make test-sglang`.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from engine.routing import ServerPool
from engine.server_link import ServerLink
from engine.servers.spec import ServerSpec
from engine.types import Message, Rollout, SamplingParams
from engine.weights import publish
from tests.contract.asking import sampler
from tests.contract.conftest import Hosted, sglang_python
from tests.contract.test_weight_updates import LONG, ONE, TEXT, TOLERANCE, TWO, worst_gap
from tests.engine.server_process import (
    KEY,
    body_of,
    free_port,
    generate,
    in_background,
    load_of,
    request,
    tiny_dir,
    tiny_module,
    until,
)

pytestmark = pytest.mark.sglang
MESSAGES: list[Message] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def route(request: pytest.FixtureRequest) -> Iterator[Callable[..., Hosted]]:
    """Starts a router before servers."""
    python = sglang_python(request.config)
    if python is None:
        pytest.skip("no SGLang asked for, or none installed: make test-sglang does both")
    started: list[Hosted] = []

    def start(*workers: str) -> Hosted:
        spec = ServerSpec(
            kind="router",
            model_dirs={},
            ports={"tiny": free_port()},
            workers=workers,
            max_running=16,
            python=python,
            api_key=KEY,
        )
        started.append(Hosted(spec))
        return started[-1]

    yield start
    for hosted in started:
        hosted.close()


@pytest.fixture(scope="module")
def unfilled() -> Iterator[Hosted]:
    """An embedded server as a run starts it behind a router."""
    hosted = Hosted(
        ServerSpec(
            kind="embedded",
            model_dirs={"tiny": tiny_dir(1)},
            ports={"tiny": free_port()},
            api_key=KEY,
            weight_version="unfilled",
            starts_paused=True,
        )
    )
    yield hosted
    hosted.close()


@pytest.fixture(scope="module")
def router(route: Callable[..., Hosted], guarded_embedded: Hosted, unfilled: Hosted) -> Hosted:
    """Before a server with version 0, and one that has to be filled."""
    return route(guarded_embedded.url, unfilled.url)


def takes_requests(router: Hosted) -> dict[str, bool]:
    """{server: whether it gets any}."""
    return {w["url"]: w["is_healthy"] for w in request(router.url, "/workers")[1]["workers"]}


def fill(server: Hosted, version: int) -> None:
    """As a learner does with a late server."""
    link = ServerLink(server.url, key=KEY)
    link.connect(timeout_s=300)
    weights = list(tiny_module(0).state_dict().items())
    report = publish(weights, [link], version=version, timeout_s=300)
    link.close()
    assert not report.failed, report


def sample(router: Hosted, *servers: Hosted, count: int, tokens: int) -> list[Rollout]:
    """Rollouts of as many prompts, by the project's sampler and its pool."""

    async def vouch(pool: ServerPool) -> None:
        """As the learner does, again and again."""
        while True:
            await asyncio.sleep(0.2)
            for server in servers:
                pool.mark_ready(server.url, 0)

    async def scene() -> list[Rollout]:
        params = SamplingParams(max_new_tokens=tokens)
        async with sampler(*(s.url for s in servers), router=router.url, retries=9) as it:
            prompts = [[{"role": "user", "content": str(i) * 9}] for i in range(count)]
            asked = (it.sample(prompt, n=1, params=params) for prompt in prompts)
            vouching = asyncio.create_task(vouch(it._pool))
            rollouts = [rollout for (rollout,) in await asyncio.gather(*asked)]
            vouching.cancel()
            return rollouts

    return asyncio.run(asyncio.wait_for(scene(), 120))


def versions(rollouts: list[Rollout]) -> set[int]:
    return {segment.version for rollout in rollouts for segment in rollout.segments}


def test_a_server_gets_its_first_request_when_it_is_filled(
    router: Hosted, guarded_embedded: Hosted, unfilled: Hosted
) -> None:
    until(lambda: takes_requests(router).get(unfilled.url) is False)
    before = sample(router, guarded_embedded, count=12, tokens=8)
    assert versions(before) == {0}
    fill(unfilled, 12)
    until(lambda: takes_requests(router)[unfilled.url])
    after = sample(router, guarded_embedded, unfilled, count=12, tokens=8)
    assert versions(after) == {0, 12}
    assert {rollout.server for rollout in after} == {router.url}


def test_what_comes_through_is_what_the_learner_computes(router: Hosted) -> None:
    for _ in range(2):  # by either server
        assert worst_gap(router.url, (TEXT, ONE, TWO), seed=0) < TOLERANCE
    rid = "0123456789abcdef"
    meta = generate(router.url, *ONE, rid=rid)["meta_info"]
    assert (meta["id"], meta["image_tokens"]) == (rid, 9)


def test_it_drops_what_it_does_not_know(router: Hosted) -> None:
    """So that no stream interval reaches a server, and no mistake is refused."""
    body = {**body_of(TEXT[0], temprature=0.5), "return_prompt_token_ids": True}
    status, answer = request(router.url, "/generate", body)
    assert status == 200
    assert "prompt_token_ids" not in answer


def test_refusals_and_keys_are_passed_on(router: Hosted) -> None:
    status, answer = request(router.url, "/generate", body_of([5] * 600))
    assert (status, "context length" in answer["error"]["message"]) == (400, True)
    for key in (None, "another"):
        assert request(router.url, "/generate", body_of(TEXT[0]), key=key)[0] == 401
        added = {"url": "http://127.0.0.1:9"}
        assert request(router.url, "/workers", added, key=key)[0] == 401


def test_a_rollout_that_nobody_waits_for_frees_its_place(
    router: Hosted, guarded_embedded: Hosted, unfilled: Hosted
) -> None:
    """It knows no /abort_request, but hangs up when its client does."""
    servers = (guarded_embedded, unfilled)

    def running() -> int:
        return sum(load_of(server.url)[0] for server in servers)

    async def scene() -> None:
        params = SamplingParams(max_new_tokens=400)
        async with sampler(*(s.url for s in servers), router=router.url) as it:
            tasks = [asyncio.create_task(it.sample(MESSAGES, n=1, params=params)) for _ in range(4)]
            while not await asyncio.to_thread(running):
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scene(), 60))
    until(lambda: running() == 0)


def test_a_death_costs_nobody_a_rollout_and_the_successor_waits_for_its_weights(
    router: Hosted, guarded_embedded: Hosted, unfilled: Hosted
) -> None:
    servers = (guarded_embedded, unfilled)
    asked = in_background(lambda: sample(router, *servers, count=12, tokens=300))
    until(lambda: load_of(unfilled.url)[0] > 0 or asked.done())
    os.kill(unfilled.events[-1].pid, signal.SIGKILL)
    until(lambda: unfilled.events[-1].kind == "ready" and len(unfilled.events) > 3, timeout_s=120)
    # Ready, and yet 503: it would answer by the weights that it was started with. What the router
    # has sent there meanwhile waits.
    assert request(unfilled.url, "/ready")[0] == 503
    fill(unfilled, 13)
    rollouts = asked.result(120)
    assert len(rollouts) == 12
    assert versions(rollouts) <= {0, 12, 13}
    until(lambda: 13 in versions(sample(router, *servers, count=12, tokens=4)))


def test_before_a_real_sglang_a_pause_holds_requests_and_then_turns_them_away(
    route: Callable[..., Hosted], sglang: Hosted
) -> None:
    router = route(sglang.url)
    until(lambda: takes_requests(router).get(sglang.url) is True)
    assert worst_gap(router.url, (TEXT, ONE), seed=0) < TOLERANCE
    request(sglang.url, "/pause_generation", {"mode": "retract"})
    waiting = in_background(lambda: generate(router.url, TEXT[0], max_new_tokens=4))
    until(lambda: not takes_requests(router)[sglang.url])
    status, answer = request(router.url, "/generate", body_of(TEXT[0]))
    assert (status, answer["error"]["code"]) == (503, "no_available_workers")
    assert not waiting.done()
    request(sglang.url, "/continue_generation", {})
    assert waiting.result(30)["output_ids"]
    until(lambda: takes_requests(router)[sglang.url])
    assert generate(router.url, TEXT[0], **{**LONG, "max_new_tokens": 8})["output_ids"]
