"""The cache against a plain model of itself, and its bounds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.types import Invalid, Picture
from render_pool.cache import Cache, Result
from render_pool.picture import Pixels

KEYS = [bytes([k]) for k in range(6)]
results = st.one_of(
    st.integers(0, 40).map(lambda n: Picture(bytes(n), 32, 32)),
    st.integers(0, 40).map(lambda n: Pixels(bytes(n), 32, 32)),
    st.just(Invalid("blank", "")),
)
calls = st.lists(st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), results)), max_size=60)


def size(result: Result) -> int:
    if isinstance(result, Picture):
        return len(result.png)
    return len(result.rgb) if isinstance(result, Pixels) else 0


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 5), st.integers(0, 100), calls)
def test_it_does_what_a_list_would(
    entries: int, max_bytes: int, script: list[tuple[bytes, Result | None]]
) -> None:
    cache = Cache(entries, max_bytes)
    model: list[tuple[bytes, Result]] = []  # the least recently used first
    for key, result in script:
        known = dict(model)
        if result is None:
            assert cache.get(key) is known.get(key)
            if key in known:
                model = [pair for pair in model if pair[0] != key] + [(key, known[key])]
            continue
        cache.put(key, result)
        model = [pair for pair in model if pair[0] != key] + [(key, result)]
        while len(model) > entries or sum(size(kept) for _, kept in model) > max_bytes:
            model.pop(0)
    for key, kept in model:
        assert cache.get(key) is kept
    for key in set(KEYS) - {key for key, _ in model}:
        assert cache.get(key) is None


def test_none_are_kept_where_none_may_be() -> None:
    cache = Cache(0)
    cache.put(b"a", Invalid("blank"))
    assert cache.get(b"a") is None


@pytest.mark.parametrize("kind", [Picture, Pixels])
def test_the_least_recently_used_go_when_bytes_run_out(kind: type) -> None:
    cache = Cache(100, max_bytes=100)
    for key in (b"a", b"b", b"c"):
        cache.put(key, kind(bytes(33), 1, 1))
    assert cache.get(b"a") is not None  # now b is the oldest
    cache.put(b"d", kind(bytes(34), 1, 1))
    assert cache.get(b"b") is None
    assert None not in [cache.get(key) for key in (b"a", b"c", b"d")]
    cache.put(b"e", kind(bytes(101), 1, 1))
    assert [cache.get(key) for key in (b"a", b"c", b"d", b"e")] == [None] * 4
    cache.put(b"f", kind(bytes(100), 1, 1))
    assert cache.get(b"f") is not None


def test_a_replaced_result_is_not_counted_twice() -> None:
    cache = Cache(100, max_bytes=100)
    for length in (90, 10, 90, 10):
        cache.put(b"a", Picture(bytes(length), 1, 1))
    cache.put(b"b", Picture(bytes(90), 1, 1))
    assert cache.get(b"a") is not None
    assert cache.get(b"b") is not None
