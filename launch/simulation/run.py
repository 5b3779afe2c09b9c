"""One simulation, from a configuration and what work costs to what came of it."""

import asyncio
from collections.abc import Mapping
from typing import Any

from engine.conservation import violations
from engine.errors import ConfigError, EngineError
from engine.loop import Engine
from launch.config import RootConfig
from launch.simulation.clock import run_virtually
from launch.simulation.outcome import WASTED, Look, Outcome, steady
from launch.simulation.service_times import ServiceTimes
from launch.simulation.world import World, begun, build, temporary_buffer


def simulate(
    config: RootConfig,
    times: ServiceTimes,
    *,
    seed: int = 0,
    seconds: float | None = None,
    warm_up: int | None = None,
) -> Outcome:
    """Play `run.steps` steps, or so many virtual seconds if that is less.

    `warm_up`: steps of every policy before the rates are taken; the depth of the window unless
    given. Raises ConfigError for what can't be simulated, or is too short to tell, and ValueError
    where only its seconds were.
    """
    check_length(config, warm_up)
    return run_virtually(_simulate(config, times, seed, seconds, warm_up))


def check_length(config: RootConfig, warm_up: int | None = None) -> None:
    """Raises ConfigError where `run.steps` leaves nothing to take rates from."""
    first, last = _counted(config, warm_up)
    fewest = fewest_steps(config, warm_up)
    if config.run.steps < fewest:
        raise ConfigError(
            f"run.steps {config.run.steps}: too short to tell, with "
            f"streams.schedule={config.streams.schedule}: its first {first} and last "
            f"{config.run.steps - last} steps do not count; want {fewest} or more"
        )


def fewest_steps(config: RootConfig, warm_up: int | None = None) -> int:
    """The least `run.steps` that leave something to take rates from."""
    first, last = _counted(config, warm_up)
    counted = _depth(config) if config.streams.schedule == "sequential" else 1
    return first + counted + config.run.steps - last


def _depth(config: RootConfig) -> int:
    """Steps of every policy that hang together. Of phases, a whole round: what comes of one has to
    be set against what all cost."""
    streams = config.streams
    return streams.phase_steps if streams.schedule == "sequential" else streams.age_bound + 1


def _counted(config: RootConfig, warm_up: int | None) -> tuple[int, int]:
    """Rates are taken after the first and before the second step of every policy."""
    depth = _depth(config)
    first = depth + (config.streams.age_bound > 0) if warm_up is None else warm_up
    return first, config.run.steps - depth


async def _simulate(
    config: RootConfig,
    times: ServiceTimes,
    seed: int,
    seconds: float | None,
    warm_up: int | None,
) -> Outcome:
    looks: list[Look] = []
    loop = asyncio.get_running_loop()
    with temporary_buffer() as buffer:
        world = build(config, times, buffer, seed)

        async def watch(engine: Engine) -> None:
            if engine.phase == "self-play":
                looks.append(_look(world, engine, loop.time()))
            if seconds is not None and loop.time() >= seconds and not engine.desk.is_stopping:
                world.learners[0].stop()

        async with begun(world, watch) as engine:
            await engine.run()
        counts = buffer.counts()
        if broken := violations(counts):
            raise EngineError("; ".join(broken))
        return _outcome(world, looks, counts, warm_up)


def _look(world: World, engine: Engine, now_s: float) -> Look:
    parts = world.parts.items()
    for _, part in parts:
        part.settle()
    return Look(
        now_s,
        dict(engine.desk.steps),
        len(world.ended_s),
        world.trained_groups,
        sum(pool.counts["tokens"] for pool in world.pools.values()),
        sum(learner.trained.total() for learner in world.learners),
        {name: part.busy_s for name, part in parts},
    )


def _outcome(
    world: World, looks: list[Look], counts: Mapping[str, Any], warm_up: int | None
) -> Outcome:
    counted = _counted(world.config, warm_up)
    in_rounds = world.config.streams.schedule == "sequential"
    first, last = steady(looks, warm_up=counted[0], last=counted[1], in_rounds=in_rounds)
    seconds = last.at_s - first.at_s
    steps = min(last.steps[policy] - first.steps[policy] for policy in last.steps)
    return Outcome(
        seconds=seconds,
        games_per_h=(last.games - first.games) / seconds * 3600,
        groups_per_h=(last.groups - first.groups) / seconds * 3600,
        steps_per_h=steps / seconds * 3600,
        publish_s=sum(one.publishing_s for one in world.learners)
        / sum(one.publications for one in world.learners),
        busy={part: (last.busy_s[part] - first.busy_s[part]) / seconds for part in last.busy_s},
        generated_per_trained=(last.generated - first.generated)
        / max(1, last.trained - first.trained),
        wasted=_wasted(world, counts) / max(1, looks[-1].generated),
        ages=world.buffer.ages(),
        counts=counts,
    )


def _wasted(world: World, counts: Mapping[str, Any]) -> float:
    """Tokens of good groups that were dropped."""
    tokens = 0.0
    for stream, row in counts["groups"].items():
        groups, own = world.submitted[stream]
        tokens += own / groups * sum(row["dropped"].get(reason, 0) for reason in WASTED)
    return tokens
