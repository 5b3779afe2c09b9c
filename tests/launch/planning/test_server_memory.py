"""The server's memory: closed forms, and the living tensors of the embedded server."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.learner.costs import ModelShape, model_shape
from engine.learner.memory import GB
from engine.servers.embedded.scheduler import Limits
from engine.servers.embedded.served import ServedModel
from launch.planning.models import find_model
from launch.planning.server_memory import (
    MEM_FRACTION,
    MOST_RUNNING,
    beside_bytes,
    cache_bytes,
    mem_fraction,
    server_memory,
    working_bytes,
)
from tests.engine.learner.eight_b import EIGHT
from tests.engine.learner.live_memory import LiveMemory
from tests.engine.server_process import tiny_dir
from tests.engine.test_embedded_units import new_request

FLOAT32 = 4


@pytest.mark.parametrize(
    "name, expected",
    [
        ("Qwen3-VL-8B", 36 * 2 * 8 * 128 * 2),
        ("Qwen3-VL-2B", 28 * 2 * 8 * 128 * 2),
        ("Qwen2.5-VL-7B", 28 * 2 * 4 * 128 * 2),
    ],
)
def test_a_token_of_the_cache_by_hand(name: str, expected: int) -> None:
    assert cache_bytes(find_model(name).shape, 2) == expected
    assert cache_bytes(EIGHT, 2) == 147_456


def test_heads_are_divided_and_then_repeated() -> None:
    shape = find_model("Qwen2.5-VL-7B").shape
    assert [cache_bytes(shape, 2, tp) for tp in (1, 2, 4, 8)] == [57344, 28672, 14336, 14336]


def test_an_8b_server_on_80_gb_by_hand() -> None:
    """17.53 GB of weights; .88 of 80 GB leave 52.87 GB: 358,518 tokens, 179 requests of 2,000."""
    found = server_memory(EIGHT, number_bytes=2, memory=80 * GB)
    assert found is not None
    assert found.weights == 2 * EIGHT.params
    assert found.tokens == int((0.88 * 80 * GB - 2 * EIGHT.params) // 147_456) == 358_518
    assert found.requests(2000) == 179
    assert found.requests(1) == MOST_RUNNING
    assert found.weights + found.token * found.tokens <= MEM_FRACTION * 80 * GB
    assert found.total <= 80 * GB


def test_the_embedded_server_holds_what_the_model_says() -> None:
    """Weights, keys and values exactly; the peak of a busy server between those with the prompts
    that it keeps, and these with what a step needs."""
    limits = Limits(
        max_running_requests=32, max_total_tokens=65_536, context_length=256, max_queued_requests=64
    )
    served = ServedModel(tiny_dir(), limits, version="1", dtype=torch.float32, device="cpu", seed=3)
    shape, scheduler = model_shape(tiny_dir()), served.scheduler
    weights = list({id(w): w for w in scheduler._model.module.parameters()}.values())
    assert sum(w.nbytes for w in weights) == FLOAT32 * shape.params
    prompt, answers = 100, 32
    memory = LiveMemory([*weights, scheduler._rows.keys, scheduler._rows.values])
    with torch.inference_mode(), memory:
        for i in range(answers):
            ids = tuple(range(i, i + prompt))  # no prompt is another's
            scheduler.submit(new_request(f"{i:032}", ids, 50, lambda progress: None))
        while scheduler.has_work:
            scheduler.step()
            scheduler.outbox.clear()
    rows = scheduler._rows
    cache = rows.keys.nbytes + rows.values.nbytes
    rooms = rows.keys.shape[1] * rows.keys.shape[-1]
    assert rows.keys.shape[1] >= answers
    assert cache == cache_bytes(shape, FLOAT32) * rooms
    held = FLOAT32 * shape.params + cache
    kept = cache_bytes(shape, FLOAT32) * prompt * answers
    step = working_bytes(shape, FLOAT32, read=prompt * answers, running=answers)
    # While the cache grows the smaller one is still there, which a pool of fixed size spares.
    assert held + kept <= memory.peak <= held + kept + step + cache


shapes = st.sampled_from([find_model(n).shape for n in ("Qwen3-VL-2B", "Qwen3-VL-8B")])


@given(shapes, st.floats(10, 200), st.floats(0, 100), st.sampled_from([1, 2, 4]))
def test_more_memory_holds_at_least_as_much(
    shape: ModelShape, memory: float, more: float, tp: int
) -> None:
    small = server_memory(shape, number_bytes=2, memory=memory * GB, tp=tp)
    large = server_memory(shape, number_bytes=2, memory=(memory + more) * GB, tp=tp)
    if small is not None:
        assert large is not None
        assert large.tokens >= small.tokens
        assert small.total <= memory * GB


@given(shapes, st.floats(10, 200))
def test_what_is_left_to_a_server_is_what_it_needs_beside_its_cache(
    shape: ModelShape, memory: float
) -> None:
    fraction = mem_fraction(shape, 2, memory * GB)
    assert 0 <= fraction <= MEM_FRACTION
    if fraction:
        assert (1 - fraction) * memory * GB >= 0.999 * beside_bytes(shape, 2)
