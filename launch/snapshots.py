"""One plain value of all that goes on, taken from the live parts of a run when it is wanted."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from engine.loop import Engine
from engine.metrics import RateMeter
from engine.monitor.bottleneck import bottleneck
from engine.monitor.observed import RENDERER
from engine.monitor.snapshot import (
    PolicyView,
    Snapshot,
    Station,
    StreamView,
    age_stats,
    stages,
)
from engine.monitor.waiting import Waiting
from engine.records import Records
from engine.routing import ServerPool
from launch.config import EVALUATED, RootConfig, policies_of, recipes_of, streams_of
from launch.recipe import UNNAMED, funnel_of
from launch.tally import Tally
from render_pool.measure import summarise

T = TypeVar("T")
MAX_PRICE = 0.0003
"""Share of the time that sums over the whole run may work, or another part's counts."""
NUM_SAMPLES = 30
"""Looks at a learner, one a second, over which its share without work is taken."""


class Paced(Generic[T]):
    """A value that is computed anew as often as its price allows: the sums over the buffer's tables
    take the longer the longer a run is. The price is processor time: to be kept waiting for a
    processor makes nothing dearer. Of the last two prices it is the lower one: what was dear once,
    as after a restart or beside a collection of garbage, holds nothing up."""

    def __init__(
        self,
        compute: Callable[[], T],
        clock: Callable[[], float] = time.monotonic,
        worked: Callable[[], float] = time.thread_time,
    ) -> None:
        self._compute = compute
        self._clock = clock
        self._worked = worked
        self._next_s = -math.inf
        self._value: T
        self._at_s = 0.0
        self._price_s = 0.0

    def __call__(self) -> tuple[T, float]:
        """The value, and when it was computed: rates of it go by that."""
        now_s = self._clock()
        if now_s >= self._next_s:
            before_s = self._worked()
            self._value, self._at_s = self._compute(), now_s
            price_s = self._worked() - before_s
            self._next_s = self._clock() + min(price_s, self._price_s) / MAX_PRICE
            self._price_s = price_s
        return self._value, self._at_s


class Snapshots:
    """Takes them; keeps what rates and shares need."""

    def __init__(
        self,
        config: RootConfig,
        records: Records,
        pools: Mapping[str, ServerPool],
        waiting: Waiting,
        tally: Tally,
    ) -> None:
        self._config = config
        self._pools = pools
        self._waiting = waiting
        self._tally = tally
        self._sums = Paced(
            lambda: (records.counts(), records.funnel(), records.ages(), records.undone())
        )
        self._rates: dict[str, RateMeter] = {}
        self._policies = policies_of(config)
        self._cast = streams_of(config)
        self._funnel = funnel_of(recipes_of(config))
        self._station_names = station_names(config)
        self._starved: dict[str, deque[bool]] = {
            policy: deque(maxlen=NUM_SAMPLES) for policy in self._policies
        }
        self._starved_since: dict[str, float] = {}
        self._mfu: dict[str, float] = {}

    def look(self, engine: Engine) -> None:
        """Once a second, whether or not a snapshot is taken: has each learner something to do?"""
        self._look_at_learners(engine, time.monotonic())

    def on_step(self, policy: str, metrics: Mapping[str, Any]) -> None:
        """The learner's metrics of a step."""
        if metrics.get("mfu") is not None:
            self._mfu[policy] = float(metrics["mfu"])

    def take(
        self,
        engine: Engine,
        rewards: Mapping[str, float | None],
        parts: Mapping[str, Mapping[str, Any]],
    ) -> Snapshot:
        """`rewards`: {policy: mean of its recent groups}; `parts`: what they count of their own
        accord, the renderer at least. Its lines, alarms and events are for others to fill in."""
        now_s = time.monotonic()
        (counts, funnel, ages, undone), at_s = self._sums()
        streams = self._streams(engine, counts["groups"], funnel, ages, undone, at_s)
        policies = {
            policy: self._policy(engine, policy, rewards.get(policy), now_s)
            for policy in self._policies
        }
        stations = self._stations(parts[RENDERER], now_s)
        return Snapshot(
            name=self._config.run.name,
            phase=engine.phase,
            elapsed_s=self._tally.elapsed_s,
            games=counts["games"] | {"in_flight": len(engine.games.in_flight)},
            games_per_min=60 * self._rate("games", counts["games"]["finished"], at_s),
            streams=streams,
            policies=policies,
            stations=stations,
            bottleneck=bottleneck(
                policies, stations, streams, phase=engine.phase, is_paused=engine.is_paused
            ),
            is_paused=engine.is_paused,
            busy={part: self._busy(part, now_s) for part in self._tally.parts},
            parts=parts,
            lines=(f"renderer: {summarise(parts[RENDERER])}",),
        )

    def _look_at_learners(self, engine: Engine, now_s: float) -> None:
        """A learner that trains one of its policies has something to do."""
        if engine.holds_steps or engine.is_paused:
            self._starved_since.clear()
            return
        for group in self._config.layout.learners:
            active = [p for p in group.policies if self._may_train(engine, p)]
            is_starved = bool(active) and engine.desk.waiting.issuperset(active)
            for policy in group.policies:
                if policy in active:
                    self._starved[policy].append(is_starved)
                else:
                    self._starved[policy].clear()
                if is_starved and policy in active:
                    self._starved_since.setdefault(policy, now_s)
                else:
                    self._starved_since.pop(policy, None)

    def _may_train(self, engine: Engine, policy: str) -> bool:
        """It has steps to make, and a gate that is open: another's turn is no starvation."""
        own = [stream for stream, name in self._cast.items() if name == policy]
        has_steps = engine.desk.steps.get(policy, 0) < self._total
        return has_steps and any(map(engine.admission.is_open, own))

    def _streams(
        self,
        engine: Engine,
        counts: Mapping[str, Any],
        funnel: Mapping[str, Mapping[str, int]],
        ages: Mapping[str, Mapping[int, int]],
        undone: Mapping[str, Mapping[int, int]],
        at_s: float,
    ) -> dict[str, StreamView]:
        found = {}
        for stream in self._cast:
            row: dict[str, Any] = dict.fromkeys(("ready", "leased", "trained", "submitted"), 0)
            row |= {"dropped": {}, **counts.get(stream, {})}
            own_ages = ages.get(stream, {})
            stats = age_stats(own_ages)
            found[stream] = StreamView(
                is_open=engine.admission.is_open(stream),
                ready=row["ready"],
                leased=row["leased"],
                trained=row["trained"],
                dropped=row["dropped"],
                age_mean=stats["mean"],
                age_max=None if stats["max"] is None else int(stats["max"]),
                ages=own_ages,
                undone=undone.get(stream, {}),
                policy=self._cast[stream],
                submitted_per_s=self._rate(f"submitted/{stream}", row["submitted"], at_s),
                trained_per_s=self._rate(f"groups/{stream}", row["trained"], at_s),
                funnel=stages(funnel.get(stream, {}), self._funnel.get(stream, UNNAMED)),
            )
        return found

    def _policy(
        self, engine: Engine, policy: str, reward: float | None, now_s: float
    ) -> PolicyView:
        step, looks = engine.desk.steps.get(policy, 0), self._starved[policy]
        since_s = self._starved_since.get(policy)
        return PolicyView(
            step=step,
            total_steps=self._total,
            version=engine.desk.versions.get(policy, 0),
            reward=reward,
            generated_per_s=self._counted(f"generated/{policy}", now_s),
            trained_per_s=self._counted(f"trained/{policy}", now_s),
            waits_for=self._waits_for(engine, policy),
            starved=sum(looks) / len(looks) if looks else None,
            starved_s=0.0 if since_s is None else now_s - since_s,
            steps_per_min=60 * self._rate(f"steps/{policy}", step, now_s),
            mfu=self._mfu.get(policy),
        )

    def _stations(self, renderer: Mapping[str, Any], now_s: float) -> dict[str, Station]:
        # Followers that play (a pinned judge) are stations too.
        others = [name for name in self._pools if name not in (*self._policies, EVALUATED)]
        names = (*self._station_names, *others)
        queues = {name: self._waiting.reading(name) for name in names}
        waited = {n: self._rate(f"waited/{n}", q.waited_s, now_s) for n, q in queues.items()}
        total = sum(waited.values())
        found = {}
        for name in names:
            is_renderer = name == RENDERER
            busy_of = RENDERER if is_renderer else f"server/{name}"
            pool = None if is_renderer else self._pools[name]
            found[name] = Station(
                kind="renderer" if is_renderer else "servers",
                units=renderer["workers"] if pool is None else len(pool.ready),
                outstanding=queues[name].now,
                queued=renderer["waiting"] if pool is None else pool.stats()["waiting"],
                per_s=self._rate(f"answered/{name}", queues[name].answered, now_s),
                wait_share=waited[name] / total if total else 0.0,
                busy=self._busy(busy_of, now_s) if busy_of in self._tally.parts else None,
                limit="render.workers" if is_renderer else "layout.servers",
            )
        return found

    def _busy(self, part: str, now_s: float) -> float:
        """Share of the recent time that its units worked, in the mean."""
        units = 1
        if part == RENDERER:
            units = self._config.render.workers * max(1, len(self._config.layout.branches))
        elif part.startswith("server/"):
            units = max(1, len(self._pools[part.removeprefix("server/")].ready))
        return min(1.0, self._counted(f"busy_s/{part}", now_s) / units)

    def _waits_for(self, engine: Engine, policy: str) -> str:
        if not self._pools[policy].ready:
            return "a server"
        if engine.holds_steps:
            return "the measurement of the base"
        return engine.admission.waits_for(policy) if policy in engine.desk.waiting else ""

    @property
    def _total(self) -> int:
        return self._config.run.steps

    def _counted(self, counter: str, now_s: float) -> float:
        return self._rate(counter, self._tally.totals.get(counter, 0.0), now_s)

    def _rate(self, name: str, total: float, now_s: float) -> float:
        """Of one call for each name in a snapshot."""
        return self._rates.setdefault(name, RateMeter()).rate(total, now_s)


def station_names(config: RootConfig) -> tuple[str, ...]:
    """Where games wait, in their order: the policies that serve their roles, and the renderer."""
    cast = streams_of(config)
    stations = [name for recipe in recipes_of(config).values() for name in recipe.stations]
    return tuple(dict.fromkeys(cast.get(name, name) for name in stations))
