"""What a run's watcher tells: its parts by name, and what sinks could not take."""

import asyncio
import io
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from engine.buffer import Buffer, Leased
from engine.metrics import read_metrics
from engine.monitor import alarms
from engine.monitor.prometheus import exposition
from engine.monitor.snapshot import Snapshot
from engine.monitor.terminal import view
from engine.routing import ServerPool
from engine.rundir import RunDir
from engine.wire import encode_group
from launch import signs, watching
from launch.config import load_root
from launch.snapshots import Snapshots
from launch.watching import MEANS_EVERY_S, NUM_SIGNED, RECORD_EVERY_S, WINDOW, Watcher
from tests.engine.make_groups import make_group
from tests.launch.staged import CONFIG, ROLES, SlowRenderer

TWO_GROUPS = (
    "layout.learners=[{ranks: [0], policies: [proposer, coder]}, {ranks: [2], policies: [solver]}]"
)


def watched(
    folder: Path,
    overrides: list[str],
    act: Callable[[Watcher], None] = lambda watcher: None,
    looks: Sequence[bool] = (True, True),
    open_streams: Collection[str] = ROLES,
) -> list[Snapshot]:
    """Some seconds of an engine that does nothing but wait, after something has happened to its
    watcher; `looks`: whether somebody watches in each."""
    config = load_root(CONFIG, [f"run.root={folder}", "run.name=watched", *overrides])
    engine = SimpleNamespace(
        phase="self-play", holds_steps=False, is_paused=False, games=SimpleNamespace(in_flight={}),
        desk=SimpleNamespace(steps={}, versions={}, waiting=frozenset(ROLES)),
        admission=SimpleNamespace(
            waits_for=lambda policy: "games", is_open=open_streams.__contains__
        ),
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
            seconds = iter(looks)
            watcher.views.append(lambda look: shown.append(look()) if next(seconds) else None)
            act(watcher)
            for _ in looks:
                await watcher.watch(engine)  # type: ignore[arg-type]
        buffer.close()

    asyncio.run(asyncio.wait_for(scene(), 20))
    return shown


def a_step(watcher: Watcher, policy: str, busy_s: float, *, skipped: bool = False) -> None:
    batch = [Leased(1, 0, 0, *encode_group(make_group(stream=policy)))]
    message = {
        "step": 1, "skipped": skipped, "reason": "", "metrics": {"tokens": 5},
        "busy_s": busy_s, "alive_s": 10.0,
    }  # fmt: skip
    watcher.on_step(policy, message, batch)


def steps_of_all(watcher: Watcher) -> None:
    for role, busy_s in zip(ROLES, (1.0, 2.0, 7.0), strict=True):
        a_step(watcher, role, busy_s)


def test_each_learner_group_works_under_a_name_of_its_own(tmp_path: Path) -> None:
    last = watched(tmp_path, [TWO_GROUPS], steps_of_all)[-1]
    names = {"learner/proposer+coder", "learner/solver"}
    assert {*last.busy} == {*names, "renderer", "engine"}
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


def test_what_a_recipe_says_of_its_games_ends_no_run(tmp_path: Path) -> None:
    def broken(games: Sequence[Any]) -> dict[str, dict[str, float]]:
        return {"share": {"x": 1 / len(games)}}

    def act(watcher: Watcher) -> None:
        watcher._recipes = {n: replace(r, curves=broken) for n, r in watcher._recipes.items()}
        watcher._record_groups(0)

    watched(tmp_path, [], act)
    kinds = [record["kind"] for record in read_metrics(RunDir(tmp_path / "watched").metrics)]
    assert "groups" not in kinds


def test_a_policy_that_has_finished_does_not_starve(tmp_path: Path) -> None:
    shared = ["layout.learners=[{ranks: [0], policies: [proposer, coder, solver]}]"]
    (last,) = watched(tmp_path, shared, looks=[True], open_streams=("coder",))
    assert last.policies["coder"].starved == 1.0
    assert last.policies["solver"].starved is None
    assert last.policies["solver"].starved_s == 0.0


def test_a_skipped_step_trains_no_tokens(tmp_path: Path) -> None:
    def act(watcher: Watcher) -> None:
        a_step(watcher, "solver", 1.0)
        a_step(watcher, "solver", 1.0, skipped=True)

    watched(tmp_path, [], act)
    buffer = Buffer.open(RunDir(tmp_path / "watched").database)
    assert buffer.counters()["trained/solver"] == 5
    buffer.close()


def test_who_waits_for_its_turn_does_not_starve(tmp_path: Path) -> None:
    last = watched(tmp_path, [TWO_GROUPS], open_streams=("coder",))[-1]
    assert last.policies["coder"].starved == 1.0
    assert last.policies["solver"].starved is None
    assert last.policies["solver"].starved_s == 0.0


def test_the_only_learner_group_is_the_learner(tmp_path: Path) -> None:
    assert {*watched(tmp_path, [], steps_of_all)[-1].busy} == {"learner", "renderer", "engine"}


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


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Grows with each snapshot that is taken."""
    found: list[float] = []
    take = Snapshots.take

    def counted(self: Snapshots, *given: Any) -> Snapshot:
        found.append(time.monotonic())
        return take(self, *given)

    monkeypatch.setattr(Snapshots, "take", counted)
    return found


def test_while_nobody_watches_snapshots_are_taken_for_records_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: list[float]
) -> None:
    watched(tmp_path, [], looks=[False] * 20)
    assert len(taken) == 1, "for the first line on the terminal"
    monkeypatch.setattr(watching, "RECORD_EVERY_S", 0.0)
    taken.clear()
    watched(tmp_path, [], looks=[False] * 20)
    records = read_metrics(RunDir(tmp_path / "watched").metrics)
    assert len(taken) == 20 == sum(record["kind"] == "engine" for record in records)


def test_a_plain_line_is_nobody_who_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "RECORD_EVERY_S", 0.0)
    for is_looked_at in (False, True):
        kept: list[Watcher] = []
        watched(tmp_path, [], kept.append, looks=[is_looked_at] * 3)
        assert kept[0]._is_watched is is_looked_at, "so servers are asked the less often"
    assert capsys.readouterr().out.count("games 0 done") == 6


def test_one_snapshot_serves_all_who_want_one_in_the_same_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: list[float]
) -> None:
    monkeypatch.setattr(watching, "RECORD_EVERY_S", 0.0)
    again: list[Snapshot] = []
    shown = watched(
        tmp_path,
        [],
        lambda watcher: watcher.views.append(lambda look: again.append(look())),
        looks=[True] * 3,
    )
    assert len(taken) == 3
    assert all(one is other for one, other in zip(shown, again, strict=True))


def test_learners_are_looked_at_every_second_whoever_watches(tmp_path: Path) -> None:
    busy = ["layout.learners=[{ranks: [0], policies: [proposer, coder, solver]}]"]

    def act(watcher: Watcher) -> None:
        watcher._snapshots._starved["solver"].extend([False] * 6)

    (last,) = watched(tmp_path, busy, act, looks=[*[False] * 5, True])
    assert last.policies["solver"].starved == 0.5
    assert last.policies["solver"].starved_s > 0


def test_means_are_recorded_less_often_than_snapshots(tmp_path: Path) -> None:
    def age(watcher: Watcher) -> None:
        watcher._tally._started_s -= RECORD_EVERY_S

    def act(watcher: Watcher) -> None:
        watcher.views.append(lambda look: age(watcher))

    watched(tmp_path, [], act, looks=[False] * 21)
    kinds = [record["kind"] for record in read_metrics(RunDir(tmp_path / "watched").metrics)]
    assert kinds.count("engine") == kinds.count("costs") == 20
    assert kinds.count("groups") == 20 * RECORD_EVERY_S // MEANS_EVERY_S


def test_the_truth_is_asked_of_some_games_only_once_there_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def signs_of(proposals: Any, num_pictures: int) -> dict[str, list[float]]:
        asked.append(proposals)
        return {name: [1.0] for name in watching.SIGNS}

    monkeypatch.setattr(watching, "game_signs", signs_of)
    numbers = []

    def act(watcher: Watcher) -> None:
        for games in (0, 7, *[100] * 6):
            for game in range(games):
                watcher.on_note("proposals", [{"text": str(game)}])
            watcher._record_groups(games)
            numbers.append(len(asked))

    watched(tmp_path, [], act, looks=())
    fast = 4 * NUM_SIGNED
    quick = [7 + fast * time for time in range(6)]
    assert numbers == [0, *quick, quick[-1] + NUM_SIGNED]
    assert quick[-2] < WINDOW <= quick[-1]
    assert asked[-1] == [{"text": "99"}], "the newest ones"
