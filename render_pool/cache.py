"""Results by content hash, bounded in number and in bytes; the least recently used go first."""

from collections import OrderedDict

from engine.types import Invalid, Picture
from render_pool.picture import Pixels

Result = Picture | Pixels | Invalid
MAX_BYTES = 256 << 20


class Cache:
    def __init__(self, entries: int, max_bytes: int = MAX_BYTES) -> None:
        self._entries = entries
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._results: OrderedDict[bytes, Result] = OrderedDict()

    def get(self, key: bytes) -> Result | None:
        if key in self._results:
            self._results.move_to_end(key)
        return self._results.get(key)

    def put(self, key: bytes, result: Result) -> None:
        self._num_bytes += _size(result) - _size(self._results.pop(key, None))
        self._results[key] = result
        while self._results and (
            len(self._results) > self._entries or self._num_bytes > self._max_bytes
        ):
            self._num_bytes -= _size(self._results.popitem(last=False)[1])


def _size(result: Result | None) -> int:
    if isinstance(result, Picture):
        return len(result.png)
    return len(result.rgb) if isinstance(result, Pixels) else 0
