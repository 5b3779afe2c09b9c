import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.monitor import alarms as module
from engine.monitor.alarms import NAMES, ClockReading, alarms, machine_alarms, of_history
from engine.monitor.history import FIRST, MAX_BETWEEN, NEWEST, History, essence
from engine.monitor.snapshot import Bottleneck, PolicyView, Snapshot, Station, StreamView

Rows = list[dict[str, Any]]
GOOD = {"grad_norm": 0.4, "ess": 0.999, "k3": 1e-4, "masked_fraction": 0.0, "entropy": 0.5,
        "probe_gap": 1e-5}  # fmt: skip


def make_steps(number: int = 40, **late: float | None) -> Rows:
    """Of a coder; the second half with the metrics of `late`."""
    return [
        {"kind": "step", "policy": "coder", "step": step, "num_groups": 10,
         "metrics": GOOD | (late if step > number // 2 else {})}
        for step in range(1, number + 1)
    ]  # fmt: skip


def make_engine(
    number: int = 20, ready: int = 20, starved: float | None = 0.3, usable: float = 0.9
) -> Rows:
    """A coder draws 100 a record; of the second half the share `usable` is rendered, of the first
    90 in 100."""
    rows, rendered = [], 0
    for record in range(1, number + 1):
        rendered += round(100 * (usable if record > number // 2 else 0.9))
        funnel = [["drawn", 100 * record], ["rendered", rendered], ["groups", 0]]
        rows.append(
            {"kind": "engine", "policies": {"coder": {"starved": starved}},
             "streams": {"coder": {"ready": ready, "funnel": funnel}, "other": {}}}
        )  # fmt: skip
    return rows


def make_groups(kept: float) -> dict[str, Any]:
    return {"kind": "groups", "streams": {"coder": {"kept": kept, "num_groups": 200}}}


def make_snapshot(view: PolicyView | None = None, **more: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "name": "x", "phase": "self-play", "elapsed_s": 1.0, "games": {},
        "streams": {
            "coder": StreamView(policy="coder", ready=20, dropped={"uniform": 3, "late": 9})
        },
        "policies": {"coder": view or PolicyView(step=5, total_steps=9, starved=0.3)},
    }  # fmt: skip
    return Snapshot(**fields | more)


def names(found: Any) -> list[str]:
    assert all(one.name in NAMES and one.sentence and one.advice for one in found)
    return [one.name for one in found]


STARVED = PolicyView(
    step=5, total_steps=9, starved=0.8, starved_s=84.0, waits_for="coder: 1/4 games"
)


def test_a_learner_that_has_nothing_to_train_on() -> None:
    (alarm,) = alarms(make_snapshot(STARVED), [])
    assert alarm.name == "learner_starved"
    assert "the coder's learner has had nothing to train on for 84 s" in alarm.sentence
    assert "coder: 1/4 games" in alarm.sentence
    for near in (replace(STARVED, starved_s=60.0), replace(STARVED, starved=0.5),
                 replace(STARVED, starved=None)):  # fmt: skip
        assert alarms(make_snapshot(near), []) == []
    assert alarms(make_snapshot(STARVED, phase="measuring the base"), []) == []
    assert alarms(make_snapshot(STARVED, is_paused=True), []) == []


def test_the_advice_is_by_what_it_waits_for() -> None:
    stations = {
        "renderer": Station(kind="renderer", units=1, wait_share=0.1),
        "coder": Station(
            kind="servers", units=1, wait_share=0.7, queued=31, limit="layout.servers"
        ),
    }
    snapshot = make_snapshot(STARVED, stations=stations)

    def advice(snapshot: Snapshot, *history: dict[str, Any]) -> str:
        return alarms(snapshot, history)[0].advice

    assert "at coder, where 31 requests wait" in advice(snapshot)
    assert "layout.servers" in advice(snapshot, make_groups(kept=0.9))
    filters = advice(snapshot, make_groups(kept=0.9), make_groups(kept=0.1))
    assert "keep only 10%" in filters
    assert "as late" in filters
    no_server = make_snapshot(replace(STARVED, waits_for="a server"), stations=stations)
    assert "none of its servers" in advice(no_server, make_groups(kept=0.1))
    elsewhere = make_snapshot(STARVED, bottleneck=Bottleneck("x", "y", "do z"))
    assert advice(elsewhere) == "do z"


@pytest.mark.parametrize(
    ("starved", "ready", "number", "rings"),
    [
        (0.01, 31, 20, True),
        (0.02, 31, 20, False),
        (None, 31, 20, False),
        (0.01, 30, 20, False),
        (0.01, 31, 7, False),
    ],
)
def test_a_learner_that_never_waits(
    starved: float | None, ready: int, number: int, rings: bool
) -> None:
    history = make_steps() + make_engine(number, ready, starved)
    view = PolicyView(step=5, total_steps=9, starved=starved)
    snapshot = make_snapshot(view, streams={"coder": StreamView(policy="coder", ready=ready)})
    assert names(alarms(snapshot, history)) == ["buffer_full"] * rings
    now_empty = replace(snapshot, streams={"coder": StreamView(policy="coder", ready=1)})
    assert alarms(now_empty, history) == []


def test_fewer_rollouts_pass_their_gate() -> None:
    (alarm,) = of_history(make_engine(usable=0.61))
    assert alarm.name == "usable_fell"
    assert alarm.sentence == "coder: only 61% of what is drawn is rendered (90% at first)"
    assert of_history(make_engine(usable=0.76)) == []
    assert of_history(make_engine(number=8, usable=0.1)) == [], "too few to tell"


def make_costs(*shares: float) -> Rows:
    """Of the engine's process, of a core, in each fifteen seconds; -1: another attempt begins."""
    rows, spent_s = [{"kind": "costs", "t": 0.0, "engine_cpu_s": 5.0}], 5.0
    for number, share in enumerate(shares, start=1):
        spent_s = 0.0 if share < 0 else spent_s + 15 * share
        rows.append({"kind": "costs", "t": 15.0 * number, "engine_cpu_s": spent_s})
    return rows


def test_an_engine_that_can_do_no_more() -> None:
    (alarm,) = of_history(make_costs(0.1, 0.1, 0.95, 0.99, 0.97))
    assert alarm.name == "engine_busy"
    assert "takes 98% of a core" in alarm.sentence
    assert "layout.branches" in alarm.advice
    assert of_history(make_costs(0.99, 0.99, 0.99, 0.6)) == []
    assert of_history(make_costs(0.99)) == [], "too few to tell"
    assert of_history(make_costs(0.99, 0.99, 0.99, -1, 0.99)) == [], "it began anew"


def test_a_learner_of_several_streams_never_waits() -> None:
    history = make_steps() + make_engine(20, 16, 0.01)
    for row in history:
        if row["kind"] == "engine":
            row["streams"] = {"clue": {"ready": 16}, "vote": {"ready": 15}, "other": {"ready": 99}}
    streams = {
        "clue": StreamView(policy="coder", ready=16),
        "vote": StreamView(policy="coder", ready=15),
        "other": StreamView(policy="solver", ready=99),
    }
    view = PolicyView(step=5, total_steps=9, starved=0.01)
    (alarm,) = alarms(make_snapshot(view, streams=streams), history)
    assert "31 groups wait for it: 3.1 steps' worth" in alarm.sentence
    few = {**streams, "vote": StreamView(policy="coder", ready=14)}
    assert alarms(make_snapshot(view, streams=few), history) == []


def test_branches_that_can_do_no_more() -> None:
    busy = {"engine": 0.99, "engine/branch1": 0.4, "engine/branch2": 0.95, "engine/branch3": 0.97}
    (alarm,) = alarms(make_snapshot(busy=busy), [])
    assert alarm.name == "engine_busy"
    assert alarm.sentence.startswith("branch2, branch3: takes up to 97% of a core")
    assert alarms(make_snapshot(busy={"engine/branch1": 0.9}), []) == []


@pytest.mark.parametrize(
    ("late", "name"),
    [
        ({"entropy": 0.04}, "entropy_collapsed"),
        ({"entropy": 0.06}, None),
        ({"grad_norm": 1.21}, "gradient_grew"),
        ({"grad_norm": 1.19}, None),
        ({"ess": 0.49}, "sampler_gap"),
        ({"ess": 0.51}, None),
        ({"k3": 0.021}, "sampler_gap"),
        ({"k3": 0.019}, None),
        ({"masked_fraction": 0.26}, "sampler_gap"),
        ({"masked_fraction": 0.24}, None),
        ({"probe_gap": 1.1e-3}, "sampler_gap"),
        ({"probe_gap": 0.9e-3}, None),
        ({"ess": 0.3, "k3": 1.0, "masked_fraction": 0.9}, "sampler_gap"),
        ({"grad_norm": float("nan"), "entropy": None, "ess": None}, None),
    ],
)
def test_learner_metrics(late: dict[str, float | None], name: str | None) -> None:
    assert names(of_history(make_steps(**late))) == ([name] if name else [])
    assert of_history(make_steps(19, **late)) == [], "too few steps to tell"
    skipped = [row | {"skipped": True} for row in make_steps(**late)]
    assert of_history(skipped) == []


def test_a_low_entropy_from_the_start_is_no_collapse() -> None:
    steps = make_steps(entropy=0.02)
    for row in steps[:20]:
        row["metrics"] = row["metrics"] | {"entropy": 0.05}
    assert of_history(steps) == []


def test_a_gap_that_was_there_from_the_start_is_the_precision_s() -> None:
    steps = [row | {"metrics": GOOD | {"probe_gap": 0.03}} for row in make_steps()]
    assert of_history(steps) == []


@pytest.mark.parametrize("seed", range(20))
def test_good_histories_ring_nothing(seed: int) -> None:
    """With noise as measured: entropy falls to .45, the gradient grows to 1.8, the gate opens."""
    rng = random.Random(seed)
    number = rng.choice([0, 1, 15, 20, 100, 400])
    history: Rows = []
    rendered = 0
    for step in range(1, number + 1):
        done = step / number
        metrics = {
            "entropy": 0.15 * (1 - 0.55 * done) * rng.uniform(0.7, 1.3),
            "grad_norm": 0.45 * (1 + 0.8 * done) * rng.uniform(0.5, 1.5),
            "ess": rng.uniform(0.998, 1.0), "k3": rng.uniform(0, 5e-4),
            "probe_gap": rng.uniform(0, 2e-5), "masked_fraction": 0.0,
        }  # fmt: skip
        history.append({"kind": "step", "policy": "coder", "num_groups": rng.randint(6, 14),
                        "metrics": metrics})  # fmt: skip
        rendered += sum(rng.random() < 0.85 + 0.1 * done for _ in range(40))
        funnel = (("drawn", 40 * step), ("rendered", rendered))
        history += [
            {"kind": "engine",
             "streams": {"coder": {"ready": rng.randint(0, 30), "funnel": funnel}},
             "policies": {"coder": {"starved": rng.uniform(0, 0.4)}}},
            {"kind": "event", "level": "info", "text": "x"},
        ]  # fmt: skip
    kept = History()
    for row in history:
        kept.add({"t": 0.0, **row})
    assert alarms(make_snapshot(), kept.records()) == []
    assert len(kept.records()) <= 3 * (FIRST + NEWEST) + MAX_BETWEEN


@pytest.mark.parametrize(
    "history",
    [
        make_steps(entropy=0.04, grad_norm=9.0),
        make_steps(ess=0.3, probe_gap=1.0),
        make_steps(sampler_gap=1.0, masked_fraction=0.9),
        make_engine(usable=0.1) + make_costs(0.99, 0.99, 0.99),
        make_engine(ready=40, starved=0.0) + make_steps() + [make_groups(0.1)],
        [{"kind": "step", "policy": "coder"}, {"kind": "engine"}, {"kind": "costs"}],
    ],
)
def test_the_essence_of_records_rings_what_they_ring(history: Rows) -> None:
    history = [{"t": 0.0, "loss": 1.0, "parts": {}, **row} for row in history]
    kept = [essence(row) for row in history]
    for view in (None, STARVED, replace(STARVED, starved=0.0)):
        assert alarms(make_snapshot(view), kept) == alarms(make_snapshot(view), history)
    assert of_history(kept) == of_history(history)
    assert all("loss" not in row or row["kind"] == "groups" for row in kept)


@pytest.mark.parametrize("per_record", [2, 10, 100])
def test_the_end_of_a_long_run_is_seen_however_slow_its_streams_are(per_record: int) -> None:
    kept = History()
    for row in slow_engine(number=1600, per_record=per_record, last=1000 // per_record):
        kept.add(row)
    (alarm,) = of_history(kept.records())
    assert alarm.name == "usable_fell"
    assert len(kept.records()) <= FIRST + MAX_BETWEEN + NEWEST
    assert of_history([*slow_engine(number=1600, per_record=per_record, last=0)]) == []


def slow_engine(*, number: int, per_record: int, last: int) -> Iterator[dict[str, Any]]:
    """So many rollouts a record; nine in ten are rendered, of the `last` records' half."""
    drawn, rendered = 0, 0.0
    for record in range(number):
        drawn += per_record
        rendered += per_record * (0.9 if record < number - last else 0.5)
        funnel = [["drawn", drawn], ["rendered", int(rendered)]]
        yield {"kind": "engine", "t": 15.0 * record, "streams": {"coder": {"funnel": funnel}}}


def test_a_history_has_the_first_records_and_the_newest_of_each_kind_and_policy() -> None:
    history = History()
    for t in range(1000):
        history.add({"kind": "groups", "t": t})
        for policy in ("coder", "solver"):
            history.add({"kind": "step", "policy": policy, "t": t, "step": t, "metrics": {}})
    kept = [*range(FIRST), *range(1000 - NEWEST, 1000)]
    rows = history.records()
    assert [row["t"] for row in rows if row["kind"] == "groups"] == kept
    for policy in ("coder", "solver"):
        assert [row["step"] for row in rows if row.get("policy") == policy] == kept
    assert len(rows) == 3 * len(kept)
    few = History()
    few.add({"kind": "dev", "t": 0.0, "means": {}})
    assert few.records() == ({"kind": "dev", "t": 0.0, "means": {}},)


def test_records_of_older_versions_are_no_error() -> None:
    history: Rows = [{"kind": "engine"}, {"kind": "groups"}, {"kind": "engine", "streams": None}]
    history += [{"kind": "step", "policy": "coder", "metrics": None}] * 30
    assert alarms(make_snapshot(STARVED), history * 10) != []
    assert of_history(history) == []


def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(free: float, total: float) -> list[str]:
        usage = SimpleNamespace(free=free, total=total)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
        return names(machine_alarms(tmp_path, None, 10)[0])

    assert of(0.9e9, 10e9) == of(19e9, 1e12) == ["disk_full"]
    assert of(1.1e9, 10e9) == of(21e9, 1e12) == []


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert machine_alarms(tmp_path / "gone", None, 10)[0] == []


@pytest.mark.parametrize(
    ("wall_s", "monotonic_s", "expected"),
    [
        (10, 10, []),
        (14, 10, []),
        (16, 10, ["clock_jumped"]),
        (4, 10, ["clock_jumped"]),
        (14, 14, []),
        (16, 16, ["loop_late"]),
        (60, 20, ["clock_jumped", "loop_late"]),
    ],
)
def test_clocks(
    wall_s: float,
    monotonic_s: float,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_disk", lambda folder: [])
    last = ClockReading(1000.0, 50.0)
    now = ClockReading(1000.0 + wall_s, 50.0 + monotonic_s)
    found, reading = machine_alarms(tmp_path, last, 10, now)
    assert names(found) == expected
    assert reading == now
    assert machine_alarms(tmp_path, None, 10)[0] == [], "the first reading has nothing before it"
    longer = ClockReading(now.wall_s + 20, now.monotonic_s + 20)
    assert names(machine_alarms(tmp_path, last, 30, longer)[0]) == expected
