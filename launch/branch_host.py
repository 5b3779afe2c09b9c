"""A branch of the engine beside the job of its rank: started, watched, and ended with it."""

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import Store

from engine import children
from engine.errors import EngineError
from engine.layout import job_of
from engine.rundir import RunDir, record_pid
from launch import attempt
from launch.config import RootConfig

log = logging.getLogger(__name__)

_GOODBYE_S = 5.0
"""What a branch may take to end after the rank's job has."""
_STOP_S = 30.0
"""What the rank's job may take to end after its branch has failed."""


@contextmanager
def branch_beside(
    config: RootConfig, run: RunDir, store: Store, rank: int, stop: threading.Event
) -> Iterator[None]:
    """While the body runs, so does the branch of `rank`, if the layout has one there.

    Where it fails, `stop` is set, and EngineError raised after the body: no branch without its
    rank, and no rank without its branch. A rank whose job hears no stop is ended at once: one of a
    learner group waits for the others' collectives, and the first of a group but rank 0's would
    end the run as a person does.
    """
    servers = next((one.servers for one in config.layout.branches if one.rank == rank), None)
    if servers is None:
        yield
        return
    failures: list[str] = []
    ended = threading.Event()
    is_deaf = rank != 0 and job_of(config.layout, rank).learner is not None

    def host() -> None:
        # In a thread: the servers' urls may be known only when the rank's own job has begun.
        try:
            status = _run(config, run, store, rank, servers, stop)
        except Exception as error:
            log.exception("no branch")
            status = repr(error)
        if status:
            failures.append(f"the branch of rank {rank} ended with {status}")
            # Now: the job may end with an error of its own, for want of what this branch did.
            log.error("%s", failures[0])
            print(f"streamzero: {failures[0]}", file=sys.stderr, flush=True)
            stop.set()
            if ended.is_set():
                return
            if is_deaf or not ended.wait(_STOP_S):
                os._exit(1)  # its children die with it

    thread = threading.Thread(target=host, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
    thread.join(_GOODBYE_S)
    if failures:
        raise EngineError(f"{failures[0]}; see {run.logs / f'branch{rank}.log'}")


def _run(
    config: RootConfig,
    run: RunDir,
    store: Store,
    rank: int,
    servers: tuple[int, ...],
    stop: threading.Event,
) -> str | None:
    """Its life; how it failed, where it did."""
    told = [json.loads(attempt.heard(store, f"servers/{host}", stop)) for host in servers]
    urls = sorted({url for of in told for url in of.values()})
    address = attempt.heard(store, "branches", stop)
    log_file = run.logs / f"branch{rank}.out"
    process = children.spawn(
        [
            sys.executable, "-m", "launch.branch",
            str(run.path), address, str(rank), json.dumps(urls),
        ],
        log=log_file,
    )  # fmt: skip
    record_pid(run, process.pid)
    try:
        status = process.wait()
    finally:
        children.end(process)
    if status == 0:
        return None
    return f"status {status}: {children.last_lines(log_file, 3)}"
