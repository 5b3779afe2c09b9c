"""What a person should look at, in words and with what to try: from what is known now.

Pure functions over a snapshot and the lines of `metrics.jsonl`; they decide nothing and stop
nothing, and know no game. "Measured" below is over 14 runs of 100 steps of three policies of a
1.4 M-parameter model in fp32, on two cores, that went well (learning rate 1e-5, ages up to 4):
none of them may ring at its end, and none does in the middle but for one growth of a gradient.
"""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.monitor.snapshot import Alarm, PolicyView, Snapshot, StreamView

NAMES = (
    "learner_starved",
    "buffer_full",
    "engine_busy",
    "usable_fell",
    "entropy_collapsed",
    "gradient_grew",
    "sampler_gap",
    "disk_full",
    "clock_jumped",
    "loop_late",
)

Record = Mapping[str, Any]

MAX_STARVED_S = 60.0
MAX_STARVED = 0.5
FEW_KEPT = 0.3
"""Of a stream's recent groups: below, the filters are why a learner waits, not the servers."""
BUSY_STARVED = 0.02
MANY_TAKES = 3.0
"""Ready groups, in steps' worth. Measured: 2 to 2.8 in the median."""
FULL_RECORDS = 8
"""Of the engine, one after another: two minutes. Measured: above `MANY_TAKES` for at most 50 s."""
MAX_ENGINE = 0.9
"""Of a core. Measured: .2 to .5."""
ENGINE_RECORDS = 3
"""Of its costs, one after another: half a minute."""
_BRANCH = "engine/"
"""What the names of the processes that play for the engine begin with, among the busy parts."""
MIN_ROLLOUTS = 400
"""Over which a share is taken: its standard error is at most .025."""
MAX_FALL = 0.15
"""Of the usable share. Measured: it rises, and is at most .015 below its first part in between."""
NUM_STEPS = 10
"""At the start and at the end, over which learner metrics are averaged."""
MIN_ENTROPY_SHARE = 0.25
"""Of the entropy at the start. Measured: .42 to .98 are left."""
MIN_ENTROPY = 0.05
"""In nats. Measured: policies of short, strict replies start at .05 and end at .02, so an absolute
bound alone would ring for a good one; a share alone, for one that starts at 2 nats and settles."""
MAX_GRAD_GROWTH = 3.0
"""Measured: 2.2 at most, but for one run that passed 3.4 half-way and came back."""
MIN_ESS = 0.5
"""Share of the tokens. Measured: .999 at least."""
MAX_K3 = 0.02
"""Nats per token, between sampler and learner. Measured: 5e-4 at most, with data of age 4 in
fp32; bf16 needs room. The largest single ratio is no sign: it is one token's noise."""
MAX_MASKED = 0.25
"""Share of the tokens that the off-policy correction throws away. Measured: 0."""
MAX_GAP_GROWTH = 10.0
MIN_GAP = 1e-3
"""Nats. Measured: 2e-5 at most; in bf16 the gap is larger from the start, hence the growth."""
GAPS = ("probe_gap", "sampler_gap")
MIN_FREE_BYTES = 10**9
MIN_FREE = 0.02
MAX_JUMP_S = 5.0
MAX_LATE_S = 5.0


def alarms(snapshot: Snapshot, history: Sequence[Record]) -> list[Alarm]:
    """What the snapshot and the run's newest records show; empty: nothing.

    "At first" is the start of `history`: of a run that is longer, no longer its own start.
    """
    kinds = _by_kind(history)
    found = _branch_busy(snapshot)
    # Before, the steps are held on purpose; later, the games run out.
    if snapshot.phase == "self-play" and not snapshot.is_paused:
        for policy, view in snapshot.policies.items():
            found += _starved(policy, view, snapshot, kinds["groups"])
            found += _full(policy, view, snapshot, kinds)
    return found + _of_kinds(kinds)


def of_history(history: Sequence[Record]) -> list[Alarm]:
    """Those of `alarms` that need no snapshot: of a run that ended too."""
    return _of_kinds(_by_kind(history))


def _by_kind(history: Sequence[Record]) -> dict[str, list[Record]]:
    """Oldest first, of the kinds that are asked for. Steps that were skipped measured nothing."""
    kinds: dict[str, list[Record]] = {"step": [], "engine": [], "groups": [], "costs": []}
    for row in history:
        rows = kinds.get(row["kind"])
        if rows is not None and not row.get("skipped"):
            rows.append(row)
    return kinds


def _of_kinds(kinds: Mapping[str, Sequence[Record]]) -> list[Alarm]:
    steps: dict[str, list[Record]] = {}
    for row in kinds["step"]:
        steps.setdefault(row["policy"], []).append(row.get("metrics") or {})
    found = _usable_fell(kinds["engine"]) + _engine_busy(kinds["costs"])
    for policy, own in steps.items():
        if len(own) >= 2 * NUM_STEPS:
            early, late = own[:NUM_STEPS], own[-NUM_STEPS:]
            found += _entropy(policy, early, late)
            found += _gradient(policy, early, late)
            found += _gap(policy, early, late)
    return found


# the flow


def _starved(
    policy: str, view: PolicyView, snapshot: Snapshot, groups: Sequence[Record]
) -> list[Alarm]:
    if view.starved_s <= MAX_STARVED_S or (view.starved or 0.0) <= MAX_STARVED:
        return []
    waits = f" (it waits for {view.waits_for})" if view.waits_for else ""
    sentence = f"the {policy}'s learner has had nothing to train on for {view.starved_s:.0f} s"
    advice = _starved_advice(policy, view, snapshot, groups)
    return [Alarm("learner_starved", sentence + waits, advice)]


def _starved_advice(
    policy: str, view: PolicyView, snapshot: Snapshot, groups: Sequence[Record]
) -> str:
    """By the nearest cause: no server, the filters, then where games wait most."""
    if view.waits_for == "a server":
        return "none of its servers is ready: why, is in the run's logs/"
    means = (groups[-1].get("streams") or {}) if groups else {}
    for stream, seen in _streams_of(policy, snapshot).items():
        kept = _number(means.get(stream) or {}, "kept")
        if kept is None or kept >= FEW_KEPT:
            continue
        dropped = seen.dropped
        why = f", most of the others as {max(dropped, key=lambda r: dropped[r])}" if dropped else ""
        return (
            f"the filters keep only {kept:.0%} of the recent groups of {stream}{why}: widen the "
            "filters, or play more games per step"
        )
    stations = snapshot.stations
    name = max(stations, key=lambda one: stations[one].wait_share, default="")
    station = stations.get(name)
    if station is not None and (station.wait_share > 0 or station.queued > 0):
        limit = f" ({station.limit})" if station.limit else ""
        queue = f", where {station.queued} requests wait" if station.queued else ""
        return f"games spend most of their time at {name}{queue}: give it more units{limit}"
    return snapshot.bottleneck.advice or "more games at once, or more servers"


def _full(
    policy: str, view: PolicyView, snapshot: Snapshot, kinds: Mapping[str, Sequence[Record]]
) -> list[Alarm]:
    """Of all its streams together."""
    streams = _streams_of(policy, snapshot)
    taken = [row for row in kinds["step"] if row["policy"] == policy][-NUM_STEPS:]
    take = _mean(taken, "num_groups")
    recent = kinds["engine"][-FULL_RECORDS:]
    if not take or len(recent) < FULL_RECORDS:
        return []
    now_ready = sum(stream.ready for stream in streams.values())
    now = {
        "policies": {policy: {"starved": view.starved}},
        "streams": {name: {"ready": stream.ready} for name, stream in streams.items()},
    }
    for row in (now, *recent):
        starved = _number((row.get("policies") or {}).get(policy) or {}, "starved")
        waiting = row.get("streams") or {}
        ready = sum(_number(waiting.get(name) or {}, "ready") or 0.0 for name in streams)
        if starved is None or starved >= BUSY_STARVED or ready <= MANY_TAKES * take:
            return []
    sentence = (
        f"the {policy}'s learner never waits, and {now_ready} groups wait for it: "
        f"{now_ready / take:.1f} steps' worth"
    )
    advice = "more learner ranks (layout.learners), or fewer servers: what waits only grows old"
    return [Alarm("buffer_full", sentence, advice)]


def _streams_of(policy: str, snapshot: Snapshot) -> dict[str, StreamView]:
    """What trains it."""
    return {name: view for name, view in snapshot.streams.items() if view.policy == policy}


def _engine_busy(rows: Sequence[Record]) -> list[Alarm]:
    recent = rows[-ENGINE_RECORDS:]
    if len(recent) < ENGINE_RECORDS:
        return []
    first, last = recent[0], recent[-1]
    before_s, after_s = _number(first, "engine_cpu_s"), _number(last, "engine_cpu_s")
    if before_s is None or after_s is None:
        return []
    share = (after_s - before_s) / max(1.0, last["t"] - first["t"])  # < 0: another attempt's
    if share <= MAX_ENGINE:
        return []
    sentence = f"the engine's process takes {share:.0%} of a core: servers wait for its requests"
    advice = "let branches of it play, each with servers of its own (layout.branches)"
    return [Alarm("engine_busy", sentence, advice)]


def _branch_busy(snapshot: Snapshot) -> list[Alarm]:
    shares = {
        part.removeprefix(_BRANCH): share
        for part, share in snapshot.busy.items()
        if part.startswith(_BRANCH) and share > MAX_ENGINE
    }
    if not shares:
        return []
    names, most = ", ".join(sorted(shares)), max(shares.values())
    sentence = f"{names}: takes up to {most:.0%} of a core, so servers wait for its requests"
    advice = "give each branch fewer servers, and let there be more (layout.branches)"
    return [Alarm("engine_busy", sentence, advice)]


def _usable_fell(rows: Sequence[Record]) -> list[Alarm]:
    """Of the rollouts of a stream, the share that passes its gate: at first and of late."""
    funnels: dict[str, list[tuple[int, int]]] = {}
    stages: dict[str, tuple[str, str]] = {}
    for row in rows:
        for stream, view in (row.get("streams") or {}).items():
            funnel: Sequence[tuple[str, int]] = view.get("funnel") or ()
            if len(funnel) >= 2:
                first_stage, second_stage = funnel[0], funnel[1]
                funnels.setdefault(stream, []).append((first_stage[1], second_stage[1]))
                stages[stream] = (first_stage[0], second_stage[0])
    found = []
    for stream, points in funnels.items():
        first, last = _part(points), _part(points[::-1])
        # Parts that overlap are too little to tell of a change.
        if first is None or last is None or points[-1][0] - points[0][0] < 2 * MIN_ROLLOUTS:
            continue
        if first - last > MAX_FALL:
            before, after = stages[stream]
            sentence = (
                f"{stream}: only {last:.0%} of what is {before} is {after} ({first:.0%} at first)"
            )
            advice = (
                "look at its newest replies: a reward that pays without them, a learning rate "
                "that is too high, or a max_new_tokens that cuts them off"
            )
            found.append(Alarm("usable_fell", sentence, advice))
    return found


def _part(points: Sequence[tuple[int, int]]) -> float | None:
    """The usable share of the shortest part from the first point on that is long enough."""
    sampled, usable = points[0]
    for later_sampled, later_usable in points:
        if (number := abs(later_sampled - sampled)) >= MIN_ROLLOUTS:
            return abs(later_usable - usable) / number
    return None


# the learners


def _entropy(policy: str, early: Sequence[Record], late: Sequence[Record]) -> list[Alarm]:
    first, last = _mean(early, "entropy"), _mean(late, "entropy")
    if first is None or last is None:
        return []
    if last >= MIN_ENTROPY or last >= MIN_ENTROPY_SHARE * first:
        return []
    sentence = f"{policy}: the entropy fell from {first:.3f} to {last:.3f} nats per token"
    advice = (
        "its replies are becoming one: lower learner.lr, set learner.objective.entropy_bonus, or "
        "pay for difference"
    )
    return [Alarm("entropy_collapsed", sentence, advice)]


def _gradient(policy: str, early: Sequence[Record], late: Sequence[Record]) -> list[Alarm]:
    first, last = _mean(early, "grad_norm"), _mean(late, "grad_norm")
    if not first or last is None or last <= MAX_GRAD_GROWTH * first:
        return []
    sentence = f"{policy}: the gradient norm grew from {first:.2f} to {last:.2f}"
    return [Alarm("gradient_grew", sentence, "lower learner.lr, or learner.grad_clip")]


def _gap(policy: str, early: Sequence[Record], late: Sequence[Record]) -> list[Alarm]:
    """One alarm at most: the measures are of one thing."""
    ess, k3 = _mean(late, "ess"), _mean(late, "k3")
    masked = _mean(late, "masked_fraction")
    sentence = ""
    if ess is not None and ess < MIN_ESS:
        sentence = f"the effective sample size is {ess:.0%} of the tokens"
    elif masked is not None and masked > MAX_MASKED:
        sentence = f"the off-policy correction throws {masked:.0%} of the tokens away"
    elif k3 is not None and k3 > MAX_K3:
        sentence = f"sampler and learner are {k3:.3f} nats per token apart (k3)"
    for name in GAPS:
        first, last = _mean(early, name), _mean(late, name)
        if sentence or first is None or last is None:
            continue
        if last > MIN_GAP and last > MAX_GAP_GROWTH * first:
            sentence = f"{name} grew from {first:.1e} to {last:.1e} nats"
    if not sentence:
        return []
    return [
        Alarm(
            "sampler_gap",
            f"{policy}: {sentence}: its servers' weights, or its data, are far from its own",
            "lower streams.max_age or learner.lr; if probe_gap is large too, the servers compute "
            "otherwise than the learner (dtype, attention, a publication that failed)",
        )
    ]


# the machine


@dataclass(frozen=True, slots=True)
class ClockReading:
    wall_s: float
    monotonic_s: float


def read_clock() -> ClockReading:
    return ClockReading(time.time(), time.monotonic())


def machine_alarms(
    folder: Path,
    last: ClockReading | None,
    every_s: float,
    now: ClockReading | None = None,
) -> tuple[list[Alarm], ClockReading]:
    """Of the machine that the engine runs on; and the reading to pass at the next call. `every_s`:
    so long after `last` this one was due. `folder` is the run's."""
    now = now or read_clock()
    found = _disk(folder)
    if last is not None:
        passed_s = now.monotonic_s - last.monotonic_s
        jump_s = now.wall_s - last.wall_s - passed_s
        if abs(jump_s) > MAX_JUMP_S:
            sentence = f"the wall clock jumped by {jump_s:+.0f} s: times in metrics.jsonl are off"
            advice = "was the machine asleep, or its clock set? Keep it in step (chrony, systemd)"
            found.append(Alarm("clock_jumped", sentence, advice))
        late_s = passed_s - every_s
        if late_s > MAX_LATE_S:
            sentence = f"the engine's event loop is {late_s:.0f} s late"
            advice = (
                "the machine is short of CPU or memory, or was stopped: fewer workers "
                "(render.workers, grader.workers), or a core for rank 0 alone"
            )
            found.append(Alarm("loop_late", sentence, advice))
    return found, now


def _disk(folder: Path) -> list[Alarm]:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:  # the folder is gone, or its file system: others say so louder
        return []
    if usage.free >= max(MIN_FREE_BYTES, MIN_FREE * usage.total):
        return []
    sentence = f"the disk of {folder} is nearly full: {usage.free / 1e9:.1f} GB are free"
    advice = "make room, or keep fewer checkpoints (run.keep_checkpoints)"
    return [Alarm("disk_full", sentence, advice)]


def _mean(rows: Sequence[Record], name: str) -> float | None:
    values = [value for row in rows if (value := _number(row, name)) is not None]
    return sum(values) / len(values) if values else None


def _number(row: Record, name: str) -> float | None:
    """None also for what is not finite: a record in memory still has NaN, one of a file null."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
