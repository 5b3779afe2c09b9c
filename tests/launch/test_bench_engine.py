"""The bench of the engine: its arithmetic, and that its canned peers speak as real ones do."""

import json
from pathlib import Path

import pytest

from engine.encoding import TextEncoder
from engine.replies import Asked, parse_reply
from engine.types import Invalid, Segment
from launch.benches.canned_replies import (
    LARGE_IDS,
    ROLES,
    answer_body,
    canned_model,
    canned_replies,
)
from launch.benches.engine import Costs, Reading, per
from launch.benches.engine_parts import JSON, MONITORING, REST, by_part, hottest, part_of
from launch.benches.monitor import by_function, more_work, ratio_of_means, shares
from rewards.grading import boxed
from roles.mm_zero.parsing import extract_svg, parse_proposal
from roles.mm_zero.prompts import load_prompts

BASE = Path(__file__).resolve().parents[2] / "launch/tiny_base_model"
PROMPT_TOKENS, ANSWER_TOKENS = 700, 300


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = tmp_path_factory.mktemp("canned") / "model"
    canned_model(BASE, folder, PROMPT_TOKENS)
    return TextEncoder.load(folder)


def test_costs_are_differences_of_two_readings() -> None:
    costs = per(Reading(10.0, 5.0, 100, 20), Reading(30.0, 17.0, 4100, 520))
    assert costs == Costs(request_s=0.003, group_s=0.024, busy=0.6)
    # 1000 tokens of an answer in 3 ms of the engine, against 2500 tokens a second of a GPU.
    assert costs.gpus(2500.0, 1000) == pytest.approx(1000 / 0.003 / 2500)
    assert per(Reading(0.0, 1.0, 7, 7), Reading(1.0, 1.5, 7, 7)).request_s == 0.5


@pytest.mark.parametrize(
    "stack, part",
    [
        ("a/events.py:_run;engine/generation.py:generate;python3/json/decoder.py:raw_decode", JSON),
        ("a/events.py:_run;engine/buffer.py:end_game;python3/json/encoder.py:encode", "buffer"),
        ("engine/buffer.py:submit;wt/engine/wire.py:encode_group", "buffer"),
        ("engine/desk.py:serve;wt/engine/transport.py:send;wt/engine/wire.py:pack",
         "batches to learners, branches"),
        ("engine/branches.py:serve;wt/engine/branches.py:_receive;wt/engine/wire.py:decode_group",
         "batches to learners, branches"),
        ("asyncio/x.py:a;engine/generation.py:generate;engine/generation.py:_json", JSON),
        ("engine/generation.py:_post;site-packages/aiohttp/client.py:_request;asyncio/tasks.py:x",
         "HTTP client"),
        ("roles/mm_zero/recipe.py:play;wt/rewards/grading.py:decided", "game, rewards, grading"),
        ("asyncio/base_events.py:_run_once;asyncio/selectors.py:select", REST),
        ("launch/engine.py:bind;wt/engine/monitor/observed.py:sampled", MONITORING),
        ("engine/monitor/observed.py:sample;wt/engine/sampler.py:sample", "sampler, routing"),
        ("engine/monitor/observed.py:sample;wt/engine/replies.py:_check;(awaited)",
         "checks of answers"),
        ("launch/engine.py:run_engine;launch/watching.py:finish;python3/json/encoder.py:x", None),
    ],
)  # fmt: skip
def test_a_stack_is_time_of_its_innermost_part(stack: str, part: str | None) -> None:
    assert part_of(stack) == part


def test_shares_are_of_the_time_of_play() -> None:
    profile = {
        "asyncio/x.py:a;engine/replies.py:_check": 10,
        "asyncio/x.py:a;engine/replies.py:parse_reply": 20,
        "asyncio/x.py:a": 10,
        "launch/watching.py:finish;launch/report.py:write": 1000,
    }
    assert by_part(profile) == {"checks of answers": 0.75, REST: 0.25}
    assert hottest(profile, 1) == [("engine/replies.py:parse_reply", 0.5)]


def test_monitoring_is_told_by_the_way_into_it() -> None:
    profile = {
        "engine/loop.py:_watch;launch/watching.py:watch;launch/snapshots.py:take": 3,
        "engine/loop.py:_watch;launch/watching.py:watch;launch/snapshots.py:take;x.py:y": 1,
        "aiohttp/web_protocol.py:start": 2,
        "engine/monitor/observed.py:sample;wt/engine/sampler.py:sample": 4,
    }
    assert by_function(profile, 9) == [("watching.py:watch > snapshots.py:take", 0.4),
                                       ("serving", 0.2)]  # fmt: skip
    assert shares(profile) == {"monitoring": 0.6, "serving": 0.2}


def test_what_clients_add_is_told_by_the_work_that_they_do_not_change() -> None:
    alone = {"monitoring": 0.01, "serving": 0.0}
    watched = {"monitoring": 0.03, "serving": 0.015}
    # 99 of other work come with 1; under clients with 99 / .97 - 99 = 3.06.
    assert more_work(alone, watched) == pytest.approx((99 + 99 / 0.97 - 99) / 100)
    assert more_work(alone, alone) == 1.0
    ratio, margin = ratio_of_means([1.1, 1.3], [1.0, 1.0])
    assert (ratio, margin) == (pytest.approx(1.2), pytest.approx(2 * 0.1, rel=1e-6))


def test_prompts_have_the_length_asked_for_and_ids_of_a_large_vocabulary(
    encoder: TextEncoder,
) -> None:
    prompts = load_prompts("tiny")
    ids = encoder.encode(prompts.solver("how many circles?"))
    assert PROMPT_TOKENS <= len(ids) < PROMPT_TOKENS + 60
    assert encoder.num_images(ids) == 1
    assert sum(token >= LARGE_IDS for token in ids) > 0.9 * len(ids)
    assert max(ids) < encoder.vocab_size
    assert TextEncoder.load(BASE).decode(encoder.eos_ids) == ""


@pytest.mark.parametrize("role", ROLES)
def test_canned_answers_pass_every_check_and_say_something(encoder: TextEncoder, role: str) -> None:
    asked = Asked(prompt_tokens=7, has_images=False, max_new_tokens=600, vocab_size=160_000)
    replies = canned_replies(encoder, role, tokens=ANSWER_TOKENS, number=12)
    texts = []
    for reply in replies:
        meta = {
            "prompt_tokens": 7,
            "weight_versions": [{"version": "3", "start": 0, "end": reply.num_tokens}],
        }
        body = json.loads(answer_body(reply, meta))
        parsed = parse_reply(body, asked)
        assert len(parsed.token_ids) == reply.num_tokens >= ANSWER_TOKENS
        assert reply.num_tokens == ANSWER_TOKENS or role != "solver"
        assert parsed.segments == (Segment(0, 3),)
        assert parsed.token_ids[-1] in encoder.eos_ids
        assert all(logprob < 0 for logprob in parsed.logprobs)
        texts.append(encoder.decode(parsed.token_ids))
        assert body["text"] == texts[-1]
    assert len(set(texts)) == len(texts)
    says = {
        "proposer": lambda text: not isinstance(parse_proposal(text), Invalid),
        "coder": lambda text: extract_svg(text) is not None,
        "solver": lambda text: boxed(text) is not None,
    }[role]
    assert all(map(says, texts))


def test_canned_answers_are_the_same_each_time(encoder: TextEncoder) -> None:
    first, second = (canned_replies(encoder, "coder", tokens=200, number=3) for _ in range(2))
    assert first == second
