"""Answers that contradict the request or themselves, alone and through the sampler."""

import asyncio
import contextlib
import json
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import sampler as sampler_module
from engine.errors import GameDropped
from engine.generation import _json
from engine.replies import Asked, ProtocolError, parse_reply
from tests.engine.fake_servers import EOS, PARAMS, VOCAB, Body, answer, stage


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "_BACKOFF_S", 0.0)


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
    "a token of another type": _changed(
        output_ids=[20, True], output_token_logprobs=[[-1.0, 20, None], [-1.0, True, None]]
    ),
    "half a token": _changed(
        output_ids=[20.0, 21], output_token_logprobs=[[-1.0, 20.0, None], [-1.0, 21, None]]
    ),
    "a log-prob that is a list": _changed(
        output_token_logprobs=[[[-1.0], 20, None], [-1.0, 21, None]]
    ),
    "a negative token": lambda body: answer(body, [-1]),
    "other ids": _changed(output_ids=[20, 22]),
    "a log-prob that is text": _changed(output_token_logprobs=[["x", 20, None], [-1.0, 21, None]]),
    "too few log-probs": _changed(output_token_logprobs=[[-1.0, 20, None]]),
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


ASKED = Asked(prompt_tokens=None, has_images=True, max_new_tokens=8, vocab_size=VOCAB)


def _aborted(*, missing: Collection[str]) -> Any:
    """As SGLang answers a request that it aborts in its queue."""
    good = answer({"rid": "", "input_ids": [1]}, [20, 21], finish="abort")
    meta = {key: value for key, value in good["meta_info"].items() if key not in missing}
    return good | {"meta_info": meta}


def test_what_was_sampled_before_it_went_back_to_the_queue_is_kept() -> None:
    reply = parse_reply(_aborted(missing=("prompt_tokens", "image_tokens")), ASKED)
    assert (reply.token_ids, reply.finish) == ((20, 21), "abort")
    assert len(reply.segments) == 1


def test_tokens_that_nobody_says_the_weights_of_are_sampled_again() -> None:
    missing = ("prompt_tokens", "image_tokens", "weight_versions")
    reply = parse_reply(_aborted(missing=missing), ASKED)
    assert (reply.token_ids, reply.segments, reply.finish) == ((), (), "abort")
    reply = parse_reply(_aborted(missing=(*missing, "output_token_logprobs")), ASKED)
    assert reply.token_ids == ()


def test_a_logprob_that_is_not_finite_is_the_learners_to_drop() -> None:
    make = _changed(output_token_logprobs=[[None, 20, None], [-1.0, 21, None]])
    reply = parse_reply(make({"rid": "", "input_ids": [1]}), replace(ASKED, has_images=False))
    assert math.isnan(reply.logprobs[0])
    assert reply.logprobs[1] == -1.0


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


@given(st.lists(st.floats(allow_nan=False, width=32), max_size=50), st.text(max_size=20))
def test_an_answer_is_read_as_the_standard_library_reads_it(
    logprobs: list[float], text: str
) -> None:
    answer = {
        "text": text,
        "meta_info": {"output_token_logprobs": [[x, 1, None] for x in logprobs]},
    }
    assert _json([json.dumps(answer).encode()]) == answer
    assert _json([json.dumps(answer, ensure_ascii=False).encode()]) == answer


def test_half_a_surrogate_pair_is_text_and_what_is_no_json_is_nothing() -> None:
    assert _json([b'{"text": "\\ud800"}']) == {"text": "\ud800"}
    for broken in (b'{"text": ', b"", b"[1,]", b"[" * 100_000, b'"\xff"'):
        assert _json([broken]) is None
    assert _json([]) is None
