"""Events are found wherever a stream is torn."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine.sse import payloads

LONG = b"x" * 300_000


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 10**6])
def test_events_are_found_wherever_the_stream_is_torn(size: int) -> None:
    text = b'data: {"a": 1}\n\n: alive\n\ndata:b\n\ndata: ' + b"c" * 500 + b"\n\ndata: [DONE]\n\nz"
    assert asyncio.run(read(text, size)) == [b'{"a": 1}', b"b", b"c" * 500]


def test_an_event_may_be_longer_than_a_line_of_http() -> None:
    assert asyncio.run(read(b"data: " + LONG + b"\n\n", 65_536)) == [LONG]


def test_an_event_that_is_not_whole_is_none() -> None:
    assert asyncio.run(read(b"data: a\n\ndata: b\n", 5)) == [b"a"]


async def read(text: bytes, size: int) -> list[bytes]:
    async def chunks() -> AsyncIterator[bytes]:
        for i in range(0, len(text), size):
            yield text[i : i + size]

    return [payload async for payload in payloads(chunks())]
