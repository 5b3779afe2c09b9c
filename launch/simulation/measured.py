"""Service times from what a run has recorded (`--from-run`).

Costs are running totals in `metrics.jsonl` (kind "costs"), so those of the steady part of a run are
differences. It has to be a run of MM-Zero on embedded servers, one of each policy: they tell what a
decode step of so many rows takes. Processes that are started again count from 0, so what was before
the last restart does not count.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.metrics import read_metrics
from engine.monitor.observed import TIMELINE
from engine.records import Records
from launch.config import RootConfig, policies_of, settings_of
from launch.simulation.service_times import (
    EngineTimes,
    LearnerTimes,
    Play,
    ServerTimes,
    ServiceTimes,
)

Record = dict[str, Any]
Spent = Mapping[str, float]
MAX_GAMES = 500
MAX_SAMPLES = 2000
COUNTERS = (
    "process_cpu_seconds_total",
    "prefills_total",
    "prefill_cpu_seconds_total",
    "decode_steps_total",
    "decode_cpu_seconds_total",
    "decode_rows_squared_total",
    "decode_rows_cpu_seconds_total",
    "generation_tokens_total",
    "num_requests_total",
    "weight_updates_total",
)
"""Of a server; SGLang's tell only some of them."""
_SERVER = "the server"
FIRST_ANSWERS = 6.0
"""Calls of a publication to a server, one after the other; `calibrated` finds what they amount to.
"""


def service_times_of(run: Path, config: RootConfig, warm_up: int) -> ServiceTimes:
    """What work cost after `warm_up` steps of every policy, on a machine with as many cores as this
    one. Raises ConfigError where the run does not tell."""
    if (recipes := list(settings_of(config))) != ["mm_zero"]:
        raise ConfigError(
            f"{run}: it played {' and '.join(recipes)}, and only mm_zero can be simulated; "
            "want a run of mm_zero alone"
        )
    records = read_metrics(run / "metrics.jsonl")
    first, last = _steady(run, records, config, warm_up)
    steps = _steps(run, records, config, first, last)
    spent = _spent(run, config, first, last)
    requests = sum(one["num_requests_total"] for one in spent)
    learners = {
        p: _learner_times([r for r in steps if r["policy"] == p]) for p in policies_of(config)
    }
    publish_s = [learner.publish_s for learner in learners.values()]
    return ServiceTimes(
        servers=_server_times(config, spent, update_s=sum(publish_s) / len(publish_s)),
        learners=learners,
        play=play_of(run),
        engine=EngineTimes(request_s=(last["engine_cpu_s"] - first["engine_cpu_s"]) / requests),
        picture_s=(_picture_s(run, records),),
        cores=os.cpu_count(),
    )


def published_s(run: Path, config: RootConfig, warm_up: int) -> float:
    """Mean seconds of a publication in the same part of the run. Raises ConfigError as
    `service_times_of` does."""
    records = read_metrics(run / "metrics.jsonl")
    first, last = _steady(run, records, config, warm_up)
    steps = _steps(run, records, config, first, last)
    return _mean(r["metrics"]["publish_s"] for r in steps)


def others_cores(run: Path, config: RootConfig, warm_up: int) -> float:
    """Cores that processes of others were busy on in the same part of the run. Render workers, and
    what only starts and watches, count as others. NaN where the system does not tell."""
    records = read_metrics(run / "metrics.jsonl")
    first, last = _steady(run, records, config, warm_up)
    if first.get("machine_busy_s") is None:
        return math.nan
    before_s, after_s = (
        record["machine_busy_s"] - _own_cpu_s(record, records, config) for record in (first, last)
    )
    return float(after_s - before_s) / (last["t"] - first["t"])


def _own_cpu_s(record: Record, records: Sequence[Record], config: RootConfig) -> float:
    """Of engine, servers and learners, until a record of costs."""
    servers_s = sum(row["process_cpu_seconds_total"] for row in record["servers"])
    servers_s /= len(record["servers"]) / len(config.layout.servers)
    done = [r for r in records if r["kind"] == "step" and r["t"] <= record["t"]]
    newest = {frozenset(group.policies): 0.0 for group in config.layout.learners}
    for step in done:
        for policies in newest:
            if step["policy"] in policies:
                newest[policies] = step["metrics"]["process_cpu_s"]
    return float(record["engine_cpu_s"]) + servers_s + sum(newest.values())


def _steady(
    run: Path, records: Sequence[Record], config: RootConfig, warm_up: int
) -> tuple[Record, Record]:
    """The first record of costs after the warm-up, and the last one; both after the last restart,
    which is followed by a warm-up of its own."""
    records, restart = _since_restart(records)
    began: dict[str, int] = {}
    warm: dict[str, float] = {}
    for r in records:
        if r["kind"] == "step":
            policy = r["policy"]
            if r["step"] - began.setdefault(policy, max(0, r["step"] - 1)) >= warm_up:
                warm.setdefault(policy, r["t"])
    is_warm = warm.keys() == set(policies_of(config))
    costs = [
        r
        for r in records
        if r["kind"] == "costs" and is_warm and r["servers"] and r["t"] >= max(warm.values())
    ]
    if len(costs) < 2:
        raise ConfigError(
            f"{run}: no costs of {warm_up} steps on{restart}; want a run on embedded servers that "
            "lasted half a minute longer than that"
        )
    for row in (*costs[0]["servers"], *costs[-1]["servers"]):
        if missing := [name for name in COUNTERS if name not in row]:
            raise ConfigError(
                f"{run}: {row['url']} does not tell {missing[0]}; want a run on embedded servers "
                "(layout.servers.N.kind). SGLang's do not tell what decode steps and prompts take, "
                "and how long each request took, which the run has, is with its queue and whoever "
                "shared its batch. Or give --times FILE, such as one that launch/plan.py works out "
                "from data sheets (plan.py --times FILE)"
            )
    return costs[0], costs[-1]


def _since_restart(records: Sequence[Record]) -> tuple[Sequence[Record], str]:
    """The records since a counter last fell, as all do of a process that is started again; and
    what happened, as the end of a sentence ("": nothing)."""
    first, what = 0, ""
    latest: dict[str, Mapping[str, float]] = {}
    for i, record in enumerate(records):
        for name, counters in _counters(record):
            before = latest.get(name, {})
            if any(value < before.get(key, value) for key, value in counters.items()):
                first, what = i, name
                if not name.startswith(_SERVER):
                    # All processes begin an attempt anew. One that is heard of only later, as a
                    # learner is whose phase comes last, does not make it a later one.
                    what = "it"
                    latest.clear()
            latest[name] = counters
    if not what:
        return records, ""
    left_s = records[-1]["t"] - records[first]["t"]
    return records[first:], f" since {what} was started again, {left_s:.0f} s before its end"


def _counters(record: Record) -> Iterator[tuple[str, Mapping[str, float]]]:
    """What a record tells of processes: (whose they are, totals that never fall in one of them)."""
    if record["kind"] == "step" and "process_cpu_s" in record["metrics"]:
        own = {"process_cpu_s": record["metrics"]["process_cpu_s"]}
        yield f"learner of {record['policy']}", own
    elif record["kind"] == "costs":
        yield "engine", {"engine_cpu_s": record["engine_cpu_s"]}
        for row in record["servers"]:
            counters = {name: row[name] for name in COUNTERS if name in row}
            yield f"{_SERVER} {row['url']} of {row['policy']}", counters


def _steps(
    run: Path, records: Sequence[Record], config: RootConfig, first: Record, last: Record
) -> list[Record]:
    """Those made between two records, without skipped ones. Raises ConfigError where a policy has
    made none."""
    steps = [
        r
        for r in records
        if r["kind"] == "step" and first["t"] <= r["t"] <= last["t"] and not r.get("skipped")
    ]
    if missing := set(policies_of(config)) - {r["policy"] for r in steps}:
        raise ConfigError(
            f"{run}: no step of {', '.join(sorted(missing))} in the {last['t'] - first['t']:.0f} s "
            "of which costs are known; want a longer run"
        )
    return steps


def _spent(run: Path, config: RootConfig, first: Record, last: Record) -> list[Spent]:
    """What each policy's server has spent between two records; each is one process. Raises
    ConfigError where they can't be told apart, or had nothing to do."""
    before = {row["policy"]: row for row in first["servers"]}
    after = {row["policy"]: row for row in last["servers"]}
    wanted = sorted(policies_of(config))
    if sorted(row["policy"] for row in last["servers"]) != wanted or sorted(before) != wanted:
        raise ConfigError(f"{run}: want one server of each policy")
    for policy, row in after.items():
        if row["url"] != (url := before[policy]["url"]):
            raise ConfigError(
                f"{run}: the server of {policy} was {url}, and is {row['url']} at the end; want a "
                "run whose servers stay"
            )
    spent: list[Spent] = [
        {name: row[name] - before[policy][name] for name in COUNTERS}
        for policy, row in after.items()
    ]
    for name in ("num_requests_total", "decode_steps_total"):
        if not any(one[name] for one in spent):
            raise ConfigError(
                f"{run}: its servers had nothing to do ({name} stays) in the "
                f"{last['t'] - first['t']:.0f} s of which costs are known; want a run that played "
                "games meanwhile"
            )
    return spent


def _server_times(config: RootConfig, spent: Sequence[Spent], update_s: float) -> ServerTimes:
    """`update_s`: to load weights takes about what it takes to pack them."""
    sums = {name: sum(one[name] for one in spent) for name in spent[0]}
    slope, intercept = straight_line(
        sums["decode_steps_total"],
        sums["generation_tokens_total"],
        sums["decode_rows_squared_total"],
        sums["decode_cpu_seconds_total"],
        sums["decode_rows_cpu_seconds_total"],
    )
    # A process that serves several policies tells its time at each of their ports.
    ports = len(spent) / len(config.layout.servers)
    process_s = sums["process_cpu_seconds_total"] / ports
    rest_s = process_s - sums["decode_cpu_seconds_total"] - sums["prefill_cpu_seconds_total"]
    rest_s -= update_s * sums["weight_updates_total"]
    return ServerTimes(
        step_s=intercept,
        row_s=slope,
        prompt_s=sums["prefill_cpu_seconds_total"] / max(1.0, sums["prefills_total"]),
        request_s=max(0.0, rest_s) / sums["num_requests_total"],
        update_s=update_s,
    )


def _learner_times(steps: Sequence[Record]) -> LearnerTimes:
    """Of one policy. `step_cpu_s` has what is prepared meanwhile, for the policy that follows."""
    rows = [(r["metrics"]["tokens"], r["metrics"]["step_cpu_s"]) for r in steps]
    slope, intercept = straight_line(
        len(rows),
        sum(n for n, _ in rows),
        sum(n * n for n, _ in rows),
        sum(t for _, t in rows),
        sum(n * t for n, t in rows),
    )
    publish_s = _mean(r["metrics"]["publish_cpu_s"] for r in steps)
    return LearnerTimes(step_s=intercept, token_s=slope, publish_s=publish_s, answers=FIRST_ANSWERS)


def straight_line(n: float, x: float, xx: float, y: float, xy: float) -> tuple[float, float]:
    """(slope, intercept) by least squares from the number of points and their sums; neither is
    below 0: where the best line has one that is, the other alone is fitted."""
    spread = n * xx - x * x
    slope = (n * xy - x * y) / spread if spread > 0 else 0.0
    intercept = (y - slope * x) / n
    if slope < 0:
        return 0.0, y / n
    return (slope, intercept) if intercept >= 0 else (xy / xx, 0.0)


def _picture_s(run: Path, records: Sequence[Record]) -> float:
    """Processor time of one picture, those that were kept counted in: they take none."""
    told = [r["parts"]["renderer"] for r in records if r["kind"] == "engine"]
    if not told:
        raise ConfigError(f"{run}: no record of what its renderer did; want a longer run")
    stats = told[-1]
    return float(stats["cpu_s"]) / max(1, stats["rendered"] + sum(stats["invalid"].values()))


def play_of(run: Path) -> Play:
    """What the roles said, in games that are evenly spread over a run."""
    records = Records.open(run / "run.db")
    try:
        games = [game["notes"] for game in records.games_evenly(MAX_GAMES)]
    finally:
        records.close()
    tokens: dict[str, list[int]] = {}
    for notes in games:
        for role, _, _, number, *_ in notes[TIMELINE]["samples"]:
            tokens.setdefault(role, []).append(number)
    proposals = [proposal for notes in games for proposal in notes["proposals"]]
    drawings = [one for proposal in proposals for one in proposal.get("drawings", ())]
    with_svg = [one for one in drawings if one["svg"]]
    solved = [one for one in drawings if "picture" in one]
    if not tokens or not solved:
        raise ConfigError(f"{run}: no game with a picture to learn from")
    answers = [one[level] for one in solved for level in ("easy", "hard")]
    return Play(
        tokens={role: _some(lengths) for role, lengths in tokens.items()},
        parsed=sum("drawings" in proposal for proposal in proposals) / len(proposals),
        drawn=len(with_svg) / len(drawings),
        rendered=len(solved) / len(with_svg),
        boxed=_mean(sum(votes["counts"].values()) / len(votes["replies"]) for votes in answers),
        easy=_some([one["easy"]["share"] for one in solved]),
        hard=_some([one["hard"]["share"] for one in solved]),
    )


def _some(values: Sequence[Any]) -> tuple[Any, ...]:
    """At most `MAX_SAMPLES`, evenly spread."""
    every = max(1, -(-len(values) // MAX_SAMPLES))
    return tuple(values[::every])


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
