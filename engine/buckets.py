"""Named tensors as a few large pieces of memory: packed by a learner, unpacked by a server.

A bucket is one uint8 tensor, the bytes of its tensors one after the other; SGLang calls it
`flattened_bucket`. It has no padding, so that a tensor that would not be aligned begins a new one.
"""

import hashlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from engine.weight_groups import broadcast

NamedTensors = Iterable[tuple[str, Tensor]]
Received = list[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors as one piece of memory, in the order of `names`."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    """"float32", "bfloat16", ..."""
    shapes: tuple[tuple[int, ...], ...]
    data: Tensor
    """[bytes] uint8."""
    is_last: bool


class Memory:
    """A piece of memory that is kept from one use to the next, and grows: fresh pages take several
    times longer than what is copied into them."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._largest = 0

    def take(self, size: int, device: torch.device | str) -> Tensor:
        """[size] uint8; what was taken before is given up."""
        device = torch.device(device)
        self._largest = max(self._largest, size)
        if self._memory.numel() < size or self._memory.device.type != device.type:
            self._memory = torch.empty(0, dtype=torch.uint8)  # room for one is enough
            self._memory = torch.empty(self._largest, dtype=torch.uint8, device=device)
        return self._memory[:size]

    def exchange(self, other: Tensor | None) -> Tensor:
        """The whole piece, which its taker keeps; from now on this one has `other`, or none."""
        mine = self._memory
        self._memory = torch.empty(0, dtype=torch.uint8) if other is None else other
        return mine


class _Filling:
    """A bucket that is being filled: a view of tensors that lie one after the other in memory,
    until one comes that does not; then a copy of all of them."""

    def __init__(self, bucket_bytes: int, memory: Memory) -> None:
        self._bucket_bytes = bucket_bytes
        self._memory = memory
        self._tensors: list[tuple[str, str, tuple[int, ...]]] = []
        self._data = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._is_view = True

    @property
    def has_tensors(self) -> bool:
        return bool(self._tensors)

    def has_room(self, tensor: Tensor) -> bool:
        if not self._tensors:
            return True
        is_aligned = self._used % tensor.element_size() == 0
        return is_aligned and self._used + tensor.nbytes <= self._bucket_bytes

    def add(self, name: str, tensor: Tensor) -> None:
        raw = raw_bytes(tensor)
        used = self._used + raw.numel()
        if not self._tensors:
            self._data = raw
        elif self._is_view and _follows(self._data, raw):
            self._data = self._data.as_strided((used,), (1,))
        else:
            if self._is_view:
                view, self._is_view = self._data, False
                self._data = self._memory.take(self._bucket_bytes, raw.device)
                self._data[: self._used].copy_(view)
            self._data[self._used : used].copy_(raw)
        self._tensors.append((name, dtype_name(tensor.dtype), tuple(tensor.shape)))
        self._used = used

    def bucket(self, *, is_last: bool) -> Bucket:
        names, dtypes, shapes = zip(*self._tensors, strict=True)
        return Bucket(names, dtypes, shapes, self._data[: self._used], is_last)


def _follows(data: Tensor, raw: Tensor) -> bool:
    """Does `raw` begin in memory where `data` ends? Both uint8."""
    ours, theirs = data.untyped_storage(), raw.untyped_storage()
    end = data.storage_offset() + data.numel()
    return ours.data_ptr() == theirs.data_ptr() and end == raw.storage_offset()


def buckets(
    tensors: NamedTensors, bucket_bytes: int, memory: tuple[Memory, Memory] | None = None
) -> Iterator[Bucket]:
    """Pack tensors, in their order, into buckets of at most `bucket_bytes` (or one tensor).

    What lies in one piece of memory already is sent from there. For the rest there are two pieces
    of `memory`: that of a bucket is filled anew when the next but one is asked for. Tensors are
    copied as they come, so that beside the two only two tensors are held.
    """
    memory = memory or (Memory(), Memory())
    filling = _Filling(bucket_bytes, memory[0])
    count = 0
    for name, tensor in tensors:
        if not filling.has_room(tensor):
            yield filling.bucket(is_last=False)
            count += 1
            filling = _Filling(bucket_bytes, memory[count % 2])
        filling.add(name, tensor)
    if filling.has_tensors:
        yield filling.bucket(is_last=True)


def put_in_one_piece(parameters: Sequence[Tensor]) -> None:
    """Move parameters, all of one dtype, so that they lie one after the other in memory: `buckets`
    then sends them from there. Each stays the same object."""
    memory = torch.empty(
        sum(parameter.numel() for parameter in parameters),
        dtype=parameters[0].dtype,
        device=parameters[0].device,
    )
    used = 0
    for parameter in parameters:
        place = memory[used : used + parameter.numel()].view(parameter.shape)
        parameter.data = place.copy_(parameter.data)
        used += parameter.numel()


def raw_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, [bytes] uint8."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def receive_bucket(
    group: dist.ProcessGroup,
    names: Sequence[str],
    dtypes: Sequence[str],
    shapes: Sequence[Sequence[int]],
    *,
    flattened: bool,
    device: torch.device | str,
    timeout_s: float,
    memory: Memory | None = None,
) -> Received:
    """The server's end of one update: named tensors as broadcast by rank 0, in `memory`.

    Raises ValueError for dtypes or shapes that make no sense (before it joins the broadcast), and
    RuntimeError (torch's) when the broadcast fails.
    """
    if not len(names) == len(dtypes) == len(shapes):
        raise ValueError(f"{len(names)} names, {len(dtypes)} dtypes, {len(shapes)} shapes")
    types = [_dtype(name) for name in dtypes]
    sizes = [math.prod(shape) * kind.itemsize for shape, kind in zip(shapes, types, strict=True)]
    if not flattened:
        tensors = [
            torch.empty(tuple(shape), dtype=kind, device=device)
            for shape, kind in zip(shapes, types, strict=True)
        ]
        for work in [broadcast(group, tensor, timeout_s) for tensor in tensors]:
            work.wait()
        return list(zip(names, tensors, strict=True))
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    for name, offset, kind in zip(names, offsets, types, strict=True):
        if offset % kind.itemsize:
            raise ValueError(f"{name}: offset {offset} is not aligned to {kind}")
    data = (memory or Memory()).take(sum(sizes), device)
    broadcast(group, data, timeout_s).wait()
    return [
        (name, data[offset : offset + size].view(kind).view(tuple(shape)))
        for name, offset, size, kind, shape in zip(
            names, offsets, sizes, types, shapes, strict=True
        )
    ]


class Load(Protocol):
    """Takes received tensors into a model."""

    def __call__(self, received: Received, *, may_adopt: bool) -> tuple[list[str], bool]:
        """(names that the model lacks, whether it keeps these tensors instead of a copy; it may
        with `may_adopt`). Raises ValueError on a tensor that does not fit."""
        ...


class Intake:
    """A server's end of its updates: one bucket is loaded while the next one is received.

    Each update is taken by a thread of its own; they come in order, since a learner announces a
    bucket only when the one before is on its way.

    Nothing is copied where a bucket holds the same tensors as one before, or tensors that came in
    none: the model adopts its memory, and what it had before is where a later bucket is received.
    Otherwise (a bucket of adapted layers only, say) it is copied: else the model would keep the old
    memory for the rest of the tensors in it.
    """

    def __init__(self) -> None:
        self._memory = Memory(), Memory()
        self._count = 0
        self._receiving, self._loading = threading.Lock(), threading.Lock()
        self._adopted: dict[tuple[str, ...], Tensor] = {}
        """By the names in a bucket, the memory that the model has for them."""

    def take(self, receive: Callable[[Memory], Received], load: Load) -> list[str]:
        """Load the tensors that `receive` (see `receive_bucket`) puts in memory: names that the
        model lacks. Raises what the two raise."""
        with self._receiving:
            memory = self._memory[self._count % 2]
            received = receive(memory)
            self._count += 1
            self._loading.acquire()
        try:
            names = tuple(name for name, _ in received)
            may_adopt = names in self._adopted or not self._has_any(names)
            unknown, is_adopted = load(received, may_adopt=may_adopt)
            if is_adopted:
                self._adopted[names] = memory.exchange(self._adopted.get(names))
            return unknown
        finally:
            self._loading.release()

    def _has_any(self, names: Iterable[str]) -> bool:
        known = {name for bucket in self._adopted for name in bucket}
        return not known.isdisjoint(names)


def _dtype(name: str) -> torch.dtype:
    kind = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"unknown dtype {name!r}")
    return kind


def checksums(tensors: NamedTensors) -> dict[str, str]:
    """{name: SHA-256 of the tensor's bytes}; equal to what an embedded server of the same dtype
    answers to /weights_checker."""
    return {
        name: hashlib.sha256(raw_bytes(tensor).cpu().numpy().data).hexdigest()
        for name, tensor in tensors
    }
