"""The live parts of a simulated run: the engine's own, over machines that only take time.

What is real: admission, games, the desk, the buffer, routing, stages, moves of servers, the recipe
with its parsers and rewards. What is simulated: servers, learners, the renderer, the processors,
the wire, and what the roles say.
"""

import asyncio
import math
import random
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine.buffer import Buffer, Leased
from engine.config import LayoutConfig
from engine.desk import Desk
from engine.elastic import Elastic
from engine.errors import ConfigError
from engine.games import Games, Play
from engine.layout import shared_gpus
from engine.loop import Engine, Hooks
from engine.moves import Mover
from engine.routing import ServerPool
from engine.stages import Stages
from engine.tasks import Signal
from engine.transport import Message
from engine.types import Group
from launch.config import RootConfig, followers, policies_of, recipes_of, settings_of
from launch.engine import pools_of, rules_of
from launch.recipe import PlayGame, Playing
from launch.schedule import begin
from launch.simulation.cores import Cores, Process, Processor
from launch.simulation.learner import SimulatedLearner
from launch.simulation.players import InProcessGrader, SimulatedRenderer, SimulatedSampler
from launch.simulation.script import Script
from launch.simulation.server import Server
from launch.simulation.service_times import MadeFor, ServiceTimes
from launch.simulation.wire import Wire
from launch.tables import players_of
from roles.table import Note, Submit, Table


@dataclass(slots=True, kw_only=True)
class World:
    """All that a simulation looks at while it runs."""

    config: RootConfig
    times: ServiceTimes
    buffer: Buffer
    pools: Mapping[str, ServerPool]
    servers: Mapping[str, Server]
    """By url; one that serves several policies has several."""
    learners: list[SimulatedLearner]
    renderer: SimulatedRenderer
    main: Process
    """The engine's process."""
    wire: Wire
    script: Script
    ended_s: list[float] = field(default_factory=list)
    """When each game ended."""
    trained_groups: int = 0
    submitted: dict[str, tuple[int, int]] = field(default_factory=dict)
    """{stream: (groups, sampled tokens in them)}."""

    @property
    def parts(self) -> dict[str, Processor]:
        """Whoever is busy or idle, by name."""
        hosts = {id(server): server for server in self.servers.values()}
        parts = {f"server {i}": one.processor for i, one in enumerate(hosts.values())}
        parts |= {f"learner {one.name}": one.process.processor for one in self.learners}
        workers = enumerate(self.renderer.workers)
        parts |= {f"render worker {i}": one.processor for i, one in workers}
        return parts | {"engine": self.main.processor}

    def on_step(self, policy: str, message: Message, batch: Sequence[Leased]) -> None:
        self.trained_groups += len(batch)

    def on_group(self, group: Group, is_ready: bool) -> None:
        groups, tokens = self.submitted.get(group.stream, (0, 0))
        own = sum(rollout.prompt_ids[0] for rollout in group.rollouts)
        self.submitted[group.stream] = (groups + 1, tokens + own)


def build(config: RootConfig, times: ServiceTimes, buffer: Buffer, seed: int) -> World:
    """To be called within the loop. Raises ConfigError for what can't be simulated."""
    check(config, times)
    clock = asyncio.get_running_loop().time
    cores = Cores(math.inf if times.cores is None else times.cores)
    needs = _needs(config.layout, cores)
    pools, servers = pools_of(config, clock), dict[str, Server]()
    for host in config.layout.servers:
        server = Server(times.servers, *needs([host.rank]))
        for policy in host.policies:
            url = f"http://{host.rank}/{policy}"
            servers[url] = server
            pools[policy].mark_ready(url, 0)
            pools[policy].set_limit(url, host.max_running)
            pools[policy].mark_unready(url)
    wire, play = Wire(), times.play
    learners = [
        SimulatedLearner(
            name="+".join(group.policies),
            policies=group.policies,
            times=times.learners,
            senders=1 if config.weights.overlap else len(group.ranks),
            via_disk=config.weights.via == "disk",
            overlap=config.weights.overlap,
            process=Process(*needs(group.ranks)),
            wire=wire,
            servers=servers,
            urls={name: _urls(servers, name) for name in pools},
            prefetch=config.learner.prefetch,
            checkpoint_every=config.run.checkpoint_every,
        )
        for group in config.layout.learners
    ]
    renderer = SimulatedRenderer(
        cores,
        workers=config.render.workers,
        picture_s=times.picture_s,
        play=play,
        chance=random.Random(f"{seed} renderer"),
    )
    return World(
        config=config,
        times=times,
        buffer=buffer,
        pools=pools,
        servers=servers,
        learners=learners,
        renderer=renderer,
        main=Process(cores),
        wire=wire,
        script=Script(play, random.Random(f"{seed} script")),
    )


def _needs(layout: LayoutConfig, cores: Cores) -> Callable[[Iterable[int]], list[Cores]]:
    """What a process on these ranks has to share with others: the cores, and its GPUs as far as
    they are not its own."""
    gpus: dict[int, Cores] = {}
    for ranks in shared_gpus(layout).values():
        gpus |= dict.fromkeys(ranks, Cores(1))
    return lambda ranks: [cores, *(gpus[rank] for rank in ranks if rank in gpus)]


def check(config: RootConfig, times: ServiceTimes) -> None:
    """Raise ConfigError for what there is no simulation of, and for times of something else."""
    if list(settings_of(config)) != ["mm_zero"]:
        raise ConfigError("recipe: only mm_zero can be simulated")
    if config.layout.routers:
        raise ConfigError("layout.routers: SGLang's router can't be simulated; leave it out")
    if config.layout.branches:
        raise ConfigError("layout.branches: branches can't be simulated; leave them out")
    if config.weights.pause != "retract":
        raise ConfigError(
            f"weights.pause: {config.weights.pause!r} can't be simulated; set it to retract"
        )
    if missing := set(policies_of(config)) - times.learners.keys():
        raise ConfigError(f"learners: no service times of {', '.join(sorted(missing))}")
    if missing := {"proposer", "coder", "solver"} - times.play.tokens.keys():
        raise ConfigError(f"play.tokens: no lengths of {', '.join(sorted(missing))}")
    if times.made_for is not None:
        _check_made_for(config, times.made_for)


def _check_made_for(config: RootConfig, made_for: MadeFor) -> None:
    """Refuse times of another model, or of learners of another size."""
    base = config.model.base.name
    if base and base.lower() != made_for.model.rstrip("/").rpartition("/")[2].lower():
        raise ConfigError(
            f"made_for.model: the times are those of {made_for.model} on {made_for.device}, and "
            f"model.base is {base}; have launch/plan.py write {base}'s (--times), or leave "
            "made_for out where they hold for it, too"
        )
    for group in config.layout.learners:
        for policy in group.policies:
            own, known = len(group.ranks), made_for.ranks.get(policy)
            if own != known:
                raise ConfigError(
                    f"made_for.ranks: the times of {policy}'s learner are those of "
                    f"{'no' if known is None else known} ranks on {made_for.device}, and "
                    f"layout.learners gives it {own}; have launch/plan.py write the configuration "
                    "and its times together (--write, --times)"
                )


@asynccontextmanager
async def begun(world: World, watch: Callable[[Engine], Awaitable[None]]) -> AsyncIterator[Engine]:
    """The engine over this world, its learners at work; `run` is still to be called."""
    config, changes = world.config, Signal()
    attempt = world.buffer.begin_attempt()
    rules = rules_of(config)
    async with AsyncExitStack() as stack:
        playing = {
            name: await stack.enter_async_context(
                begin(recipe, settings_of(config)[name], world.renderer, config.streams)
            )
            for name, recipe in recipes_of(config).items()
        }
        desk = Desk(
            socket=world.wire,
            buffer=world.buffer,
            rules=rules,
            max_judge_age=config.streams.max_judge_age,
            servers=world.pools,
            followers=followers(config),
            stages=_stages(playing, rules, world.buffer),
            attempt=attempt,
            on_change=changes.notify,
            on_step=world.on_step,
            on_event=_say_nothing,
        )
        tasks = [asyncio.create_task(learner.run()) for learner in world.learners]
        stack.callback(lambda: [task.cancel() for task in tasks])
        admission = await desk.gather()
        yield Engine(
            desk=desk,
            admission=admission,
            games=Games(
                plays={name: bind(one.play, world) for name, one in playing.items()},
                prepares={
                    name: bind_prepare(one.prepare, world)
                    for name, one in playing.items()
                    if one.prepare is not None
                },
                buffer=world.buffer,
                admission=admission,
                deadline_s=config.streams.game_deadline_s,
                on_change=changes.notify,
                on_group=world.on_group,
            ),
            hooks=_hooks(world, desk, watch, tasks),
            changes=changes,
        )


def bind(play: PlayGame, world: World) -> Play:
    """A recipe as `engine.games.Play`."""
    table, loop = _table(world), asyncio.get_running_loop()

    async def play_game(game: int, submit: Submit, note: Note) -> None:
        await play(game, replace(table, game=game, submit=submit))
        world.ended_s.append(loop.time())

    return play_game


def bind_prepare(
    prepare: Callable[[Table], Awaitable[None]], world: World
) -> Callable[[int], Awaitable[None]]:
    """What many games share, as `engine.games.Games` asks for it."""
    table = _table(world)
    return lambda game: prepare(replace(table, game=game))


def _table(world: World) -> Table:
    """Nobody looks at these games: nothing is noted."""
    samplers = {
        role: SimulatedSampler(
            role=role,
            policy=policy,
            pool=world.pools[policy],
            servers=world.servers,
            script=world.script,
            engine=world.main,
            request_s=world.times.engine.request_s,
            timeout_s=world.config.sampler.request_timeout_s,
        )
        for role, policy in players_of(world.config).items()
    }
    return Table(
        0, samplers, world.renderer, InProcessGrader(), lambda group: None, lambda key, value: None
    )


def _stages(playing: Mapping[str, Playing], rules: Any, buffer: Buffer) -> list[Stages]:
    return [
        Stages(recipe=name, gate=one.gate, rules=rules, buffer=buffer, on_event=_say_nothing)
        for name, one in playing.items()
        if one.gate is not None
    ]


def _hooks(
    world: World,
    desk: Desk,
    watch: Callable[[Engine], Awaitable[None]],
    learners: Sequence[asyncio.Task[None]],
) -> Hooks:
    async def learn() -> None:
        await asyncio.gather(*learners)  # what goes wrong there ends the simulation

    mover = Mover(
        elastic=Elastic(world.config.elastic),
        pools={policy: world.pools[policy] for policy in policies_of(world.config)},
        desk=desk,
        session=_Session(world),  # type: ignore[arg-type]
        on_event=_say_nothing,
        clock=asyncio.get_running_loop().time,
    )
    return Hooks(
        measure_before=None,
        measure_dev=None,
        measure_after=None,
        dev_every=1,
        watch=watch,
        beside={"learn": learn} | ({"move": mover.run} if world.config.elastic.enabled else {}),
    )


class _Session:
    """As far as `Mover` asks servers for something: to let go of their requests."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def post(self, url: str, **_: object) -> "_Session":
        url = url.removesuffix("/abort_request")
        # A url says what its server served at first; its learner knows what it serves now, and is
        # told of the move only when these requests have ended.
        for learner in self._world.learners:
            for policy in learner.policies:
                if url in learner.urls[policy]:
                    self._world.servers[url].interrupt(policy)
        return self

    def release(self) -> None: ...


@contextmanager
def temporary_buffer() -> Iterator[Buffer]:
    """The engine's own, in memory where the system has a file system there."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        buffer = Buffer.open(Path(folder) / "run.db")
        try:
            yield buffer
        finally:
            buffer.close()


def _urls(servers: Mapping[str, Server], policy: str) -> list[str]:
    return [url for url in servers if url.endswith(f"/{policy}")]


def _say_nothing(level: str, text: str) -> None: ...
