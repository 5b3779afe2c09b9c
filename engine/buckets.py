"""Named tensors as a few large pieces of memory: packed by a learner, unpacked by a server.

A bucket is one uint8 tensor, the bytes of its tensors one after the other; SGLang calls it
`flattened_bucket`. It has no padding, so that a tensor that would not be aligned begins a new one.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from engine.weight_groups import broadcast

NamedTensors = Iterable[tuple[str, Tensor]]


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

    def take(self, size: int, device: torch.device | str) -> Tensor:
        """[size] uint8; what was taken before is given up."""
        device = torch.device(device)
        if self._memory.numel() < size or self._memory.device.type != device.type:
            self._memory = torch.empty(0, dtype=torch.uint8)  # room for one is enough
            self._memory = torch.empty(size, dtype=torch.uint8, device=device)
        return self._memory[:size]


class _Filling:
    """A bucket that is being filled."""

    def __init__(self, memory: Tensor) -> None:
        self._memory = memory
        self._tensors: list[tuple[str, str, tuple[int, ...]]] = []
        self._used = 0

    def has_room(self, tensor: Tensor) -> bool:
        is_aligned = self._used % tensor.element_size() == 0
        return is_aligned and self._used + tensor.nbytes <= self._memory.numel()

    def add(self, name: str, tensor: Tensor) -> None:
        memory = self._memory[self._used : self._used + tensor.nbytes]
        raw = raw_bytes(tensor)
        if memory.data_ptr() != raw.data_ptr():  # a tensor that is its own bucket is in place
            memory.copy_(raw)
        self._tensors.append((name, dtype_name(tensor.dtype), tuple(tensor.shape)))
        self._used += tensor.nbytes

    def bucket(self, *, is_last: bool) -> Bucket:
        names, dtypes, shapes = zip(*self._tensors, strict=True)
        return Bucket(names, dtypes, shapes, self._memory[: self._used], is_last)


def buckets(
    tensors: NamedTensors, bucket_bytes: int, memory: tuple[Memory, Memory] | None = None
) -> Iterator[Bucket]:
    """Pack tensors, in their order, into buckets of at most `bucket_bytes` (or one tensor).

    There are two pieces of `memory`: that of a bucket is filled anew when the next but one is asked
    for. Tensors are copied as they come, so that beside the two only one tensor is held; one that
    is larger than a bucket is sent from where it is.
    """
    memory = memory or (Memory(), Memory())
    filling: _Filling | None = None
    count = 0
    for name, tensor in tensors:
        if filling is not None and not filling.has_room(tensor):
            yield filling.bucket(is_last=False)
            filling = None
            count += 1
        if filling is None and tensor.nbytes > bucket_bytes:
            tensor = tensor.contiguous()
            filling = _Filling(raw_bytes(tensor))
        elif filling is None:
            filling = _Filling(memory[count % 2].take(bucket_bytes, tensor.device))
        filling.add(name, tensor)
    if filling is not None:
        yield filling.bucket(is_last=True)


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
) -> list[tuple[str, Tensor]]:
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
