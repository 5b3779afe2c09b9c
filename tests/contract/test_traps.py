"""Where SGLang's protocol does not do what one would think: one test for each such place, and
what of ours keeps clear of it."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from engine.errors import WeightSyncError
from engine.replies import Asked, ProtocolError, parse_reply
from engine.server_calls import probe_logprobs
from engine.server_link import ServerLink
from engine.types import Message, SamplingParams
from engine.weights import publish
from tests.contract.asking import Stream, learner, learner_logprobs, sampler
from tests.contract.test_weight_updates import LONG, ONE, TEXT, TOLERANCE, put
from tests.engine.server_process import (
    KEY,
    body_of,
    generate,
    in_background,
    load_of,
    output_logprobs,
    request,
    until,
)
from tests.engine.tiny_models import VISION_END, VISION_START, picture

MESSAGES: list[Message] = [{"role": "user", "content": "hello"}]
NO_IMAGES = Asked(prompt_tokens=None, has_images=False, max_new_tokens=99, vocab_size=512)
WITH_IMAGES = Asked(prompt_tokens=None, has_images=True, max_new_tokens=99, vocab_size=512)


def post(url: str, path: str, body: Any) -> tuple[int, Any]:
    return request(url, path, body)


# -- requests --------------------------------------------------------------------------------------


def test_aborts_match_by_prefix_so_our_ids_have_one_length(url: str) -> None:
    """Cancelling one of our requests ends that one and no other."""

    async def scene() -> None:
        params = SamplingParams(max_new_tokens=600)
        async with sampler(url) as it:
            tasks = [
                asyncio.create_task(it.sample(MESSAGES, n=1, params=params)) for _ in range(12)
            ]
            while (await asyncio.to_thread(load_of, url))[0] < 2:  # SGLang tells it now and then
                await asyncio.sleep(0.02)
            victim = next(task for task in tasks if not task.done())
            victim.cancel()
            rollouts = await asyncio.gather(*tasks, return_exceptions=True)
        assert victim.cancelled()
        assert it._pool.counts["aborted"] == 1
        for task, rollout in zip(tasks, rollouts, strict=True):
            if task is not victim:
                assert not isinstance(rollout, BaseException), rollout
                assert rollout[0].finish in ("stop", "length")

    asyncio.run(asyncio.wait_for(scene(), 120))


def test_an_aborted_stream_ends_with_what_there_is(url: str) -> None:
    rid = uuid.uuid4().hex
    stream = Stream(url, TEXT[0], rid=rid, **LONG)
    until(lambda: stream.num_tokens >= 5)
    post(url, "/abort_request", {"rid": rid})
    answer = stream.result()
    assert stream.is_done
    assert answer["meta_info"]["finish_reason"]["type"] == "abort"
    reply = parse_reply(answer, replace(NO_IMAGES, max_new_tokens=1000))
    assert 5 <= len(reply.token_ids) < 1000
    expected = learner_logprobs(learner(0), TEXT, reply.token_ids)
    assert (torch.tensor(reply.logprobs) - expected).abs().max() < TOLERANCE


class _Astray:
    """An encoder with one id too many."""

    vocab_size = 512
    eos_ids = (506,)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return [5, 512]

    def decode(self, ids: Sequence[int]) -> str:
        return ""

    def num_images(self, ids: Sequence[int]) -> int:
        return 0

    def prompt_tokens(self, ids: Sequence[int], images: Sequence[bytes]) -> int | None:
        return None


def test_an_id_beyond_the_vocabulary_is_never_sent(url: str) -> None:
    """It would end an SGLang process, and with it everyone's requests."""

    async def scene() -> None:
        async with sampler(url, encoder=_Astray()) as it:
            with pytest.raises(ValueError, match="not in the model's vocabulary"):
                await it.sample(MESSAGES, n=1, params=SamplingParams(max_new_tokens=1))
            assert it._pool.counts["requests"] == 0

    asyncio.run(scene())
    assert generate(url, TEXT[0])["output_ids"]


def test_images_that_were_ignored_are_found_out(url: str) -> None:
    answer = generate(url, TEXT[0], [picture(0)])  # no placeholder
    with pytest.raises(ProtocolError, match="images were not used"):
        parse_reply(answer, WITH_IMAGES)
    parse_reply(generate(url, *ONE), WITH_IMAGES)


def test_a_misspelled_field_is_ignored_and_found_out(url: str) -> None:
    body = body_of(TEXT[0])
    body["return_logprobs"] = body.pop("return_logprob")
    status, answer = post(url, "/generate", body)
    assert status == 200
    with pytest.raises(ProtocolError, match="output_token_logprobs"):
        parse_reply(answer, NO_IMAGES)


def test_own_ids_are_lost_with_n_so_ours_is_always_one(url: str) -> None:
    body = body_of(TEXT[0], rid="mine", n=2)
    assert all(answer["meta_info"]["id"] != "mine" for answer in post(url, "/generate", body)[1])

    async def scene() -> None:
        async with sampler(url) as it:
            rollouts = await it.sample(MESSAGES, n=3, params=SamplingParams(max_new_tokens=4))
            assert len(rollouts) == it._pool.counts["requests"] == 3

    asyncio.run(scene())


def test_ids_around_an_image_stay_as_they_are(url: str) -> None:
    """Bytes that are no UTF-8, ids that no text has: decoded and tokenised again, they would
    change."""
    odd = (200, 129, 255, 300, *ONE[0][:2])
    body = {**body_of((*odd, *ONE[0], 301, 250), ONE[1]), "return_prompt_token_ids": True}
    status, answer = post(url, "/generate", body)
    assert status == 200
    sent = answer["prompt_token_ids"]
    assert sent[: len(odd)] == list(odd)
    assert sent[-2:] == [301, 250]
    assert len(sent) == answer["meta_info"]["prompt_tokens"]
    assert answer["meta_info"]["image_tokens"] == 9
    assert sent.count(VISION_START) == sent.count(VISION_END) == 1


# -- log-probs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [{}, {"top_p": 0.5}, {"top_k": 5}, {"min_p": 0.3}])
def test_logprobs_are_after_temperature_and_before_truncation(
    url: str, limit: dict[str, float]
) -> None:
    answer = generate(url, TEXT[0], temperature=0.7, max_new_tokens=24, ignore_eos=True, **limit)
    expected = learner_logprobs(learner(0), TEXT, answer["output_ids"], 0.7)
    assert (output_logprobs(answer) - expected).abs().max() < TOLERANCE


def test_at_temperature_zero_logprobs_are_those_of_one(url: str) -> None:
    answer = generate(url, TEXT[0], temperature=0.0, max_new_tokens=24, ignore_eos=True)
    expected = learner_logprobs(learner(0), TEXT, answer["output_ids"])
    assert (output_logprobs(answer) - expected).abs().max() < TOLERANCE


def test_prompts_are_scored_at_temperature_one_whatever_is_asked(url: str) -> None:
    body = {**body_of(TEXT[0], temperature=0.5, max_new_tokens=0), "logprob_start_len": 0}
    items = post(url, "/generate", body)[1]["meta_info"]["input_token_logprobs"]
    expected = learner_logprobs(learner(0), (TEXT[0][:1], ()), TEXT[0][1:])
    got = torch.tensor([item[0] for item in items[1:]])
    assert (got - expected).abs().max() < TOLERANCE


# -- weights ---------------------------------------------------------------------------------------


def test_no_picture_is_remembered_with_an_older_tower(link: ServerLink) -> None:
    """SGLang's cache of image embeddings outlives updates and flushes; our host turns it off."""
    generate(link.url, *ONE)
    mixed = {
        name: new if ".visual." in name else old
        for (name, old), (_, new) in zip(
            learner(0).named_weights(), learner(1).named_weights(), strict=True
        )
    }
    report = publish(list(mixed.items()), [link], version=12, timeout_s=300)
    assert not report.failed
    answer = generate(link.url, *ONE, max_new_tokens=24, ignore_eos=True)
    stale = learner_logprobs(learner(0), ONE, answer["output_ids"])
    assert (output_logprobs(answer) - stale).abs().max() > 0.01
    again = learner(0).model
    before = {name: tensor.clone() for name, tensor in again.state_dict().items()}
    try:
        _load_published(again, mixed)
        fresh = learner_logprobs(learner(0), ONE, answer["output_ids"])
    finally:
        again.load_state_dict(before)
    assert (output_logprobs(answer) - fresh).abs().max() < TOLERANCE


def _load_published(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Put published tensors back into a learner's model."""
    with torch.no_grad():
        for name, parameter in model.named_weights():
            parameter.copy_(weights[model.published_name(name)])


@pytest.mark.parametrize("layer", ["language_model.layers.1.", "visual.blocks.1."])
def test_names_that_a_server_does_not_know_are_skipped_and_the_probe_finds_out(
    link: ServerLink, layer: str
) -> None:
    strange = [
        (name.replace(layer, f"{layer}x."), tensor) for name, tensor in learner(1).named_weights()
    ]
    assert sum(".x." in name for name, _ in strange) > 5
    assert not publish(strange, [link], version=12, timeout_s=300).failed  # nobody complains
    theirs = torch.tensor(probe_logprobs(link.url, learner(0).probe, timeout_s=300, key=KEY))
    assert (theirs - torch.tensor(learner(1).score())).abs().max() > 0.1


def test_health_answers_in_every_pause(url: str) -> None:
    """By itself SGLang's /health generates a token, and fails when paused; our host turns that
    off."""
    for mode in ("retract", "in_place"):
        assert post(url, "/pause_generation", {"mode": mode})[0] == 200
        began = time.monotonic()
        assert request(url, "/health")[0] == 200
        assert request(url, "/ready")[0] == 503  # alive, but nothing should be sent
        assert time.monotonic() - began < 15.0  # a generating one gives up after 20
        assert post(url, "/continue_generation", {})[0] == 200
        assert request(url, "/ready")[0] == 200


def test_a_refused_flush_has_let_the_weights_in(link: ServerLink) -> None:
    """So an update that keeps the cache has to say so."""
    running = in_background(lambda: generate(link.url, TEXT[0], **LONG))
    until(lambda: load_of(link.url)[0] == 1)
    post(link.url, "/pause_generation", {"mode": "in_place"})
    assert post(link.url, "/flush_cache", {})[0] == 400
    post(link.url, "/continue_generation", {})
    running.result(60)
    put(link, 1, 12, pause_mode="in_place")  # sends flush_cache false


def test_a_refused_update_does_not_join_the_broadcast(link: ServerLink) -> None:
    """So the learner must hear the refusal, not wait for the server in the group."""
    body = {
        "names": ["lm_head.weight"],
        "dtypes": ["float32"],
        "shapes": [[512, 128]],
        "group_name": link.group_name,
        "load_format": "flattened_bucket",
    }
    began = time.monotonic()
    with pytest.raises(WeightSyncError, match="400"):
        link.post("/update_weights_from_distributed", body, 30)  # there is no session
    assert time.monotonic() - began < 25
    put(link, 1, 12)  # the group is as it was


def test_a_trainer_that_dies_before_it_joins_leaves_a_usable_server(url: str) -> None:
    """A server waits in the rendezvous with all its requests; it ends with the trainer's store."""
    stores = [dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)]
    body = {
        "master_address": "127.0.0.1",
        "master_port": stores[0].port,
        "rank_offset": 1,
        "world_size": 2,
        "group_name": f"never-{uuid.uuid4().hex}",
        "backend": "gloo",
    }
    before = stores[0].num_keys()
    joining = in_background(lambda: post(url, "/init_weights_update_group", body))
    until(lambda: stores[0].num_keys() > before or joining.done())
    assert not joining.done()
    stores.clear()
    status, answer = joining.result(60)
    assert status == 400 or answer["success"] is False
    assert generate(url, TEXT[0])["output_ids"]


def test_a_server_that_does_not_join_costs_a_learner_its_time_out() -> None:
    link = ServerLink("http://127.0.0.1:9", key=KEY)
    began = time.monotonic()
    with pytest.raises(WeightSyncError):
        link.connect(timeout_s=5)
    assert time.monotonic() - began < 60


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "another"])
def test_without_the_key_there_is_health_and_nothing_else(guarded: str, key: str | None) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert request(guarded, path, key=key)[0] == 200
    for path in ("/model_info", "/server_info", "/v1/loads"):
        assert request(guarded, path, key=key)[0] == 401
    for path in ("/generate", "/pause_generation", "/begin_weight_update", "/abort_request"):
        assert request(guarded, path, body_of(TEXT[0]), key=key)[0] == 401
    assert generate(guarded, TEXT[0])["output_ids"]


@pytest.mark.sglang
def test_sglang_tells_its_keys_to_whoever_may_ask(url_of: Callable[[str], str]) -> None:
    """Its /server_info has them in plain text, and an admin key alone leaves /server_info open: so
    ours is the key that guards everything."""
    assert request(url_of("sglang"), "/server_info")[1]["api_key"] == KEY
