"""What the ranks of a learner group say to each other: commands of rank 0, and their replies.

Over a gloo group of its own, so that nothing here meets a collective of the training. Pictures
travel as raw frames, all else as JSON: no rank takes a pickle from another.
"""

import json
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from engine.learner import gloo
from engine.transport import Images, Message
from engine.wire import from_frames, to_frames

_NO_PUBLICATION = -1


class Control:
    """One rank's end. All but `progress` are collectives; for a rank alone they are trivial."""

    def __init__(
        self,
        name: str,
        store: dist.Store,
        *,
        rank: int,
        world: int,
        backend: Literal["gloo", "nccl"],
        is_needed: bool,
    ) -> None:
        """Makes torch's default group, too; `is_needed`: also for a rank alone."""
        self._rank = rank
        self._world = world
        self._group: dist.ProcessGroup | None = None
        self._shared = dist.PrefixStore(name, store)
        if world > 1:
            StoredProgress(self._shared, rank, world, _NO_PUBLICATION)  # not an earlier attempt's
        if world > 1 or is_needed:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if backend == "nccl" else gloo.backend(),
                store=self._shared,
                rank=rank,
                world_size=world,
            )
            # The other ranks wait in it for the next command, however long that takes.
            self._group = dist.new_group(backend="gloo", timeout=timedelta(days=365))

    def broadcast(self, command: Message, images: Images) -> tuple[Message, Images]:
        """Rank 0's command and its pictures, on every rank."""
        if self._group is None:
            return command, images
        frames = to_frames(command, images) if self._rank == 0 else []
        count = torch.tensor([len(frames)])
        dist.broadcast(count, 0, group=self._group)
        lengths = torch.tensor([len(f) for f in frames] or [0] * int(count))
        dist.broadcast(lengths, 0, group=self._group)
        payload = torch.empty(int(lengths.sum()), dtype=torch.uint8)
        if self._rank == 0:
            payload = _bytes(b"".join(frames))
        dist.broadcast(payload, 0, group=self._group)
        if self._rank == 0:
            return command, images
        return from_frames([part.numpy().tobytes() for part in payload.split(lengths.tolist())])

    def gather(self, reply: Message) -> list[Message]:
        """What each rank replies, by rank, on every rank."""
        if self._group is None:
            return [reply]
        own = _bytes(json.dumps(reply).encode())
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self._world)]
        dist.all_gather(lengths, torch.tensor([len(own)]), group=self._group)
        longest = max(int(length) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(own)] = own
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
        dist.all_gather(parts, padded, group=self._group)
        return [
            json.loads(part[: int(length)].numpy().tobytes())
            for part, length in zip(parts, lengths, strict=True)
        ]

    def progress(self, number: int) -> "StoredProgress | None":
        """Of the ranks in their common publication of that number; None for a rank alone."""
        if self._group is None or self._world == 1:
            return None
        return StoredProgress(self._shared, self._rank, self._world, number)

    def agree(self, is_so: bool) -> bool:
        """Whether it is so on every rank."""
        if self._group is None:
            return is_so
        flag = torch.tensor([int(is_so)])
        dist.all_reduce(flag, dist.ReduceOp.MIN, group=self._group)
        return bool(flag)


class StoredProgress:
    """`engine.weights.Progress`: no collective, since who sends must never wait for the others.

    In a key for each rank, which says of which publication it is: so many keys are all there is.
    """

    def __init__(self, store: dist.Store, rank: int, world: int, number: int) -> None:
        self._store = store
        self._number = number
        self._own = f"progress/{rank}"
        self._all = [f"progress/{other}" for other in range(world)]
        self.reach(0)

    def reach(self, stage: int) -> None:
        self._store.set(self._own, f"{self._number} {stage}")

    def furthest(self) -> int:
        said = [value.decode().split() for value in self._store.multi_get(self._all)]
        return max((int(stage) for number, stage in said if int(number) == self._number), default=0)


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
