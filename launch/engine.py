"""The engine process, a child of rank 0: builds the live parts of a run and plays it.

    python -m launch.engine RUN_DIR ADDRESS [ADDRESS_FOR_BRANCHES]

It owns no GPU and never imports torch. STREAMZERO_ENGINE_PROFILE=FILE keeps a profile of it. Where
the layout has branches (`launch.branch`), they play the games, and it keeps the books.
"""

import asyncio
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from engine.admission import AdmissionRules, StreamRule
from engine.branches import GRACE_S, Branches
from engine.buffer import Buffer
from engine.config import stopped_s
from engine.desk import Desk
from engine.elastic import Elastic
from engine.errors import EngineError, FatalError
from engine.games import Games
from engine.layout import router_url
from engine.loop import Engine, Hooks
from engine.monitor.access import read_or_make_token
from engine.monitor.dashboard import Dashboard
from engine.moves import Mover
from engine.rundir import RunDir
from engine.sampler import RoleSampler, ServerPool, TextEncoder, client_session
from engine.stages import Stages
from engine.tasks import Signal
from engine.transport import EngineSocket
from launch.actions import actions_of
from launch.config import (
    EVALUATED,
    RootConfig,
    followers,
    load_root,
    policies_of,
    recipes_of,
    streams_of,
)
from launch.library import Library
from launch.live_evals import LiveEvals
from launch.measurements import Measurements, counting
from launch.profiling import profiled
from launch.result import print_result
from launch.tables import Played, noting, samplers_of, sit_down
from launch.watching import Watcher
from render_pool.pool import RenderPool

log = logging.getLogger(__name__)

NUM_RECALLED = 400
"""Games of earlier attempts that a recipe is told of: as many as MM-Zero's curriculum counts."""


def main(argv: list[str]) -> int:
    run_path, *addresses = argv
    run = RunDir(Path(run_path))
    logging.basicConfig(
        filename=os.environ.get("STREAMZERO_ENGINE_LOG"),
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        config = load_root(run.config)
        with profiled(os.environ.get("STREAMZERO_ENGINE_PROFILE")):
            asyncio.run(run_engine(config, run, *addresses))
    except EngineError as error:
        if isinstance(error, FatalError):
            run.fatal.write_text(str(error))
        log.exception("the engine ends")
        print(f"streamzero: {error}", file=sys.stderr)
        return 1
    except Exception:
        log.exception("the engine ends with an error that nobody expected")
        raise
    return 0


async def run_engine(
    config: RootConfig, run: RunDir, address: str, for_branches: str | None = None
) -> None:
    """Build the parts, play until the end, write the summary and the report."""
    buffer = Buffer.open(run.database)
    attempt = buffer.begin_attempt()
    changes = Signal()
    async with AsyncExitStack() as stack:
        stack.callback(buffer.close)
        session = await stack.enter_async_context(client_session(run.key.read_text()))
        renderer = await stack.enter_async_context(RenderPool(config.render))
        encoder = TextEncoder.load(config.model.base)
        pools = pools_of(config)
        watcher = stack.enter_context(Watcher(config, run, buffer, pools, renderer, session))
        for pool in pools.values():
            pool.on_event = watcher.on_event
        samplers = partial(samplers_of, config, pools, encoder, session)
        branches = branches_of(stack, config, run, for_branches, pools, watcher)
        if branches is None:
            own = samplers(partial(watcher.on_event, "warning"))
            notes = partial(recalled, buffer)
            playing = await sit_down(stack, config, own, renderer, watcher.waiting, notes)
        else:
            playing = played_by(branches, recipes_of(config))
        watcher.gates = playing.gates
        rules = rules_of(config)
        socket = EngineSocket(address, run.key.read_text())
        stack.callback(socket.close)
        desk = Desk(
            socket=socket,
            buffer=buffer,
            rules=rules,
            max_judge_age=config.streams.max_judge_age,
            servers=pools if branches is None else branches.servers(),
            followers=followers(config),
            stages=[
                Stages(recipe=n, gate=g, rules=rules, buffer=buffer, on_event=watcher.on_event)
                for n, g in playing.gates.items()
            ],
            attempt=attempt,
            on_change=changes.notify,
            on_step=watcher.on_step,
            on_event=watcher.on_event,
        )
        admission = await desk.gather()
        if attempt > 1:
            where = ", ".join(f"{policy} of step {step}" for policy, step in desk.steps.items())
            watcher.on_event("info", f"attempt {attempt} goes on with {where}")
        mover = Mover(
            elastic=Elastic(config.elastic),
            pools={policy: pools[policy] for policy in policies_of(config)},
            desk=desk,
            session=session,
            on_event=watcher.on_event,
        )
        evals = live_evals(config, run, buffer, pools, changes, watcher)
        measurements = measurements_of(config, run, samplers(log.debug), renderer, watcher)
        engine = Engine(
            desk=desk,
            admission=admission,
            games=Games(
                plays={
                    name: noting(play, watcher.noted, watcher.on_note)
                    for name, play in playing.plays.items()
                },
                prepares=playing.prepares,
                buffer=buffer,
                admission=admission,
                deadline_s=config.streams.game_deadline_s + (GRACE_S if branches else 0.0),
                on_change=changes.notify,
                on_group=watcher.on_group,
            ),
            hooks=hooks_of(config, desk, measurements, watcher, mover, evals, branches),
            changes=changes,
            stopped_s=stopped_s(config.run.stop_s),
        )
        await serve_dashboard(stack, config, run, watcher, engine)
        collect_less()
        await engine.run()
        if branches is not None:
            await branches.close()
        summary = await watcher.finish(desk.steps, desk.versions, measurements.results(desk.steps))
    print_result(summary, run)
    if engine.is_draining and desk.has_stopped:
        print("streamzero: drained, saved and stopped; the same command with --resume continues")


def recalled(buffer: Buffer) -> Iterator[Mapping[str, Any]]:
    """Notes of the newest games of earlier attempts, oldest first."""
    for game in buffer.newest_games(NUM_RECALLED, oldest_first=True):
        yield game["notes"]


def played_by(branches: Branches, names: Iterable[str]) -> Played:
    """Recipes that other processes play."""
    plays = {name: branches.play(name) for name in names}
    return Played(plays, dict.fromkeys(plays, branches.prepare))


def measurements_of(
    config: RootConfig,
    run: RunDir,
    samplers: Mapping[str, RoleSampler],
    renderer: RenderPool,
    watcher: Watcher,
) -> Measurements:
    """What they sample is no self-play, and is counted apart."""
    cast = streams_of(config)
    counted = {
        role: counting(sampler, partial(watcher.on_measured, cast[role]))
        for role, sampler in samplers.items()
        if role in cast
    }
    return Measurements(config, run, counted, renderer, watcher.record)


def branches_of(
    stack: AsyncExitStack,
    config: RootConfig,
    run: RunDir,
    address: str | None,
    pools: Mapping[str, ServerPool],
    watcher: Watcher,
) -> Branches | None:
    """Those that play in place of this process; None: it plays itself."""
    if not config.layout.branches:
        return None
    assert address is not None, "branches need an address of their own"
    socket = EngineSocket(address, run.key.read_text())
    stack.callback(socket.close)
    branches = Branches(
        socket,
        len(config.layout.branches),
        pools=pools,
        waiting=watcher.waiting,
        on_event=watcher.on_event,
    )
    watcher.renderers, watcher.branches = branches.renderers, branches.worked
    return branches


def collect_less() -> None:
    """Let Python look for garbage in cycles less often, and not among what lives until the end.

    At its defaults that took 18 % of this process's time (measured: the quickstart), in pauses of
    up to a tenth of a second; the engine makes many small objects and few cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)


async def serve_dashboard(
    stack: AsyncExitStack, config: RootConfig, run: RunDir, watcher: Watcher, engine: Engine
) -> None:
    """Until the stack ends; a run goes on without one where none can be had."""
    cfg = config.monitor
    if not cfg.dashboard:
        return
    try:
        dashboard = Dashboard(
            cfg,
            token=read_or_make_token(run.dashboard_token),
            curves=watcher.curves,
            library=Library(run, tuple(streams_of(config))),
            server_texts=watcher.probe.texts,
            actions=actions_of(engine),
            port=read_port(run, cfg.port),
        )
        await stack.enter_async_context(dashboard)
        told = {"host": cfg.host, "port": dashboard.port, "configured": cfg.port}
        run.dashboard.write_text(json.dumps(told))
    except (EngineError, OSError) as error:
        watcher.on_event("warning", f"no dashboard: {error}")
        return
    watcher.terminal.announce(dashboard.url)
    watcher.views.append(dashboard.show)


def read_port(run: RunDir, configured: int) -> int | None:
    """Where the attempt before listened: browsers look for it there, unless the configuration
    says otherwise by now."""
    try:
        told = json.loads(run.dashboard.read_text())
        return int(told["port"]) if told["configured"] == configured else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pools_of(
    config: RootConfig, clock: Callable[[], float] = time.monotonic
) -> dict[str, ServerPool]:
    """The servers of every policy and follower; none is there yet."""
    return {
        name: ServerPool(
            name,
            max_concurrency=config.sampler.max_concurrency,
            router=router_url(config.layout, name),
            clock=clock,
        )
        for name in (*policies_of(config), *followers(config))
    }


def hooks_of(
    config: RootConfig,
    desk: Desk,
    measurements: Measurements,
    watcher: Watcher,
    mover: Mover,
    evals: LiveEvals | None,
    branches: Branches | None,
) -> Hooks:
    """What the engine calls, as far as the configuration wants it."""
    beside: dict[str, Callable[[], Awaitable[None]]] = {}
    if config.elastic.enabled:
        beside["move"] = mover.run
    if branches is not None:
        beside["branches"] = branches.run
    if evals is not None:
        beside["evaluate"] = evals.run
        watcher.lines.append(evals.line)
    return Hooks(
        measure_before=measurements.before if measurements.wants_before(desk.steps) else None,
        measure_dev=measurements.dev if config.eval.dev_items else None,
        measure_after=measurements.after if config.eval.heldout_items else None,
        dev_every=config.eval.dev_every,
        watch=watcher.watch,
        beside=beside,
        finish=None if evals is None else evals.finished,
    )


def live_evals(
    config: RootConfig,
    run: RunDir,
    buffer: Buffer,
    pools: Mapping[str, ServerPool],
    changes: Signal,
    watcher: Watcher,
) -> LiveEvals | None:
    """The benchmarks beside play, where the run wants some."""
    cfg = config.evals
    if not cfg.benchmarks:
        return None
    name = EVALUATED if cfg.servers == "own" else cfg.policy
    return LiveEvals(
        cfg,
        run,
        base=config.model.base,
        cache=run.evals / "cache",
        total_steps=config.run.steps,
        served=lambda: pools[name].ready,
        step_of=lambda version: buffer.ledger.find(name, version).step,
        changes=changes,
        record=watcher.record,
        on_event=watcher.on_event,
    )


def rules_of(config: RootConfig) -> AdmissionRules:
    """One stream per role of each recipe."""
    cast = streams_of(config)
    rule = {
        stream: StreamRule(
            policy=cast[stream],
            recipe=name,
            max_age=config.streams.age_bound,
            min_groups=config.streams.min_groups,
        )
        for name, recipe in recipes_of(config).items()
        for stream in recipe.streams
    }
    return AdmissionRules(
        streams=rule,
        games_per_step=config.streams.games_per_step,
        games_of=config.streams.games_of,
        total_steps=config.run.steps,
        too_old=config.streams.too_old,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
