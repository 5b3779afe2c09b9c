"""Process groups that join one learner and one server, outside of torch's default group.

Laid out as SGLang's servers expect (0.5.21 and later). A group that has failed is abandoned: gloo
cannot end a broadcast whose peer is silent before its time-out, and whoever drops the last
reference to the group waits for that. NCCL's would run on the GPU for ever: it is aborted.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import timedelta

import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d as c10d

_BLOCKING_WAIT = "TORCH_NCCL_BLOCKING_WAIT"
_ENVIRONMENT = threading.Lock()


def join_group(
    master_address: str,
    master_port: int,
    rank: int,
    world_size: int,
    group_name: str,
    backend: str,
    timeout_s: float,
) -> dist.ProcessGroup:
    """Join a group whose store is served elsewhere.

    `group_name` must never have been used before in this process. Blocks until all have joined;
    raises RuntimeError (torch's) after `timeout_s`.
    """
    timeout = timedelta(seconds=timeout_s)
    store = dist.TCPStore(
        master_address, master_port, is_master=False, timeout=timeout, wait_for_workers=False
    )
    return make_group(store, rank, world_size, group_name, backend, timeout_s)


def make_group(
    store: dist.Store, rank: int, size: int, name: str, backend: str, timeout_s: float
) -> dist.ProcessGroup:
    """The group `name` over a store; see `join_group`."""
    # torch has no public way to make a group that is not a part of the default group.
    with _without_watchdog() if backend == "nccl" else contextlib.nullcontext():
        group, _ = c10d._new_process_group_helper(
            size,
            rank,
            [],
            dist.Backend(backend),
            dist.PrefixStore(name, store),
            group_name=c10d.GroupName(name),
            timeout=timedelta(seconds=timeout_s),
        )
    c10d._world.pg_group_ranks[group] = {i: i for i in range(size)}
    return group


@contextlib.contextmanager
def _without_watchdog() -> Iterator[None]:
    """torch watches a group of NCCL by a thread that ends the whole process when one broadcast
    fails or is late. It has none where waiting blocks, which torch reads from the environment when
    it makes the group; those of the learners, made before, keep theirs."""
    with _ENVIRONMENT:
        given = os.environ.get(_BLOCKING_WAIT)
        os.environ[_BLOCKING_WAIT] = "1"
        try:
            yield
        finally:
            del os.environ[_BLOCKING_WAIT]
            if given is not None:
                os.environ[_BLOCKING_WAIT] = given


def leave_group(group: dist.ProcessGroup) -> None:
    """Forget a group; a broken one is abandoned without a word. Of NCCL what is still on the GPU is
    ended: to destroy the group would wait for it."""
    with contextlib.suppress(Exception):
        if dist.get_backend(group) == dist.Backend.NCCL:
            c10d._abort_process_group(group)
        else:
            dist.destroy_process_group(group)


def broadcast(group: dist.ProcessGroup, data: Tensor, timeout_s: float) -> dist.Work:
    """Begin to send `data` from rank 0, or to receive it there where the rank is another."""
    options = dist.BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    options.timeout = timedelta(seconds=timeout_s)
    return group.broadcast([data], options)
