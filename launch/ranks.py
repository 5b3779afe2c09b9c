"""The job of one rank under torchrun. Rank 0 prepares the run and owns the engine process.

    all:         the roll call (`launch.attempt`)
    rank 0:      lock and sweep the run folder -> "run" in the store -> start the engine
    server host: waits for "run", tells its ports to the store, supervises until "done"
    learner:     joins its group, connects to the engine, trains until told "bye"

Whoever fails exits non-zero: torchrun's agents then end all ranks and start the next attempt,
which resumes by itself. Ranks die with their agent, and children with their rank (PDEATHSIG).

The ranks may be on several nodes that share the run's folder. What they say in the store is no
secret; the run's key is, and lies in the folder.
"""

import asyncio
import faulthandler
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.distributed import Store

from engine import children
from engine.config import LearnerGroupConfig, ServerHostConfig, digest
from engine.errors import ConfigError, EngineError
from engine.layout import Job, check_layout, gpu_of, job_of, router_host
from engine.nodes import Node, free_ports, interface_of, this_node
from engine.rundir import RunDir, RunLock, key_digest, make_key, record_pid, sweep_pids
from engine.servers.host import ServerEvent, serve
from engine.servers.router import check_router
from engine.servers.spec import ServerSpec, check_interpreter
from engine.tasks import first_of
from launch import attempt, rollcall
from launch.branch_host import branch_beside
from launch.config import RootConfig, followers, policies_of
from launch.planning.longest import longest_row_of
from launch.preflight import check_gpus, check_machine, write_config

log = logging.getLogger(__name__)

UNFILLED = "unfilled"
"""Version of a server that no learner has filled yet: no number, so nobody takes it for one."""
SERVERS_STAY = 0.7
"""Share of the time that a stop may take, at most: then there is some left for them to end."""
_SEED_STRIDE = 1_000_003
"""Between the seeds of two server hosts."""


def run_rank(config: RootConfig, *, resume: bool) -> int:
    """Run this rank's job to its end; the exit status."""
    children.die_with_parent()
    rank, world, node = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), this_node()
    run = RunDir(config.run.root / config.run.name)
    check_layout(
        config.layout,
        policies_of(config),
        world,
        followers(config),
        num_nodes=node.count,
        run=config.run,
    )
    _choose_interface(node)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # By another thread: this one may be interrupted in the middle of a wait for `stop`.
        signal.signal(number, lambda *_: _later(0.0, stop))
    job = job_of(config.layout, rank)
    if rank != 0 and job.server is not None:
        # An interrupt stops the run: servers stay until rank 0 has saved and says "done".
        signal.signal(signal.SIGINT, lambda *_: _later(SERVERS_STAY * config.run.stop_s, stop))
    shared, own = attempt.open_store(rank, world), rollcall.new_member(node, digest(config))
    if rank == 0:
        store = attempt.begin(config, run, shared, own, world, stop, resume=resume)
        status = _run_first(config, run, store, job, stop)
        if status == 0 or stop.is_set():
            attempt.say_goodbye(store, world)
    else:
        store = attempt.join(run, shared, own, rank, stop)
        if node.rank != 0:
            _check_gpus_here(config, node)
        _log_to(run.logs / f"rank{rank}.log")
        with branch_beside(config, run, store, rank, stop):
            status = _run_job(
                config, run, store, job, stop, rank, lambda: attempt.is_said(store, "done")
            )
        status = attempt.leave(store, rank) or status
    if status == 0 and int(os.environ["LOCAL_RANK"]) == 0:
        run.forget_here()
    return status


def _choose_interface(node: Node) -> None:
    """Where gloo and NCCL listen, also those of servers started here, unless it was said."""
    if (interface := interface_of(node.address)) is not None:
        # By itself gloo listens at whatever address the host's name has.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        if node.count == 1:  # NCCL takes loopback only where it is named; "=": that very name
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")


def _check_gpus_here(config: RootConfig, node: Node) -> None:
    """What rank 0 has checked for its own node only."""
    try:
        check_gpus(config.layout, node)
        check_machine(config, node)
    except ConfigError as misfit:
        raise EngineError(f"node {node.rank}: {misfit}") from misfit


def _heard_by_engine(config: RootConfig) -> tuple[str, ...]:
    """What the store calls the sockets at which the engine listens."""
    return ("engine", "branches") if config.layout.branches else ("engine",)


def _later(seconds: float, stop: threading.Event) -> None:
    timer = threading.Timer(seconds, stop.set)
    timer.daemon = True
    timer.start()


def _run_first(
    config: RootConfig, run: RunDir, store: Store, job: Job, stop: threading.Event
) -> int:
    run.create()
    lock, node = RunLock(run), this_node()
    swept = sweep_pids(run)
    write_config(config, run)
    make_key(run)
    _log_to(run.logs / "rank0.log")
    if swept:
        log.warning("swept processes that an earlier attempt left behind: %s", swept)
    with tempfile.TemporaryDirectory(prefix="streamzero-") as folder:
        addresses = [f"ipc://{folder}/{name}.sock" for name in _heard_by_engine(config)]
        if node.count > 1:
            ports = free_ports(len(addresses), node.address)
            addresses = [f"tcp://{node.address}:{port}" for port in ports]
        for name, address in zip(_heard_by_engine(config), addresses, strict=True):
            store.set(name, address)
        store.set("node", str(node.rank))
        store.set("key", key_digest(run) or "")
        store.set("run", str(run.path))
        engine_log = run.logs / "engine.log"
        engine = children.spawn(
            [sys.executable, "-m", "launch.engine", str(run.path), *addresses],
            log=None,
            env={"STREAMZERO_ENGINE_LOG": str(engine_log)},
        )
        record_pid(run, engine.pid)
        if (host := job.server) is not None:

            def serve_here() -> None:
                try:
                    _run_server(config, run, store, host, stop)
                except Exception as error:
                    log.exception("no server on rank 0")
                    print(f"streamzero: rank 0: {error}", file=sys.stderr)
                    children.end(engine)  # this attempt is over: whoever waits for it sees

            threading.Thread(target=serve_here, daemon=True).start()
        failed = True
        try:
            status = 0
            with branch_beside(config, run, store, 0, stop):
                if job.learner is not None:
                    status = _run_learner(
                        config, run, store, job.learner, stop, 0, lambda: engine.poll() is not None
                    )
                status = _wait(engine, stop, config.run.stop_s) or status
            failed = status != 0
        finally:
            children.end(engine)
            attempt.end(store, failed=failed)
        if status and not stop.is_set():
            print(f"streamzero: the engine ended with status {status}; see {engine_log}",
                  file=sys.stderr)  # fmt: skip
    lock.release()
    return status


def _run_job(
    config: RootConfig,
    run: RunDir,
    store: Store,
    job: Job,
    stop: threading.Event,
    rank: int,
    is_over: Callable[[], bool],
) -> int:
    if job.learner is not None:
        return _run_learner(config, run, store, job.learner, stop, rank, is_over)
    if job.server is not None:
        return _run_server(config, run, store, job.server, stop)
    while not (stop.wait(1.0) or is_over()):
        pass
    return 0


def _run_learner(
    config: RootConfig,
    run: RunDir,
    store: Store,
    group: LearnerGroupConfig,
    stop: threading.Event,
    rank: int,
    is_engine_gone: Callable[[], bool],
) -> int:
    # Imported here: it takes seconds, in which a host of servers has started them.
    from engine.learner.spec import LearnerSpec
    from engine.learner.worker import run_learner

    urls = _server_urls(config, store, stop)
    longest_row = 0
    if config.layout.device == "cuda":
        torch.cuda.set_device(gpu_of(config.layout, rank, int(os.environ["LOCAL_RANK"])))
        longest_row = longest_row_of(config, group.policies)
    own = {n: f for n, f in followers(config).items() if f.policy in group.policies}
    spec = LearnerSpec(
        policies=group.policies,
        rank=group.ranks.index(rank),
        world=len(group.ranks),
        base=config.model.base,
        device=config.layout.device,
        backend=config.layout.backend,
        seed=config.run.seed,
        steps=config.run.steps,
        checkpoint_every=config.run.checkpoint_every,
        keep_checkpoints=config.run.keep_checkpoints,
        checkpoints={policy: run.checkpoints(policy) for policy in group.policies},
        stop_s=config.run.stop_s,
        shard=group.shard,
        longest_row=longest_row,
        bad_batches=run.bad_batches,
        learner=config.learner,
        weights=config.weights,
        address=attempt.heard(store, "engine", stop),
        servers={name: tuple(urls[name]) for name in (*group.policies, *own)},
        followers=own,
        key=run.key.read_text(),
        node_address=this_node().address,
        tensor_parallel={
            url: host.tp
            for host in config.layout.servers
            for url in json.loads(store.get(f"servers/{host.rank}")).values()
        },
    )
    run_learner(spec, store=store, should_stop=stop.is_set, is_engine_gone=is_engine_gone)
    return 0


def _run_server(
    config: RootConfig, run: RunDir, store: Store, host: ServerHostConfig, stop: threading.Event
) -> int:
    address, num = this_node().address, len(host.policies)
    ports = [host.port + i for i in range(num)] if host.port else free_ports(num, address)
    index = config.layout.servers.index(host)
    try:
        check_interpreter(host.kind, host.python, f"layout.servers.{index}.python")
        for policy in _routed(config, host):
            check_router(policy, str(host.python or sys.executable))
    except ConfigError as misfit:  # only this machine knows it
        raise EngineError(str(misfit)) from misfit
    spec = ServerSpec(
        kind=host.kind,
        model_dirs=dict.fromkeys(host.policies, config.model.base),
        ports=dict(zip(host.policies, ports, strict=True)),
        host=address,
        label=f"rank{host.rank}",
        device=config.layout.device,
        tensor_parallel=host.tp,
        context_length=host.context_length,
        max_running=host.max_running,
        mem_fraction=host.mem_fraction,
        cache_tokens=host.cache_tokens,
        deterministic=host.deterministic,
        weight_version=UNFILLED,
        # Servers of one seed would give the same answers to the same question.
        seed=config.run.seed + _SEED_STRIDE * index,
        gpus=_gpus(config, host) if config.layout.device == "cuda" else (),
        extra_args=host.extra_args,
        python=str(host.python or sys.executable),
        api_key=run.key.read_text(),
        has_priorities=_are_evaluated(config, host),
        starts_paused=any(policy in config.layout.routers for policy in host.policies),
    )
    store.set(f"servers/{host.rank}", json.dumps(_advertised(host) or spec.urls))
    try:
        routers = _routers(config, host, spec, store, stop)
        asyncio.run(_supervise([spec, *routers], run, store, stop))
    except BaseExceptionGroup as failures:
        error = first_of(failures)
        if isinstance(error, ConfigError):  # only this rank knows it: not left to rank 0 to say
            raise EngineError(str(error)) from failures
        raise error from failures
    return 0


def _are_evaluated(config: RootConfig, host: ServerHostConfig) -> bool:
    """Whether this host's servers are asked benchmarks beside play."""
    evals = config.evals
    return bool(evals.benchmarks) and evals.servers == "rollout" and evals.policy in host.policies


def _routed(config: RootConfig, host: ServerHostConfig) -> list[str]:
    """The policies whose router this host starts."""
    layout = config.layout
    return [p for p in host.policies if p in layout.routers and router_host(layout, p) == host]


def _routers(
    config: RootConfig,
    host: ServerHostConfig,
    server: ServerSpec,
    store: Store,
    stop: threading.Event,
) -> list[ServerSpec]:
    """The routers that run beside this host's `server`, once all servers behind them are known."""
    routed = _routed(config, host)
    urls = _server_urls(config, store, stop) if routed else {}
    found = []
    for policy in routed:
        name, _, port = config.layout.routers[policy].rpartition(":")
        found.append(
            ServerSpec(
                kind="router",
                model_dirs={},
                ports={policy: int(port)},
                host=name,
                workers=tuple(urls[policy]),
                max_running=host.max_running,
                python=server.python,
                api_key=server.api_key,
            )
        )
    return found


async def _supervise(
    specs: Sequence[ServerSpec], run: RunDir, store: Store, stop: threading.Event
) -> None:
    ended = asyncio.Event()

    async def watch() -> None:
        while not (stop.is_set() or await asyncio.to_thread(attempt.is_said, store, "done")):
            await asyncio.to_thread(stop.wait, 0.5)
        ended.set()

    def on_event(event: ServerEvent) -> None:
        log.info("server process %d %s %s", event.pid, event.kind, event.detail)
        if event.kind == "starting":
            record_pid(run, event.pid)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        for spec in specs:
            tasks.create_task(serve(spec, run.logs, ended, on_event))


def _server_urls(config: RootConfig, store: Store, stop: threading.Event) -> dict[str, list[str]]:
    """{policy or follower: [url]} as the server hosts told the store; waits for them."""
    urls: dict[str, list[str]] = {}
    for host in config.layout.servers:
        for policy, url in json.loads(attempt.heard(store, f"servers/{host.rank}", stop)).items():
            urls.setdefault(policy, []).append(url)
    return urls


def _gpus(config: RootConfig, host: ServerHostConfig) -> tuple[int, ...]:
    """One GPU per rank: this rank's, and those of its tensor-parallel neighbours."""
    first = gpu_of(config.layout, host.rank, int(os.environ["LOCAL_RANK"]))
    return tuple(range(first, first + host.tp))


def _advertised(host: ServerHostConfig) -> dict[str, str]:
    """{policy: url} as the layout says that others reach this host; empty: as it listens."""
    if host.advertise is None:
        return {}
    name, _, port = host.advertise.rpartition(":")
    return {policy: f"http://{name}:{int(port) + i}" for i, policy in enumerate(host.policies)}


def _wait(engine: subprocess.Popen[bytes], stop: threading.Event, stop_s: float) -> int:
    """Wait for the engine; after a stop `stop_s` at most, since learners save first."""
    while True:
        try:
            return engine.wait(0.5)
        except subprocess.TimeoutExpired:
            if stop.is_set():
                try:
                    return engine.wait(stop_s)
                except subprocess.TimeoutExpired:
                    raise EngineError("the engine did not end after a stop") from None


def _log_to(path: Path) -> None:
    logging.basicConfig(
        filename=path,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    faulthandler.register(signal.SIGUSR1, file=path.with_suffix(".stacks").open("w"))


__all__ = ["ConfigError", "run_rank"]
