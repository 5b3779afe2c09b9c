"""Optimiser state in host memory while its policy does not train.

Three 8B policies on one group of learners have 3 x 64 GB of moments; only those of the policy
that steps need to be on the device. The tensors stay the same objects, sharded or not: only their
storage is released and filled again.
"""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class HostState:
    """Moves the state of one optimiser between the device and the host. Idempotent."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._hosted: list[Tensor] = []
        """In the order of `_moments`; empty while they are on the device."""

    def evict(self) -> None:
        """Copy the moments to the host and release the device's memory."""
        if self._hosted:
            return
        moments = self._moments()
        for tensor in moments:
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._hosted.append(host.copy_(tensor, non_blocking=True))
        if moments and moments[0].is_cuda:
            torch.cuda.synchronize()  # before the memory is given to others
        for tensor in moments:
            tensor.untyped_storage().resize_(0)

    def fetch(self) -> None:
        """Fill the moments again; call before anything reads or changes them."""
        if not self._hosted:
            return
        for tensor, host in zip(self._moments(), self._hosted, strict=True):
            tensor.untyped_storage().resize_(host.nbytes)
            tensor.copy_(host, non_blocking=True)
        if self._hosted[0].is_pinned():
            torch.cuda.synchronize()
        self._hosted = []

    def _moments(self) -> list[Tensor]:
        """The local part of every moment; step counters are too small to be worth it."""
        return [
            value.to_local() if isinstance(value, DTensor) else value
            for state in self._optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor) and value.ndim > 0
        ]
