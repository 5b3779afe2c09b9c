"""gloo with one worker thread in each group, as a backend of torch: safe with sharded weights.

By itself torch gives a gloo group two (2.13). Each of them, when it has ended a collective, notes
the name of it in a string that both share, without a lock, while whoever waited already goes on and
the other one ends the next. A name of up to 15 characters is part of the string: at worst it is
garbled. `ALLGATHER_COALESCED`, which is how `DTensor.full_tensor` gathers, is on the heap: it is
freed twice, or written to after it was freed, and the process dies a while later of "free():
invalid pointer". Where NCCL gathers the weights, gloo has no such name to note.
"""

import os
from datetime import timedelta

import torch.distributed as dist

NAME = "gloo_one_worker"


def backend() -> str:
    """Its name for `torch.distributed.init_process_group`; other groups inherit it."""
    if NAME not in dist.Backend.backend_list:
        dist.Backend.register_backend(NAME, _make, devices=["cpu"])
    return NAME


def _make(store: dist.Store, rank: int, size: int, timeout: timedelta) -> dist.ProcessGroupGloo:
    """As torch makes its own, but for the number of threads."""
    gloo = dist.ProcessGroupGloo
    options = gloo._Options()  # type: ignore[attr-defined]  # missing in torch's stubs
    options._threads = 1
    options._timeout = timeout
    interfaces = [name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name]
    options._devices = [gloo.create_device(interface=name) for name in interfaces] or [
        gloo.create_default_device()
    ]
    return gloo(store, rank, size, options)
