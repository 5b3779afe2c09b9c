"""Phases and other gates under everything that can happen to a run, with the real desk."""

import asyncio
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.admission import AdmissionRules, StreamRule
from engine.phases import Phases
from engine.transport import Message
from tests.engine.sequential_world import World

STREAMS = ("proposer", "coder", "solver")
CASTS: tuple[Mapping[str, str], ...] = (
    {stream: stream for stream in STREAMS},
    dict.fromkeys(STREAMS, "player"),
    {"proposer": "writer", "coder": "writer", "solver": "solver"},
)
SEEDS = st.integers(0, 2**32)


def check_books(world: World) -> None:
    """Groups balance, and nothing is on its way any more."""
    for stream, groups in world.buffer.counts()["groups"].items():
        gone = groups["trained"] + sum(groups["dropped"].values())
        assert groups["submitted"] == gone + groups["ready"] + groups["leased"], stream
        assert groups["leased"] == 0
    for stream, ages in world.buffer.ages().items():
        assert max(ages) <= world.rules.streams[stream].max_age


def lease_in_its_phase(world: World, policy: str, batch: Message) -> None:
    assert isinstance(world.gate, Phases)
    assert {row["stream"] for row in batch["groups"]} == {world.gate.stream}


def start_after_all_is_published(world: World) -> None:
    assert all(learner.is_idle for learner in world.learners.values()), "a barrier"


def make_world(folder: Path, seed: int, cast: Mapping[str, str], **changes: Any) -> World:
    rng = random.Random(seed)
    rules = AdmissionRules(
        streams={
            stream: StreamRule(
                policy=policy, recipe="spy", max_age=0, min_groups=rng.choice((1, 1, 3, 20))
            )
            for stream, policy in cast.items()
        },
        games_per_step=rng.choice((1, 2, 3)),
        total_steps=rng.randint(1, 9),
    )
    steps = rng.randint(1, 4)
    options: dict[str, Any] = {
        "checkpoint_every": rng.choice((1, 2, 3, 5)),
        "prefetch": rng.choice((0, 1, 2)),
        "on_lease": lease_in_its_phase,
        "on_start": start_after_all_is_published,
        "make_gate": lambda: Phases(tuple(cast), steps),
    }
    given = {"rules": rules} | options | changes
    return World(folder=folder, rng=rng, **given)


def play(seed: int, cast: Mapping[str, str], **changes: Any) -> World:
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), seed, cast, **changes)
        try:
            asyncio.run(world.run())
            assert set(world.steps.values()) == {world.rules.total_steps}
            check_books(world)
        finally:
            world.buffer.close()
    return world


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(CASTS), st.sampled_from([0.0, 0.005, 0.02]))
def test_phases_end_whatever_happens(seed: int, cast: Mapping[str, str], crash: float) -> None:
    """Games without a group for the open stream, groups without signal, bad batches, crashes."""
    play(
        seed,
        cast,
        crash_rate=crash,
        stop_rate=crash,
        skip_rate=0.1,
        signal_rate=0.7,
        group_numbers=dict.fromkeys(STREAMS, (0, 1, 2)),
    )


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.01, 0.03]))
def test_no_role_begins_a_phase_while_another_is_owed_one(seed: int, crash: float) -> None:
    """Also where a crash sets them back to different steps, and a stop cancels games."""

    def check(world: World, policy: str, batch: Message) -> None:
        lease_in_its_phase(world, policy, batch)
        assert isinstance(world.gate, Phases)
        whole = {
            name: step // world.gate._steps
            for name, step in world.steps.items()
            if step < (world.rules.total_steps or 0)
        }
        assert whole[policy] == min(whole.values()), world.steps

    play(seed, CASTS[0], crash_rate=crash, stop_rate=crash, on_lease=check)


class Cycle:
    """Opens one or two streams at a time, others at each tick; keeps to those not finished."""

    def __init__(self, streams: tuple[str, ...], every: int) -> None:
        self._streams, self._every, self._ticks = streams, every, 0

    def open_streams(self, finished: frozenset[str] = frozenset()) -> frozenset[str]:
        left = [s for s in self._streams if s not in finished] or list(self._streams)
        turn = self._ticks // self._every
        return frozenset({left[turn % len(left)], left[(turn // 2) % len(left)]})

    def tick(self, measured: Mapping[str, Mapping[str, float]]) -> str | None:
        self._ticks += 1
        return None

    def numbers(self) -> dict[str, float]:
        return {}

    def state(self) -> Any:
        return self._ticks

    def restore(self, state: Any, own: Mapping[str, Any]) -> None:
        self._ticks = state


@settings(max_examples=80, deadline=None)
@given(
    SEEDS,
    st.sampled_from(CASTS),
    st.integers(0, 4),
    st.sampled_from(["wait", "drop"]),
    st.sampled_from([0.0, 0.01]),
)
def test_a_gate_that_streams_keeps_ages_bounded_and_ends(
    seed: int,
    cast: Mapping[str, str],
    max_age: int,
    too_old: Literal["wait", "drop"],
    crash: float,
) -> None:
    """Batches that were leased before a switch, steps of closed streams that are still on their
    way, games that bring nothing for what is open."""
    rng = random.Random(seed)
    numbers = (1, 1, 5)
    rules = AdmissionRules(
        streams={
            stream: StreamRule(
                policy=policy, recipe="spy", max_age=max_age, min_groups=rng.choice(numbers)
            )
            for stream, policy in cast.items()
        },
        games_per_step=rng.choice((1, 2, 3)),
        total_steps=rng.randint(1, 9),
        too_old=too_old if max_age else "wait",
    )
    every = rng.randint(1, 4)
    world = play(
        seed,
        cast,
        rules=rules,
        make_gate=lambda: Cycle(tuple(cast), every),
        on_lease=lambda *_: None,
        on_start=lambda world: None,
        crash_rate=crash,
        stop_rate=crash,
        skip_rate=0.1,
        signal_rate=0.7,
        group_numbers=dict.fromkeys(STREAMS, (0, 1, 2)),
    )
    assert world.steps
