"""Ranks of a learner group as forked processes: what takes long is to import torch, once here."""

import os
import traceback
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from engine.learner import gloo

WAIT = timedelta(seconds=180)
"""Four ranks may share two busy cores."""


def fork_ranks(world: int, port: int, name: str, run: Callable[[int], None]) -> list[int]:
    """Run `run(rank)` in `world` processes that are joined over gloo; their exit codes.

    `port`: of a store that somebody else serves; `name`: another one for every call.
    """
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            try:
                _join(rank, world, port, name)
                run(rank)
                dist.barrier()
                dist.destroy_process_group()
                os._exit(0)
            except BaseException:  # noqa: BLE001  must not go on as the parent
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _join(rank: int, world: int, port: int, name: str) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=WAIT)
    prefix = dist.PrefixStore(name, store)
    dist.init_process_group(gloo.backend(), store=prefix, rank=rank, world_size=world, timeout=WAIT)
