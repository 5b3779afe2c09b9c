"""What the sampler relies on when it has answers streamed (`sampler.stream`)."""

import asyncio
from collections.abc import Sequence

import pytest
import torch

from engine.types import Message, Rollout, SamplingParams
from tests.contract.asking import cut_off, learner, learner_logprobs, sampler
from tests.contract.test_weight_updates import TOLERANCE
from tests.engine.tiny_models import picture

TEXT: list[Message] = [{"role": "user", "content": "hello"}]
SEEN: list[Message] = [{"role": "user", "content": [{"type": "image"}, "what is it"]}]
GREEDY = SamplingParams(max_new_tokens=60, top_k=1)
"""The same tokens each time, with the log-probs of temperature 1."""


def ask(
    *urls: str, messages: Sequence[Message], images: Sequence[bytes] = (), **cfg: object
) -> tuple[Rollout, dict[str, int]]:
    """(a rollout, what the pool counted)."""

    async def scene() -> tuple[Rollout, dict[str, int]]:
        async with sampler(*urls, **cfg) as it:
            (rollout,) = await it.sample(messages, n=1, params=GREEDY, images=images)
            return rollout, dict(it._pool.counts)

    return asyncio.run(asyncio.wait_for(scene(), 120))


def differ(one: Rollout, other: Rollout) -> float:
    """Largest difference of two rollouts' log-probs, nats."""
    assert one.token_ids == other.token_ids
    return (torch.tensor(one.logprobs) - torch.tensor(other.logprobs)).abs().max().item()


@pytest.mark.parametrize(
    "messages, images", [(TEXT, ()), (SEEN, (picture(0),))], ids=["text", "picture"]
)
def test_a_streamed_rollout_is_the_one_that_comes_whole(
    url: str, messages: list[Message], images: Sequence[bytes]
) -> None:
    whole, _ = ask(url, messages=messages, images=images)
    for interval in (1, 7, 16):
        streamed, counts = ask(
            url, messages=messages, images=images, stream=True, stream_interval=interval
        )
        assert differ(streamed, whole) < TOLERANCE
        assert (streamed.finish, streamed.segments) == (whole.finish, whole.segments)
        assert counts["requests"] == 1
    expected = learner_logprobs(learner(0), (whole.prompt_ids, images), whole.token_ids)
    assert (torch.tensor(whole.logprobs) - expected).abs().max() < TOLERANCE


def test_what_had_arrived_when_a_server_died_is_gone_on_with(url: str) -> None:
    """Its stand-in dies; the rollout ends at another server, which is itself."""
    whole, _ = ask(url, messages=SEEN, images=(picture(0),))
    assert len(whole.token_ids) > 12

    async def scene() -> tuple[Rollout, dict[str, int]]:
        async with (
            cut_off(url, events=3) as dying,
            sampler(dying, url, stream=True, stream_interval=4) as it,
        ):
            (rollout,) = await it.sample(SEEN, n=1, params=GREEDY, images=(picture(0),))
            return rollout, dict(it._pool.counts)

    rollout, counts = asyncio.run(asyncio.wait_for(scene(), 120))
    assert (counts["requests"], counts["retries"], counts["resumed"]) == (2, 1, 1)
    assert counts["tokens"] == len(rollout.token_ids)
    assert rollout.server == url
    assert differ(rollout, whole) < TOLERANCE
