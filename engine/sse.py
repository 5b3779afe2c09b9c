"""Server-sent events, as a rollout server streams them: `data: JSON`, a blank line, `[DONE]`."""

from collections.abc import AsyncIterator

_PREFIX, _END = b"data:", b"[DONE]"


async def payloads(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each whole event, until the end mark or the end of `chunks`.

    Events may be of any length: a cumulative answer of some thousand tokens is longer than the
    lines that an HTTP client reads.
    """
    rest = bytearray()
    async for chunk in chunks:
        searched = max(0, len(rest) - 1)  # the blank line may lie across two chunks
        rest += chunk
        while (end := rest.find(b"\n\n", searched)) >= 0:
            event = bytes(rest[:end]).strip()
            del rest[: end + 2]
            searched = 0
            if not event.startswith(_PREFIX):
                continue  # a comment, to keep the connection open
            data = event[len(_PREFIX) :].strip()
            if data == _END:
                return
            yield data
