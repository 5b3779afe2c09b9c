"""An attempt: how the ranks of a run begin it together, talk during it, and leave it.

Rank 0 checks what they are about to do and tells them the attempt's name; under that name the
store holds what they say:

    engine       where the engine listens                 node   rank 0's node
    run          the run's folder is prepared             key    digest of the key in it
    swept/N      node N has nothing left of before        servers/R   {policy: url} of host R
    done         rank 0 has ended, well or not            left/R   rank R has heard that
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from torch.distributed import FileStore, PrefixStore, Store, TCPStore

from engine.errors import EngineError, FatalError
from engine.layout import check_nodes
from engine.nodes import Node
from engine.rundir import RunDir, key_digest, sweep_pids
from launch import rollcall
from launch.config import RootConfig
from launch.preflight import check_before_start

log = logging.getLogger(__name__)

STORE_TIMEOUT = timedelta(seconds=600)
STORE_FILE = "STREAMZERO_STORE_FILE"
"""Environment, set by the front door: the store of a run on one node."""
_NCCL_ALARM = "exception_dump"
"""Key under which torch tells the ranks that a collective of NCCL has failed. It stands beside all
attempts' words, and ranks that see it end themselves."""
_ENDED_WELL, _FAILED = "0", "1"
"""What "done" says."""
_GOODBYE_S = 8.0
"""How long rank 0 waits for the others to leave: at the end of a run they have little to do."""
_FOLDER_LAG_S = 120.0
"""How long another node may see an older state of the run's folder."""


def open_store(rank: int, world: int) -> Store:
    """What the ranks of all nodes say to each other: a file of the front door's (`STORE_FILE`),
    where nobody else on the network can reach it, or else torchrun's own."""
    path = os.environ.get(STORE_FILE)
    if path is not None:
        return FileStore(path, -1)
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world,
        is_master=rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        timeout=STORE_TIMEOUT,
        wait_for_workers=False,  # as long as it waits it hears no signal
    )


def begin(
    config: RootConfig,
    run: RunDir,
    shared: Store,
    own: rollcall.Member,
    world: int,
    stop: threading.Event,
    *,
    resume: bool,
) -> Store:
    """Rank 0: call the roll, check, and welcome; the attempt's part of the store. Raises
    ConfigError for what does not fit, FatalError for what no restart mends."""
    members = rollcall.gather(shared, own, world, stop, STORE_TIMEOUT.total_seconds())
    shared.delete_key(_NCCL_ALARM)  # of an attempt before, whose ranks have all ended by now
    check(config, run, members, resume=resume)
    return PrefixStore(f"attempt/{rollcall.welcome(shared, members)}", shared)


def join(
    run: RunDir, shared: Store, own: rollcall.Member, rank: int, stop: threading.Event
) -> Store:
    """Any other rank: answer the roll call, and wait until rank 0 has prepared the run's folder;
    the attempt's part of the store."""
    name = rollcall.answer(shared, rank, own, stop, STORE_TIMEOUT.total_seconds())
    store = PrefixStore(f"attempt/{name}", shared)
    enter(run, store, own.node, stop)
    return store


def check(
    config: RootConfig, run: RunDir, members: Sequence[rollcall.Member], *, resume: bool
) -> None:
    """What rank 0 checks before anything starts. An attempt of agents that have begun this run
    resumes it, and raises what no restart mends (FatalError)."""
    nodes = [member.node for member in members]
    check_nodes(config.layout, nodes)
    agents = {member.agent for member in members}
    has_begun = run.agents.exists() and bool(agents & {*run.agents.read_text().split()})
    if has_begun and run.fatal.exists():
        raise FatalError(run.fatal.read_text())
    # One whose first attempt died before it made the folder starts afresh.
    resume = (resume or has_begun) and run.config.exists()
    check_before_start(config, resume=resume, world=len(members), node=nodes[0])
    if nodes[0].count > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        print(
            "streamzero: a node that is lost can't come back into this run: for that, set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun on all nodes",
            file=sys.stderr,
        )
    run.create()
    run.fatal.unlink(missing_ok=True)
    run.agents.write_text("\n".join(sorted(agents)))


def enter(run: RunDir, store: Store, node: Node, stop: threading.Event) -> None:
    """Wait until rank 0 has prepared the run's folder; on other nodes, sweep them once.

    Raises EngineError where this node does not see the folder that rank 0 sees.
    """
    heard(store, "run", stop)
    wanted, deadline_s = store.get("key").decode(), time.monotonic() + _FOLDER_LAG_S
    while key_digest(run) != wanted:  # a network file system may be seconds behind
        if time.monotonic() > deadline_s:
            raise EngineError(
                f"run.root: {run.path.resolve()} of node {node.rank} is not the folder that rank 0 "
                "has prepared; put it on a file system that all nodes share, under the same path"
            )
        if stop.wait(0.1):
            raise SystemExit(1)
    if node.rank == int(store.get("node")):
        return  # swept by rank 0
    if int(os.environ["LOCAL_RANK"]) == 0:
        run.create_here()
        if swept := sweep_pids(run):
            log.warning("swept processes that an earlier attempt left behind: %s", swept)
        store.set(f"swept/{node.rank}", "1")
    heard(store, f"swept/{node.rank}", stop)


def heard(store: Store, key: str, stop: threading.Event) -> str:
    """What another rank says under `key`, once it has; exits when told to stop meanwhile.

    `store.get` alone hears no signal: the agent would wait half a minute, then kill.
    """
    deadline_s = time.monotonic() + STORE_TIMEOUT.total_seconds()
    while not is_said(store, key):
        if stop.wait(0.1):
            raise SystemExit(1)
        if time.monotonic() > deadline_s:
            raise EngineError(f"no rank said {key!r} within {STORE_TIMEOUT}")
    return store.get(key).decode()


def is_said(store: Store, key: str) -> bool:
    """Raises EngineError where the store is gone."""
    try:
        return store.check([key])
    except RuntimeError as error:
        raise EngineError("the store is gone: rank 0, or its agent, has ended") from error


def end(store: Store, *, failed: bool) -> None:
    """Rank 0: tell the others that it ends, and how."""
    store.set("done", _FAILED if failed else _ENDED_WELL)


def leave(store: Store, rank: int) -> int:
    """Any other rank, when its job has ended: say so; the exit status where rank 0 has failed, else
    0. An agent whose ranks all end well would not be there for the next attempt."""
    with suppress(RuntimeError):  # rank 0 may have left, if this one was told to stop
        failed = store.check(["done"]) and store.get("done").decode() == _FAILED
        store.set(f"left/{rank}", "1")
        return int(failed)
    return 0


def say_goodbye(store: Store, world: int) -> None:
    """Rank 0: wait until the others have heard "done", since the store may be this process's."""
    others = [f"left/{rank}" for rank in range(1, world)]
    deadline_s = time.monotonic() + _GOODBYE_S
    while others and not store.check(others):
        if time.monotonic() > deadline_s:
            log.warning("some ranks have not left after %s s", _GOODBYE_S)
            return
        time.sleep(0.05)
