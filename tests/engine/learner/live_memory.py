"""Bytes of all living tensors, seen from the operations that make them."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """The largest number of bytes that lived at once, those of `already` included.

    FSDP2 frees weights by emptying their storage, which no operation shows: the running total is
    at least what lives, and is counted anew before it counts as a peak.
    """

    def __init__(self, already: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._bytes: dict[int, int] = {}
        self._total = 0
        for tensor in already:
            self._see(tensor)
        self.peak = self.now()

    def now(self) -> int:
        """Bytes that live."""
        for key, ref in list(self._storages.items()):
            storage = ref()
            if storage is not None:
                self._record(key, storage.nbytes())
        return self._total

    def _see(self, value: object) -> None:
        if not isinstance(value, Tensor) or value.device.type == "meta":
            return
        storage = getattr(value, "_local_tensor", value).untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = weakref.ref(storage, lambda _: self._forget(key))
        self._record(key, storage.nbytes())

    def _record(self, key: int, size: int) -> None:
        self._total += size - self._bytes.get(key, 0)
        self._bytes[key] = size

    def _forget(self, key: int) -> None:
        self._storages.pop(key, None)
        self._total -= self._bytes.pop(key, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            self._see(value)
        if self._total > self.peak:
            self.peak = max(self.peak, self.now())
        return result
