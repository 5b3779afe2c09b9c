"""The key-value cache: live requests as rows, right-aligned at one common column.

Every row writes its next token's keys and values to the same column, so that a step of the whole
batch is a slice, not a scatter, and attention covers exactly the longest live request. Requests
join by having their prompt copied to the columns before the current one, and leave by being
overwritten with the last row. Time is counted by `clock`, which never goes back; the column of a
time is `clock + offset`, and only `offset` changes when the live columns are moved.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.servers.embedded.model import Prefilled, TextModel
from engine.servers.embedded.sampling import Truncation

_START, _LAST, _POSITION, _TOP_K = range(4)
_TEMPERATURE, _TOP_P, _MIN_P = range(3)


_REMEMBERED = 100
"""Times that all rows were forgotten."""


def _columns_for(last: int) -> int:
    """Twice as many as up to this one, so that live columns are seldom moved."""
    return -(-2 * (last + 2) // 64) * 64


@dataclass(frozen=True, slots=True)
class NewRow:
    """What the cache must know of a request that joins."""

    next_position: int
    max_new_tokens: int
    """From here on; at least 1."""
    temperature: float
    top_p: float
    top_k: int
    """-1: unlimited."""
    min_p: float


class Rows:
    """Fixed-layout cache of one model. Grows as needed, up to `max_rows` rows.

    Shapes: N layers, R rows, G key-value heads, D head size, C columns, E hidden size.
    """

    def __init__(self, model: TextModel, max_rows: int) -> None:
        self.model = model
        self.max_rows = max_rows
        self.count = 0
        self.clock = 0
        self._offset = 0
        self._starts: list[int] = []
        self._rows = self._columns = 0
        self._longest = 0
        """Columns that the longest request had since all were forgotten, less one."""
        self._spans: deque[int] = deque(maxlen=_REMEMBERED)
        """The same of the times before."""
        self.keys: Tensor
        self.values: Tensor
        self._tokens: Tensor
        self._logprobs: Tensor
        self._ints: Tensor
        self._floats: Tensor
        self._allocate(min(max_rows, 16), 128)

    def _allocate(self, rows: int, columns: int) -> None:
        """Make the cache [rows, columns], keeping what is in it."""
        model, device = self.model, self.model.device
        shape = (model.layers_count, rows, model.kv_heads)
        new = (
            torch.zeros(*shape, model.head_dim, columns, dtype=model.dtype, device=device),
            torch.zeros(*shape, columns, model.head_dim, dtype=model.dtype, device=device),
            torch.zeros(rows, columns, dtype=torch.long, device=device),
            torch.zeros(rows, columns, device=device),
            torch.zeros(4, rows, dtype=torch.long, device=device),
            torch.zeros(3, rows, device=device),
        )
        if self.count:
            r, c = self.count, self._columns
            new[0][:, :r, ..., :c] = self.keys[:, :r]
            new[1][:, :r, :, :c] = self.values[:, :r]
            new[2][:r, :c], new[3][:r, :c] = self._tokens[:r], self._logprobs[:r]
            new[4][:, :r], new[5][:, :r] = self._ints[:, :r], self._floats[:, :r]
        self.keys, self.values, self._tokens, self._logprobs, self._ints, self._floats = new
        self._rows, self._columns = rows, columns

    @property
    def column(self) -> int:
        """Where the next keys and values are written."""
        return self.clock + self._offset

    def make_room(self, width: int, joining: int) -> None:
        """Prepare for one step in which `joining` prompts of at most `width` tokens join."""
        rows = self.count + joining
        if rows > self._rows:
            self._allocate(min(self.max_rows, max(rows, 2 * self._rows)), self._columns)
        if width <= self.column + 1 < self._columns:
            return
        first = min(self._starts, default=self.clock)
        source, target = self.column, max(self.clock - first, width - 1)
        if 2 * (target + 2) > self._columns:
            self._allocate(self._rows, _columns_for(target))
        if self.count:
            length, r = self.clock - first + 1, self.count
            old, new = (
                slice(source + 1 - length, source + 1),
                slice(target + 1 - length, target + 1),
            )
            self.keys[:, :r, ..., new] = self.keys[:, :r, ..., old].clone()
            self.values[:, :r, :, new] = self.values[:, :r, :, old].clone()
            self._tokens[:r, new] = self._tokens[:r, old].clone()
            self._logprobs[:r, new] = self._logprobs[:r, old].clone()
        self._offset = target - self.clock

    def decode(self) -> Tensor:
        """Feed every row its newest token; hidden states [rows, E]. Needs room."""
        n, column = self.count, self.column
        first = min(self._starts)
        self._longest = max(self._longest, self.clock - first)
        live = slice(first + self._offset, column + 1)
        times = torch.arange(first, self.clock + 1, device=self.model.device)
        before = times < self._ints[_START, :n, None]
        mask = torch.zeros(before.shape, dtype=self.model.dtype, device=self.model.device)
        mask = mask.masked_fill_(before, float("-inf"))[:, None, None]
        positions = self._ints[_POSITION, :n]
        hidden = self.model.decode(
            self._tokens[:n, column],
            positions,
            self.keys[:, :n, ..., live].unbind(0),
            self.values[:, :n, :, live].unbind(0),
            mask,
        )
        positions += 1
        return hidden

    def insert(self, joining: Sequence[tuple[Prefilled, Sequence[NewRow]]]) -> Tensor:
        """Add rows, each group from one prefilled prompt; hidden states [new rows, E]. Needs room.

        To be called after `decode`, which would overwrite their last column.
        """
        end, now = self.column + 1, self.clock
        ints: list[tuple[int, int, int, int]] = []
        floats: list[tuple[float, float, float]] = []
        row = first = self.count
        for prefilled, rows in joining:
            width = prefilled.keys.shape[-1]
            to = slice(row, row + len(rows))
            self.keys[:, to, ..., end - width : end] = prefilled.keys[:, None]
            self.values[:, to, :, end - width : end] = prefilled.values[:, None]
            start = now + 1 - width
            self._starts += [start] * len(rows)
            for new in rows:
                top_k = new.top_k if new.top_k > 0 else self.model.vocab
                ints.append((start, now + new.max_new_tokens, new.next_position, top_k))
                floats.append((new.temperature, new.top_p, new.min_p))
            row += len(rows)
        self._ints[:, first:row] = torch.tensor(ints, device=self.model.device).t()
        self._floats[:, first:row] = torch.tensor(floats, device=self.model.device).t()
        self.count = row
        return torch.cat([p.hidden[-1:].expand(len(rows), -1) for p, rows in joining])

    @property
    def temperature(self) -> Tensor:
        """[rows] float32."""
        return self._floats[_TEMPERATURE, : self.count]

    def truncation(self) -> Truncation:
        """The limits of all rows."""
        n = self.count
        return Truncation(
            self._floats[_TOP_P, :n], self._ints[_TOP_K, :n], self._floats[_MIN_P, :n]
        )

    def append(self, tokens: Tensor, logprobs: Tensor) -> Tensor:
        """Record one sampled token per row and advance the clock; [rows] bool: at its limit."""
        n, column = self.count, self.column + 1
        self._tokens[:n, column] = tokens
        self._logprobs[:n, column] = logprobs
        self.clock += 1
        return self._ints[_LAST, :n] == self.clock

    def newest(self, row: int, count: int) -> tuple[list[int], list[float]]:
        """The last `count` sampled tokens of a row, with their log-probs."""
        recent = slice(self.column + 1 - count, self.column + 1)
        return self._tokens[row, recent].tolist(), self._logprobs[row, recent].tolist()

    def remove(self, row: int) -> None:
        """Forget a row; the last row takes its place."""
        last = self.count - 1
        if row != last:
            live = slice(self._starts[last] + self._offset, self.column + 1)
            self.keys[:, row, ..., live] = self.keys[:, last, ..., live]
            self.values[:, row, :, live] = self.values[:, last, :, live]
            self._tokens[row, live] = self._tokens[last, live]
            self._logprobs[row, live] = self._logprobs[last, live]
            self._ints[:, row] = self._ints[:, last]
            self._floats[:, row] = self._floats[:, last]
            self._starts[row] = self._starts[last]
        self._starts.pop()
        self.count = last

    def clear(self) -> None:
        """Forget all rows. A cache that has long been far too large becomes smaller: a long request
        now and then would else leave it as large for ever."""
        self.count = 0
        self._starts.clear()
        self._spans.append(self._longest)
        self._longest = 0
        wanted = _columns_for(max(self._spans))
        if len(self._spans) == _REMEMBERED and 2 * wanted <= self._columns:
            self._allocate(self._rows, wanted)
