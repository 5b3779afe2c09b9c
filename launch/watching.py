"""What a run shows and keeps while it runs: metrics, counters, the live view, the summary.

The engine tells it what happened; it decides nothing. Once a second it takes one bounded
snapshot: to the terminal, every few seconds to `metrics.jsonl`, and its sums to the buffer's
counters, which live over restarts.
"""

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import aiohttp

from engine.buffer import Buffer, Leased
from engine.config import digest
from engine.loop import Engine
from engine.metrics import GroupMeter, MetricLog, RateMeter, read_metrics
from engine.monitor.snapshot import PolicyView, Snapshot, StreamView, age_stats, stages
from engine.monitor.terminal import Terminal
from engine.routing import ServerPool
from engine.rundir import RunDir
from engine.summary import build_summary, write_summary
from engine.transport import Message
from engine.types import Group
from evals.games import SIGNS, game_signs
from launch.config import RootConfig
from launch.recipe import FUNNEL, STREAMS
from launch.report import write_report
from launch.signs import warnings
from render_pool.measure import summarise
from render_pool.pool import RenderPool

log = logging.getLogger(__name__)

RECORD_EVERY_S = 10.0
PROBE_TIMEOUT_S = 1.0
NUM_EVENTS = 50
SIGNS_WINDOW = 60
NUM_RECORDS = 5000
BUSY_METRIC = "sglang:busy_seconds_total"


class Watcher:
    """Observes one attempt of a run. Use as a context manager."""

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
        self._pools = pools
        self._renderer = renderer
        self._session = session
        self.lines: list[Callable[[], str]] = []
        """What other parts have to say, a line each; "": nothing now."""
        self._records: deque[dict[str, Any]] = deque(read_metrics(run.metrics), NUM_RECORDS)
        self._log = MetricLog(run.metrics)
        self._terminal = Terminal()
        self._meter = GroupMeter()
        self._signs: deque[dict[str, list[float]]] = deque(maxlen=SIGNS_WINDOW)
        self._events: deque[tuple[str, str]] = deque(maxlen=NUM_EVENTS)
        self._warned: set[str] = set()
        self._rates: dict[str, RateMeter] = {}
        self._totals: dict[str, float] = {}
        """What this attempt has added to each counter of the buffer so far."""
        self._trained: dict[str, int] = dict.fromkeys(pools, 0)
        self._measured: dict[str, int] = dict.fromkeys(pools, 0)
        self._busy: dict[str, tuple[float, float]] = {}
        """{part: (seconds worked, seconds there were)} of this attempt."""
        self._started_s = time.monotonic()
        self._wall_before_s = buffer.counters().get("wall_s", 0.0)
        self._recorded_s = 0.0

    def __enter__(self) -> "Watcher":
        self._terminal.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            self._save_counters()
        finally:  # a full disk must not also leave the terminal in its live mode
            self._terminal.__exit__(kind, error, at)
            self._log.close()

    # what the engine and the games tell

    def record(self, kind: str, record: Mapping[str, Any]) -> None:
        self._records.append({"kind": kind, **record})
        self._log.write(kind, record)

    def on_event(self, level: str, text: str) -> None:
        self._events.append((level, text))
        self.record("event", {"level": level, "text": text})
        log.log(logging.WARNING if level == "warning" else logging.INFO, "%s", text)

    def on_group(self, group: Group, is_ready: bool) -> None:
        self._meter.add(group)

    def on_note(self, key: str, value: Any) -> None:
        if key == "proposals" and self._config.recipe.prompts == "tiny":
            self._signs.append(game_signs(value))

    def on_measured(self, policy: str, tokens: int) -> None:
        """Tokens sampled for a measurement are not self-play's."""
        self._measured[policy] += tokens

    def on_step(self, policy: str, message: Message, batch: Sequence[Leased]) -> None:
        rewards = [reward for row in batch for reward in row.group.rewards]
        self._trained[policy] += int(message["metrics"].get("tokens", 0))
        self._busy["learner"] = (message["busy_s"], message["alive_s"])
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
        """One snapshot to all views, one line of counters to the buffer."""
        await asyncio.gather(*(self._probe(policy) for policy in self._pools))
        stats = self._renderer.stats()
        elapsed_s = time.monotonic() - self._started_s
        self._busy["renderer"] = (stats["busy_s"], elapsed_s * stats["workers"])
        self._save_counters()
        snapshot = self._snapshot(engine)
        self._terminal.show(snapshot)
        if elapsed_s - self._recorded_s >= RECORD_EVERY_S:
            self._recorded_s = elapsed_s
            self.record("engine", snapshot.record())
            self._record_groups()

    def _record_groups(self) -> None:
        streams = self._meter.means()
        signs = {
            name: sum(values) / len(values)
            for name in SIGNS
            if (values := [value for game in self._signs for value in game[name]])
        }
        self.record("groups", {"streams": streams, "signs": signs})
        for warning in warnings(self._records):
            kind = re.sub(r"[\d.]+", "", warning)  # once, not again for every new number
            if kind not in self._warned:
                self._warned.add(kind)
                self.on_event("warning", warning)

    async def _probe(self, policy: str) -> None:
        """Busy seconds of the policy's servers, where they tell (ours do)."""
        worked = there = 0.0
        for url in self._pools[policy].ready:
            try:
                timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
                async with self._session.get(f"{url}/metrics", timeout=timeout) as response:
                    text = await response.text()
            except (aiohttp.ClientError, TimeoutError, OSError):
                continue
            for line in text.splitlines():
                if line.startswith(BUSY_METRIC):
                    worked += float(line.rsplit(" ", 1)[1])
                    there += time.monotonic() - self._started_s
        if there:
            self._busy[f"server/{policy}"] = (worked, there)

    def _save_counters(self) -> None:
        totals: dict[str, float] = {"wall_s": time.monotonic() - self._started_s}
        for policy, pool in self._pools.items():
            totals[f"measured/{policy}"] = self._measured[policy]
            totals[f"generated/{policy}"] = pool.counts["tokens"] - self._measured[policy]
            totals[f"trained/{policy}"] = self._trained[policy]
        for part, (worked_s, there_s) in self._busy.items():
            totals[f"busy_s/{part}"], totals[f"busy_of_s/{part}"] = worked_s, there_s
        # A restarted server counts its seconds anew: what was added stays added.
        amounts = {n: max(0.0, v - self._totals.get(n, 0.0)) for n, v in totals.items()}
        self._buffer.add_all({name: amount for name, amount in amounts.items() if amount})
        self._totals = {n: max(v, self._totals.get(n, 0.0)) for n, v in totals.items()}

    def _snapshot(self, engine: Engine) -> Snapshot:
        counts, funnel = self._buffer.counts(), self._buffer.funnel()
        ages = {stream: age_stats(rows) for stream, rows in self._buffer.ages().items()}
        means = self._meter.means()
        now_s = time.monotonic()
        empty: dict[str, Any] = {"ready": 0, "leased": 0, "trained": 0, "dropped": {}}
        streams = {}
        for stream in STREAMS:
            row = {**empty, **counts["groups"].get(stream, {})}
            age = ages.get(stream, {})
            streams[stream] = StreamView(
                ready=row["ready"],
                leased=row["leased"],
                trained=row["trained"],
                dropped=row["dropped"],
                age_mean=age.get("mean"),
                age_max=None if age.get("max") is None else int(age["max"] or 0),
                funnel=stages(funnel.get(stream, {}), FUNNEL.get(stream, ("sampled", "usable"))),
            )
        policies = {
            policy: PolicyView(
                step=engine.desk.steps.get(policy, 0),
                total_steps=self._config.run.steps,
                version=engine.desk.versions.get(policy, 0),
                reward=means.get(policy, {}).get("reward"),
                generated_per_s=self._rate(f"generated/{policy}", now_s),
                trained_per_s=self._rate(f"trained/{policy}", now_s),
                waits_for=self._waits_for(engine, policy),
            )
            for policy in STREAMS
        }
        return Snapshot(
            name=self._config.run.name,
            phase=engine.phase,
            elapsed_s=self._wall_before_s + now_s - self._started_s,
            games=counts["games"],
            streams=streams,
            policies=policies,
            busy={
                part: self._rate(f"busy_s/{part}", now_s)
                / (self._renderer.stats()["workers"] if part == "renderer" else 1)
                for part in sorted(self._busy)
            },
            parts={"renderer": self._renderer.stats()},
            lines=(
                f"renderer: {summarise(self._renderer.stats())}",
                *(text for line in self.lines if (text := line())),
            ),
            events=tuple(self._events),
        )

    def _waits_for(self, engine: Engine, policy: str) -> str:
        if not self._pools[policy].ready:
            return "a server"
        if engine.holds_steps:
            return "the measurement of the base"
        return engine.admission.waits_for(policy) if policy in engine.desk.waiting else ""

    def _rate(self, counter: str, now_s: float) -> float:
        meter = self._rates.setdefault(counter, RateMeter())
        return meter.rate(self._totals.get(counter, 0.0), now_s)

    # the end

    def finish(
        self,
        steps: Mapping[str, int],
        versions: Mapping[str, int],
        heldout: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Write `summary.json` and `report.html`; the summary."""
        self._save_counters()
        self._record_groups()
        summary = build_summary(
            self._buffer,
            steps=steps,
            max_age=dict.fromkeys(STREAMS, self._config.streams.max_age),
            heldout=heldout,
            seed=self._config.run.seed,
            config_sha256=digest(self._config),
            versions=versions,
            parts={"renderer": self._renderer.stats()},
        )
        write_summary(self._run.summary, summary)
        write_report(self._run.path)
        return summary
