"""Process groups that join one learner and one server, outside of torch's default group.

Laid out as SGLang's servers expect (0.5.21 and later). A group that has failed is abandoned: gloo
cannot end a broadcast whose peer is silent before its time-out, and whoever drops the last
reference to the group waits for that.
"""

import contextlib
from datetime import timedelta

import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d as c10d


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


def leave_group(group: dist.ProcessGroup) -> None:
    """Forget a group; a broken one is abandoned without a word."""
    with contextlib.suppress(Exception):
        dist.destroy_process_group(group)


def broadcast(group: dist.ProcessGroup, data: Tensor, timeout_s: float) -> dist.Work:
    """Begin to send `data` from rank 0, or to receive it there where the rank is another."""
    options = dist.BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    options.timeout = timedelta(seconds=timeout_s)
    return group.broadcast([data], options)
