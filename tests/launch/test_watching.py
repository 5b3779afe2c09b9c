"""What a run's watcher tells: its parts by name, and what sinks could not take."""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from engine.buffer import Buffer, Leased
from engine.monitor import alarms
from engine.monitor.prometheus import exposition
from engine.monitor.snapshot import Snapshot
from engine.monitor.terminal import view
from engine.routing import ServerPool
from engine.rundir import RunDir
from launch import signs, watching
from launch.config import load_root
from launch.watching import Watcher
from tests.engine.make_groups import make_group
from tests.launch.staged import CONFIG, ROLES, SlowRenderer

TWO_GROUPS = (
    "layout.learners=[{ranks: [0], policies: [proposer, coder]}, {ranks: [2], policies: [solver]}]"
)


def watched(
    folder: Path, overrides: list[str], act: Callable[[Watcher], None] = lambda watcher: None
) -> list[Snapshot]:
    """Two looks at an engine that does nothing, after something has happened to its watcher."""
    config = load_root(CONFIG, [f"run.root={folder}", "run.name=watched", *overrides])
    engine = SimpleNamespace(
        phase="self-play", holds_steps=False, is_paused=False, games=SimpleNamespace(in_flight={}),
        desk=SimpleNamespace(steps={}, versions={}, waiting=frozenset()),
        admission=SimpleNamespace(waits_for=lambda policy: "games", is_open=lambda stream: True),
    )  # fmt: skip
    shown: list[Snapshot] = []

    async def scene() -> None:
        run = RunDir(folder / "watched")
        run.create()
        buffer = Buffer.open(run.database)
        pools = {role: ServerPool(role, max_concurrency=1) for role in ROLES}
        renderer: Any = SlowRenderer(0.0)
        session: Any = None
        with Watcher(config, run, buffer, pools, renderer, session) as watcher:
            watcher.views.append(shown.append)
            act(watcher)
            for _ in range(2):
                await watcher.watch(engine)  # type: ignore[arg-type]
        buffer.close()

    asyncio.run(asyncio.wait_for(scene(), 20))
    return shown


def a_step(watcher: Watcher, policy: str, busy_s: float) -> None:
    batch = [Leased(1, 0, 0, make_group(stream=policy))]
    message = {
        "step": 1, "skipped": False, "reason": "", "metrics": {"tokens": 5},
        "busy_s": busy_s, "alive_s": 10.0,
    }  # fmt: skip
    watcher.on_step(policy, message, batch)


def steps_of_all(watcher: Watcher) -> None:
    for role, busy_s in zip(ROLES, (1.0, 2.0, 7.0), strict=True):
        a_step(watcher, role, busy_s)


def test_each_learner_group_works_under_a_name_of_its_own(tmp_path: Path) -> None:
    last = watched(tmp_path, [TWO_GROUPS], steps_of_all)[-1]
    names = {"learner/proposer+coder", "learner/solver"}
    assert {*last.busy} == {*names, "renderer"}
    out = io.StringIO()
    Console(file=out, width=200).print(view(last, width=200))
    text = exposition(last).decode()
    for name in names:
        assert name in out.getvalue()
        assert f'streamzero_part_busy_ratio{{part="{name}",run="watched"}}' in text
    buffer = Buffer.open(RunDir(tmp_path / "watched").database)
    assert buffer.counters()["busy_s/learner/proposer+coder"] == 2.0
    assert buffer.counters()["busy_s/learner/solver"] == 7.0
    buffer.close()


def test_the_only_learner_group_is_the_learner(tmp_path: Path) -> None:
    assert {*watched(tmp_path, [], steps_of_all)[-1].busy} == {"learner", "renderer"}


def test_what_sinks_could_not_take_is_a_metric_and_one_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SimpleNamespace(
        dropped=3, is_used=True, write=lambda kind, record: None, close=lambda timeout_s: True
    )
    monkeypatch.setattr(watching, "open_sinks", lambda *_: slow)
    last = watched(tmp_path, [])[-1]
    assert [text for _, _, text in last.events if "sinks" in text] == [last.events[-1][2]]
    told = 'streamzero_part_value{name="dropped",part="sinks",run="watched"} 3.0'
    assert told in exposition(last).decode()


def test_without_sinks_nothing_is_said_of_them(tmp_path: Path) -> None:
    assert "sinks" not in watched(tmp_path, [])[-1].parts


def test_every_alarm_that_there_is_has_a_metric(tmp_path: Path) -> None:
    text = exposition(watched(tmp_path, [])[-1]).decode()
    for name in (*alarms.NAMES, *signs.NAMES):
        assert f'streamzero_alarm{{name="{name}",run="watched"}}' in text
