"""What a run shows and keeps while it runs: metrics, counters, the views, the summary.

The engine tells it what happened; it decides nothing. A bounded snapshot is taken at most once a
second, and only where somebody wants it: a view that somebody looks at (terminal, dashboard), and
every few seconds `metrics.jsonl` and the sinks; its sums go to the buffer's counters, which live
over restarts.
"""

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

import aiohttp

from engine.buffer import Buffer, Leased
from engine.config import digest
from engine.give_back import GiveBack
from engine.loop import Engine
from engine.metrics import GroupMeter, MetricLog, iter_metrics
from engine.monitor.alarms import NAMES, ClockReading, alarms, machine_alarms
from engine.monitor.curves import Curves, draw
from engine.monitor.history import History
from engine.monitor.observed import ENGINE, RENDERER
from engine.monitor.sinks import open_sinks
from engine.monitor.snapshot import Alarm, Snapshot
from engine.monitor.terminal import Terminal
from engine.monitor.waiting import Waiting
from engine.routing import ServerPool
from engine.rundir import RunDir
from engine.stages import Gate
from engine.summary import build_summary, write_summary
from engine.transport import Message
from engine.types import Group
from evals.games import SIGNS, game_signs
from launch import efficiency
from launch.config import RootConfig, policies_of, recipes_of, settings_of, streams_of
from launch.parts import learner_parts
from launch.probing import Probe
from launch.report import write_report
from launch.signs import NAMES as SIGN_NAMES
from launch.signs import signs
from launch.simulation.machine import machine_busy_s
from launch.snapshots import Paced, Snapshots
from launch.tally import Tally
from render_pool.measure import together
from render_pool.pool import RenderPool
from roles.mm_zero.config import MMZeroConfig

log = logging.getLogger(__name__)

RECORD_EVERY_S = 15.0
MEANS_EVERY_S = 30.0
NUM_EVENTS = 50
PLAYED = 30
"""Newest games of a recipe over which its curves are means."""
WINDOW = 60
"""Games over which the means of their signs are taken."""
SIGNED = "mm_zero"
"""The recipe whose games in the small world the truth has something to say of."""
NUM_SIGNED = 3
"""Of the games since the last record, how many are compared with the truth, the newest ones; four
times as many until there are `WINDOW`."""
NUM_COMPARED = 1
"""Pictures of each proposal. Those of one caption resemble each other, and to read one is most of
what a comparison costs the engine."""
SINKS_CLOSE_S = 5.0


class Watcher:
    """Observes one attempt of a run. Use as a context manager, within the event loop."""

    def __init__(
        self,
        config: RootConfig,
        run: RunDir,
        buffer: Buffer,
        pools: Mapping[str, ServerPool],
        renderer: RenderPool,
        session: aiohttp.ClientSession,
    ) -> None:
        self._config = config
        self._run = run
        self._buffer = buffer
        self._renderer = renderer
        self.lines: list[Callable[[], str]] = []
        """What other parts have to say, a line each; "": nothing now."""
        self.views: list[Callable[[Callable[[], Snapshot]], None]] = []
        """Called once a second, beside the terminal, with what takes this second's snapshot: to be
        called by a view that somebody looks at, or later, when somebody comes."""
        self.renderers: Callable[[], Sequence[Mapping[str, Any]]] = lambda: ()
        """What the renderers of other processes tell of themselves."""
        self.branches: Callable[[], Mapping[str, tuple[float, float]]] = dict
        """Of other processes that play: {name: (seconds worked, seconds there)}."""
        self.gates: Mapping[str, Gate] = {}
        """Of the recipes that train their streams in stages, by recipe."""
        self.waiting = Waiting()
        """To be kept by whoever asks stations for a game."""
        self.curves = Curves(draw)
        self.probe = Probe(pools, session)
        self.terminal = Terminal()
        self._tally = Tally(buffer, pools)
        self._give_back = GiveBack()
        self._learners = learner_parts(config.layout)
        self._stats = Paced(self._render_stats)
        self._snapshots = Snapshots(config, buffer, pools, self.waiting, self._tally)
        self._history = History()
        for record in iter_metrics(run.metrics):
            self._keep(record)
        self._log = MetricLog(run.metrics)
        self._meter = GroupMeter()
        self._signs: deque[dict[str, tuple[float, int]]] = deque(maxlen=WINDOW)
        """Of each game that was compared: {sign: (sum, number) of its values}."""
        self._num_unsigned = 0
        """Games since then."""
        cast = streams_of(config)
        self._streams = {p: [s for s in cast if cast[s] == p] for p in policies_of(config)}
        """By policy."""
        self._settings = settings_of(config)
        self._recipes = recipes_of(config)
        self._notes = {r.note: name for name, r in self._recipes.items() if r.note is not None}
        self._played: dict[str, deque[Any]] = {name: deque(maxlen=PLAYED) for name in self._recipes}
        """By recipe, the notes of its newest games."""
        self._events: deque[tuple[float, str, str]] = deque(maxlen=NUM_EVENTS)
        self._alarms: list[Alarm] = []
        self._clock: ClockReading | None = None
        self._warned: set[str] = set()
        self._has_dropped = False
        self._before_s = time.process_time()
        """What the process had worked before; to start is no part of play."""
        self._recorded_s = 0.0
        self._averaged_s = 0.0
        """When means were last recorded."""
        self._is_watched = True
        """Some view took a snapshot since the last second."""
        self._is_closed = False
        loop = asyncio.get_running_loop()
        self._sinks = open_sinks(
            config.monitor.sinks,
            run.path,
            config.run.name,
            config.model_dump(mode="json"),
            # Called from the sinks' own thread.
            lambda text: loop.call_soon_threadsafe(self._warn, text),
        )

    def __enter__(self) -> "Watcher":
        self.terminal.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            self._tally.save()
        finally:  # a full disk must not also leave the terminal in its live mode
            self.terminal.__exit__(kind, error, at)
            self._sinks.close(SINKS_CLOSE_S)
            self._is_closed = True
            self._log.close()

    def _warn(self, text: str) -> None:
        if self._is_closed:
            log.warning("%s", text)
        else:
            self.on_event("warning", text)

    # what the engine and the games tell

    def record(self, kind: str, record: Mapping[str, Any]) -> None:
        self._keep({"t": time.time(), "kind": kind, **record})
        self._log.write(kind, record)
        self._sinks.write(kind, record)

    def on_event(self, level: str, text: str) -> None:
        self._events.append((time.time(), level, text))
        self.record("event", {"level": level, "text": text})
        log.log(logging.WARNING if level == "warning" else logging.INFO, "%s", text)

    def on_group(self, group: Group, is_ready: bool) -> None:
        self._meter.add(group)

    @property
    def noted(self) -> Collection[str]:
        """Keys of the notes that `on_note` wants to hear of."""
        return self._notes.keys()

    def on_note(self, key: str, value: Any) -> None:
        recipe = self._notes[key]
        self._played[recipe].append(value)
        settings = self._settings[recipe]
        if isinstance(settings, MMZeroConfig) and settings.prompts == "tiny":
            self._num_unsigned += 1

    def on_measured(self, policy: str, tokens: int) -> None:
        self._tally.measured(policy, tokens)

    def on_step(self, policy: str, message: Message, batch: Sequence[Leased]) -> None:
        rewards = [reward for row in batch for reward in row.rewards]
        if not message["skipped"]:
            self._tally.trained(policy, int(message["metrics"].get("tokens", 0)))
        self._tally.worked(self._learners[policy], message["busy_s"], message["alive_s"])
        self._snapshots.on_step(policy, message["metrics"])
        self.record(
            "step",
            {
                "policy": policy,
                "step": message["step"],
                "skipped": message["skipped"],
                "reason": message["reason"],
                "num_groups": len(batch),
                "reward": sum(rewards) / len(rewards),
                "age_mean": sum(row.age for row in batch) / len(batch),
                "age_max": max(row.age for row in batch),
                "judge_age_max": max(row.judge_age for row in batch),
                "metrics": message["metrics"],
            },
        )

    # once a second

    async def watch(self, engine: Engine) -> None:
        """What has to be looked at every second; a record where one is due; then the views."""
        self._servers_worked(await self.probe.busy(self._is_watched) or {})
        self._is_watched = False
        self._snapshots.look(engine)
        take = _Once(lambda: self._take(engine))
        attempt_s = self._tally.attempt_s
        is_recorded = attempt_s - self._recorded_s >= RECORD_EVERY_S
        if is_recorded:
            self._recorded_s = attempt_s
            self._record_all(take())
            self._give_back()
        look = _Once(lambda: self._told(take()))
        with _unharmed("the terminal"):
            if is_recorded or self.terminal.is_due(engine.phase):
                self.terminal.show(look() if self.terminal.is_live else take())
        for show in self.views:
            with _unharmed("a view of the run"):
                show(look)

    def _record_all(self, snapshot: Snapshot) -> None:
        self.record("engine", snapshot.record())
        self._record_costs()
        if self._recorded_s - self._averaged_s >= MEANS_EVERY_S:
            self._averaged_s = self._recorded_s
            self._record_groups(snapshot.games["finished"])
        self._raise_alarms(snapshot)

    def _take(self, engine: Engine) -> Snapshot:
        stats = self._account()
        parts = {RENDERER: stats, **self._dropped()}
        return self._snapshots.take(engine, self._rewards(), parts)

    def _servers_worked(self, shares: Mapping[str, tuple[float, float]]) -> None:
        for policy, (worked_s, there_s) in shares.items():
            self._tally.worked(f"server/{policy}", worked_s, there_s)

    def _account(self) -> dict[str, Any]:
        """What has been worked until now; what the renderers tell."""
        stats, _ = self._stats()
        # Where branches play, the head's own workers have next to nothing to draw.
        workers = sum(one["workers"] for one in self.renderers()) or stats["workers"]
        self._tally.worked(RENDERER, stats["busy_s"], self._tally.attempt_s * workers)
        self._tally.worked(ENGINE, time.process_time() - self._before_s, self._tally.attempt_s)
        for name, (worked_s, there_s) in self.branches().items():
            self._tally.worked(f"{ENGINE}/{name}", worked_s, there_s)
        self._tally.count()
        return stats

    def _render_stats(self) -> dict[str, Any]:
        return together([self._renderer.stats(), *self.renderers()])

    def _told(self, snapshot: Snapshot) -> Snapshot:
        """For a view: with what others than the engine say."""
        self._is_watched = True
        return replace(
            snapshot,
            lines=(
                *snapshot.lines,
                *efficiency.lines(self._config, self._tally.totals, self._tally.elapsed_s),
                *(text for line in self.lines if (text := line())),
            ),
            alarms=tuple(self._alarms),
            alarm_names=(*NAMES, *SIGN_NAMES),
            events=tuple(self._events),
        )

    def _rewards(self) -> dict[str, float | None]:
        """{policy: mean reward of its recent groups}; of several streams, the mean of theirs."""
        found: dict[str, float | None] = {}
        for policy, streams in self._streams.items():
            own = [r for stream in streams if (r := self._meter.reward(stream)) is not None]
            found[policy] = sum(own) / len(own) if own else None
        return found

    def _dropped(self) -> dict[str, dict[str, Any]]:
        """What the sinks could not take, as a part of the run; an event for the first of it."""
        dropped = self._sinks.dropped
        if dropped and not self._has_dropped:
            self._has_dropped = True
            text = "the sinks (monitor.sinks) are too slow: records are left out there, not here"
            self.on_event("warning", text)
        return {"sinks": {"dropped": dropped}} if self._sinks.is_used else {}

    def _compare(self) -> None:
        """Some of the games since the last record, with the truth."""
        most = NUM_SIGNED if len(self._signs) == WINDOW else 4 * NUM_SIGNED
        if number := min(self._num_unsigned, most):
            for proposals in [*self._played[SIGNED]][-number:]:
                found = game_signs(proposals, num_pictures=NUM_COMPARED)
                self._signs.append({name: (sum(own), len(own)) for name, own in found.items()})
        self._num_unsigned = 0

    def _record_costs(self) -> None:
        """Running totals from which a simulation takes what work costs (`launch.simulation`)."""
        servers = [
            {"policy": policy, "url": url, **told}
            for (policy, url), told in sorted(self.probe.costs.items())
        ]
        own = {"engine_cpu_s": time.process_time(), "machine_busy_s": machine_busy_s()}
        self.record("costs", own | {"servers": servers})

    def _record_groups(self, num_games: int) -> None:
        with _unharmed("the means over games"):  # recipes have a say in them
            self.record("groups", self._groups(num_games))

    def _groups(self, num_games: int) -> dict[str, Any]:
        self._compare()
        found = {}
        for name in SIGNS:
            sums = [game[name] for game in self._signs]
            if number := sum([own for _, own in sums]):
                found[name] = sum([total for total, _ in sums]) / number
        play = {
            chart: series
            for name, recipe in self._recipes.items()
            for chart, series in recipe.curves(tuple(self._played[name])).items()
        }
        gates = {f"Gate of {name}": gate.numbers() for name, gate in self.gates.items()}
        streams = self._meter.means()
        return {"games": num_games, "streams": streams, "signs": found, "play": play | gates}

    def _raise_alarms(self, snapshot: Snapshot) -> None:
        """Those that ring now; an event for each new one."""
        of_machine, self._clock = machine_alarms(self._run.path, self._clock, RECORD_EVERY_S)
        with _unharmed("the alarms"):
            records = self._history.records()
            self._alarms = [*alarms(snapshot, records), *signs(records), *of_machine]
        for alarm in self._alarms:
            kind = re.sub(r"[\d.]+", "", alarm.sentence)  # not again for every new number
            if kind not in self._warned:
                self._warned.add(kind)
                self.on_event("warning", alarm.sentence)

    def _keep(self, record: dict[str, Any]) -> None:
        if "t" not in record:
            return  # a line that no version of ours writes
        self._history.add(record)
        with _unharmed("the curves"):
            self.curves.add(record)

    # the end

    async def finish(
        self,
        steps: Mapping[str, int],
        versions: Mapping[str, int],
        heldout: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Write `summary.json` and `report.html`; the summary."""
        self._servers_worked(await self.probe.busy_at_end())
        self._account()
        self._tally.save()
        self._record_groups(self._buffer.counts()["games"]["finished"])
        summary = build_summary(
            self._buffer,
            steps=steps,
            max_age=dict.fromkeys(streams_of(self._config), self._config.streams.age_bound),
            heldout=heldout,
            seed=self._config.run.seed,
            config_sha256=digest(self._config),
            versions=versions,
            parts={RENDERER: self._render_stats()},
        )
        summary["efficiency"] = efficiency.efficiency(self._config, summary)
        write_summary(self._run.summary, summary)
        with _unharmed("the report"):
            write_report(self._run.path)
        return summary


class _Once:
    """A snapshot that is taken when it is first asked for."""

    __slots__ = ("_take", "_taken")

    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._take = take
        self._taken: Snapshot | None = None

    def __call__(self) -> Snapshot:
        if self._taken is None:
            self._taken = self._take()
        return self._taken


@contextmanager
def _unharmed(what: str) -> Iterator[None]:
    """Whoever looks at a run decides nothing, so it must not end it either."""
    try:
        yield
    except Exception:
        log.exception("%s failed; the run goes on", what)
