"""Parts of the embedded server without a socket: sampling, keys, and the scheduler's columns."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.servers.embedded.__main__ import check_exposure, parse_arguments
from engine.servers.embedded.app import Keys
from engine.servers.embedded.model import Prompt
from engine.servers.embedded.request import Progress, Request, Sampling
from engine.servers.embedded.sampling import Truncation, sample, truncate
from engine.servers.embedded.scheduler import Limits, Scheduler
from engine.servers.embedded.served import PromptLayout, ServedModel
from engine.servers.embedded.vision import Pixels
from tests.engine.server_process import reference_logprobs, tiny_dir, tiny_module

TOLERANCE = 1e-5


def weights_of(probabilities: list[float]) -> torch.Tensor:
    return torch.tensor([probabilities])


def limits(top_p: float = 1.0, top_k: int = 99, min_p: float = 0.0) -> Truncation:
    return Truncation(torch.tensor([top_p]), torch.tensor([top_k]), torch.tensor([min_p]))


@pytest.mark.parametrize(
    "limit, kept",
    [
        (limits(top_k=2), [0.5, 0.3, 0, 0]),
        (limits(top_p=0.6), [0.5, 0.3, 0, 0]),
        (limits(top_p=0.4), [0.5, 0, 0, 0]),
        (limits(min_p=0.5), [0.5, 0.3, 0, 0]),
        (limits(), [0.5, 0.3, 0.15, 0.05]),
        (limits(top_k=2, top_p=0.55), [0.5, 0, 0, 0]),
    ],
)
def test_truncation_keeps_the_right_support(limit: Truncation, kept: list[float]) -> None:
    shuffled = [2, 0, 3, 1]
    weights = weights_of([0.5, 0.3, 0.15, 0.05])[:, shuffled]
    torch.testing.assert_close(truncate(weights, limit), weights_of(kept)[:, shuffled])


def test_draws_follow_the_distribution_and_never_leave_its_support() -> None:
    logits = torch.tensor([0.0, -torch.inf, 1.0, -1.0, -torch.inf]).expand(20_000, -1)
    generator = torch.Generator().manual_seed(0)
    tokens, logprobs = sample(logits, torch.full((20_000,), 0.5), None, generator)
    expected = torch.softmax(logits[0] / 0.5, 0)
    found = torch.bincount(tokens, minlength=5) / 20_000
    assert (found - expected).abs().max() < 0.015  # more than four standard errors
    torch.testing.assert_close(logprobs, expected.log()[tokens])


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(1))
    temperature = torch.tensor([0.0, 1.0]).repeat(32)
    tokens, logprobs = sample(logits, temperature, None, torch.Generator().manual_seed(2))
    assert torch.equal(tokens[::2], logits[::2].argmax(-1))
    assert not torch.equal(tokens[1::2], logits[1::2].argmax(-1))
    plain = torch.log_softmax(logits, -1).gather(1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(logprobs, plain)


def test_keys_open_what_they_should() -> None:
    both = Keys(api="K", admin="A")
    assert both.admits("/generate", "Bearer K")
    assert not both.admits("/generate", "Bearer A")
    assert both.admits("/pause_generation", "Bearer A")
    assert not both.admits("/pause_generation", "Bearer K")
    assert both.admits("/ready", "")
    assert Keys(api="K").admits("/flush_cache", "Bearer K")
    assert not Keys(admin="A").admits("/flush_cache", "")
    assert Keys(admin="A").admits("/generate", "")
    assert Keys().admits("/flush_cache", "")


def test_beyond_loopback_a_key_is_needed() -> None:
    argv = ["--serve", "1=x", "--host", "0.0.0.0"]
    with pytest.raises(ConfigError, match="admin-api-key"):
        check_exposure(parse_arguments(argv))
    check_exposure(parse_arguments([*argv, "--admin-api-key", "A"]))


def test_positions_count_an_image_by_its_longer_side() -> None:
    image = Pixels("d", torch.zeros(0), (1, 4, 8))
    prompt = PromptLayout(image_id=9, merge=2).expand((1, 9, 2), [image])
    assert prompt.token_ids == (1, *[9] * 8, 2)
    assert prompt.positions[0] == (0, *[1] * 8, 5)
    assert prompt.positions[1] == (0, 1, 1, 1, 1, 2, 2, 2, 2, 5)
    assert prompt.positions[2] == (0, 1, 2, 3, 4, 1, 2, 3, 4, 5)
    assert prompt.next_position == 6
    assert prompt.images == ((1, "d"),)


# -- the scheduler, step by step -------------------------------------------------------------------


def new_scheduler(**sizes: int) -> Scheduler:
    values = {
        "max_running_requests": 6,
        "max_total_tokens": 4000,
        "context_length": 512,
        "max_queued_requests": 99,
        **sizes,
    }
    return ServedModel(
        tiny_dir(), Limits(**values), version="1", dtype=torch.float32, device="cpu", seed=3
    ).scheduler


def new_request(
    rid: str, ids: tuple[int, ...], new: int, deliver: Callable[[Progress], None], **rest: Any
) -> Request:
    positions = tuple(range(len(ids)))
    return Request(
        rid=rid,
        prompt=Prompt(ids, (positions, positions, positions), len(ids)),
        pixels=(),
        sampling=Sampling(max_new_tokens=new, ignore_eos=True),
        deliver=deliver,
        **rest,
    )


def run(scheduler: Scheduler) -> None:
    """One step, answers delivered."""
    scheduler.step()
    for call, progress in scheduler.outbox:
        call(progress)
    scheduler.outbox.clear()


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6))
@torch.inference_mode()
def test_any_schedule_gives_every_request_its_own_logprobs(seed: int) -> None:
    """Random arrivals, aborts and retractions: what comes out is what transformers computes."""
    rng = random.Random(seed)
    scheduler = new_scheduler()
    done: dict[str, Progress] = {}
    prompts: dict[str, tuple[int, ...]] = {}
    wanted: dict[str, int] = {}
    for _ in range(150):
        if rng.random() < 0.25 and len(prompts) < 25:
            rid = f"r{len(prompts):03d}"
            width = rng.choice([1, 2, 7, 30, 90])
            prompts[rid] = tuple(rng.randrange(500) for _ in range(width))
            wanted[rid] = rng.choice([1, 2, 10, 60])
            scheduler.submit(
                new_request(
                    rid, prompts[rid], wanted[rid], lambda p, rid=rid: done.update({rid: p})
                )
            )
        if rng.random() < 0.03:
            scheduler.pause("retract")
            scheduler.resume()
        if rng.random() < 0.03 and scheduler.running:
            scheduler.abort(rng.choice(scheduler.running).rid)
        run(scheduler)
    while scheduler.has_work:
        run(scheduler)
    assert set(done) == set(prompts)
    for rid, progress in done.items():
        assert progress.finish is not None
        if progress.finish["type"] == "length":
            assert len(progress.token_ids) == wanted[rid]
        if progress.token_ids:
            got = torch.tensor(progress.logprobs)
            want = reference_logprobs(tiny_module(), prompts[rid], [], progress.token_ids)
            assert (got - want).abs().max() < TOLERANCE
    assert scheduler.used_tokens == 0


@torch.inference_mode()
def test_a_lower_priority_waits_for_the_others() -> None:
    scheduler = new_scheduler(max_running_requests=1)
    order: list[str] = []

    def submit(rid: str, priority: int) -> None:
        deliver = order.append
        ids = (len(scheduler.waiting) + 1,)
        scheduler.submit(new_request(rid, ids, 2, lambda _: deliver(rid), priority=priority))

    for rid, priority in (("low", -1), ("a", 0), ("low too", -1), ("high", 3), ("b", 0)):
        submit(rid, priority)
    while scheduler.has_work:
        run(scheduler)
    assert order == ["high", "a", "b", "low", "low too"]


@torch.inference_mode()
def test_equal_prompts_are_computed_once() -> None:
    scheduler = new_scheduler()
    done: list[Progress] = []
    for i in range(5):
        scheduler.submit(new_request(f"a{i}", (1, 2, 3, 4), 3, done.append))
    run(scheduler)
    scheduler.submit(new_request("late", (1, 2, 3, 4), 3, done.append))
    while scheduler.has_work:
        run(scheduler)
    assert sorted(progress.cached_tokens for progress in done) == [0, 4, 4, 4, 4, 4]
    assert len({progress.token_ids for progress in done}) > 1


@torch.inference_mode()
def test_a_cache_that_one_long_request_made_large_becomes_small_again() -> None:
    """And what comes out is as it would be: see any schedule above for cuts in mid-way."""
    scheduler = new_scheduler()
    done: list[Progress] = []

    def play(tokens: int) -> int:
        scheduler.submit(new_request(f"r{len(done)}", (1, 2, 3, 4), tokens, done.append))
        while scheduler.has_work:
            run(scheduler)
        scheduler.pause("retract")
        scheduler.resume()
        return int(scheduler._rows.keys.shape[-1])

    assert play(10) == 128
    large = play(400)
    assert large > 400
    sizes = [play(10) for _ in range(120)]
    assert sizes[50] == large, "not at once: it may be needed again"
    assert sizes[-1] < large / 4
    answer = done[-1]
    expected = reference_logprobs(tiny_module(0), (1, 2, 3, 4), [], answer.token_ids)
    assert (torch.tensor(answer.logprobs) - expected).abs().max() < TOLERANCE


@torch.inference_mode()
def test_what_steps_cost_is_counted() -> None:
    scheduler = new_scheduler()
    done: list[Progress] = []
    for i, tokens in enumerate((2, 5, 5)):
        scheduler.submit(new_request(f"c{i}", (1, 2, 3, 4 + i % 2), tokens, done.append))
    steps = 0
    while scheduler.has_work:
        run(scheduler)
        steps += 1
        if steps == 3:
            scheduler.pause("retract")
            scheduler.resume()
    counters = scheduler.counters
    rows = [3, 3, 2, 2, 2]
    assert counters.decode_steps == steps == len(rows)
    assert counters.generated_tokens == sum(rows)
    assert counters.rows_squared == sum(n * n for n in rows)
    assert counters.prefills == 2 + 2, "two prompts, and two requests that go on"
    assert counters.prefill_cpu_s > 0
    least, most = min(rows) * counters.decode_cpu_s, max(rows) * counters.decode_cpu_s
    assert 0 < least < counters.rows_cpu_s < most


@torch.inference_mode()
def test_the_token_limit_holds_requests_back_but_never_forever() -> None:
    scheduler = new_scheduler(max_total_tokens=50)
    done: list[Progress] = []
    for i in range(4):
        scheduler.submit(new_request(f"b{i}", tuple(range(10)), 20, done.append))
    scheduler.submit(new_request("big", tuple(range(100)), 20, done.append))
    most = 0
    while scheduler.has_work:
        run(scheduler)
        most = max(most, len(scheduler.running))
    assert most == 1
    assert len(done) == 5


@torch.inference_mode()
def test_a_hold_lets_running_requests_end_and_no_other_start() -> None:
    scheduler = new_scheduler()
    done: list[Progress] = []
    idle: list[bool] = []
    scheduler.submit(new_request("first", (1, 2), 4, done.append))
    run(scheduler)
    scheduler.hold(lambda: idle.append(True))
    scheduler.submit(new_request("second", (1, 2), 4, done.append))
    while scheduler.has_work:
        assert not idle
        run(scheduler)
    assert (len(done), idle) == (1, [True])
    scheduler.release()
    while scheduler.has_work:
        run(scheduler)
    assert len(done) == 2


@torch.inference_mode()
def test_a_version_without_tokens_leaves_no_span() -> None:
    scheduler = new_scheduler()
    done: list[Progress] = []
    scheduler.submit(new_request("v", (1, 2), 4, done.append))
    run(scheduler)
    for version in ("2", "3"):
        scheduler.pause("retract")
        scheduler.set_version(version)
        scheduler.resume()
    while scheduler.has_work:
        run(scheduler)
    assert done[0].spans == (("1", 0, 1), ("3", 1, 4))
    assert done[0].retractions == 1
