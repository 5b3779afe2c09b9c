"""When a step is evaluated beside play, and what becomes of an evaluation that fails."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import launch.live_evals as live
from engine.errors import ConfigError
from engine.rundir import RunDir, make_key
from engine.tasks import Signal
from evals.config import LiveEvalsConfig
from launch.async_selfplay import CONFIGS
from launch.config import EVALUATED, followers, load_root
from launch.live_evals import LiveEvals
from launch.preflight import check_before_start
from launch.simulation.clock import run_virtually

COMMAND = """
import json, os, sys
from pathlib import Path
given = sys.argv[1:]
def after(name): return given[given.index(name) + 1]
out = Path(after("--out"))
out.mkdir(parents=True, exist_ok=True)
calls = out / "calls"
number = len(calls.read_text().splitlines()) if calls.exists() else 0
with calls.open("a") as file:
    print(json.dumps([given, os.environ["EVAL_API_KEY"]]), file=file)
status = json.loads((Path(__file__).parent / "statuses.json").read_text())
code = status[min(number, len(status) - 1)]
if code == 0 or code == 1:
    folder = out / after("--regime")
    folder.mkdir(exist_ok=True)
    score = {"estimate": 0.5, "low": 0.4, "high": 0.6, "se": 0.05, "how": "wilson"}
    measures = {"headline": "accuracy", "aggregates": {"accuracy": score}, "scored": 9 - code,
                "missing": code}
    told = {"benchmarks": {"chartqa": {"title": "ChartQA", "measures": measures}}, "overall": {},
            "model": after("--name")}
    (folder / "results.json").write_text(json.dumps(told))
print("so it ended:", code)
sys.exit(code)
"""


class Scene:
    """A run's servers and clock without the run; the command is a script that obeys."""

    def __init__(self, folder: Path, *statuses: int, **settings: Any) -> None:
        self.run = RunDir(folder / "mine")
        self.run.create()
        make_key(self.run)
        script = folder / "evaluate.py"
        script.write_text(COMMAND)
        (folder / "statuses.json").write_text(json.dumps(statuses or [0]))
        live._COMMAND = script
        self.cfg = LiveEvalsConfig(benchmarks=("chartqa",), data=str(folder), **settings)
        self.changes = Signal()
        self.offset = 100
        self.steps: dict[str, int] = {"http://a": 0}
        self.records: list[Mapping[str, Any]] = []
        self.events: list[tuple[str, str]] = []

    def made(self, total_steps: int) -> LiveEvals:
        return LiveEvals(
            self.cfg,
            self.run,
            base=Path("base"),
            cache=self.run.path / "cache",
            total_steps=total_steps,
            served=lambda: {url: step + self.offset for url, step in self.steps.items()},
            step_of=lambda version: version - self.offset,
            changes=self.changes,
            record=self._record,
            on_event=lambda *event: self.events.append(event),
        )

    def _record(self, kind: str, record: Mapping[str, Any]) -> None:
        assert kind == live.RECORD
        self.records.append(record)

    async def to(self, step: int) -> None:
        """Serve `step`, and wait for its point where one is due."""
        self.steps = dict.fromkeys(self.steps, step)
        before = len(self.records)
        self.changes.notify()
        async with asyncio.timeout(WAIT_S):
            while len(self.records) == before:
                await asyncio.sleep(0.005)

    def calls(self, step: int) -> list[tuple[list[str], str]]:
        lines = (self.run.evals / f"step-{step:08d}" / "calls").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def _command_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_COMMAND", live._COMMAND)
    monkeypatch.setattr(live, "PAUSE_S", 0.01)


def test_the_base_every_nth_step_and_the_last_are_evaluated(tmp_path: Path) -> None:
    scene = Scene(tmp_path, every=10)

    async def go() -> None:
        evals = scene.made(total_steps=45)
        running = asyncio.create_task(evals.run())
        await scene.to(0)
        for step in (3, 9):  # not due
            scene.steps = {"http://a": step}
            scene.changes.notify()
            await asyncio.sleep(0)
        await scene.to(11)
        await scene.to(35)  # 20 and 30 went by meanwhile: only the newest is made up for
        assert "solver of step 35: chartqa 50.0" in evals.line()
        await scene.to(45)
        await asyncio.wait_for(running, WAIT_S)
        await asyncio.wait_for(evals.finished(), WAIT_S)

    asyncio.run(go())
    assert [record["step"] for record in scene.records] == [0, 11, 35, 45]
    assert scene.records[0]["scores"]["chartqa"]["rows"] == 9
    ((words, key),) = scene.calls(11)
    assert key == scene.run.key.read_text()
    assert key not in words
    assert words[words.index("--server") + 1] == "http://a"
    assert words[words.index("--against") + 1].endswith("step-00000000")
    assert "--while-training" in words
    assert "version 111" in words[words.index("--name") + 1]
    ((base, _),) = scene.calls(0)
    assert "--against" not in base


def test_rows_without_an_answer_are_asked_again_and_then_told(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 1, every=10)

    async def go() -> None:
        running = asyncio.create_task(scene.made(total_steps=40).run())
        await scene.to(0)
        running.cancel()
        await asyncio.wait((running,))

    asyncio.run(go())
    assert len(scene.calls(0)) == live.TRIES
    assert scene.records[0]["missing"] == 1
    names = {words[words.index("--name") + 1] for words, _ in scene.calls(0)}
    assert len(names) == 1, "another name would ask what is answered again"


def test_what_fails_again_and_again_ends_the_evaluations_and_not_the_run(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 2, every=1)

    async def go() -> None:
        evals = scene.made(total_steps=40)
        running = asyncio.create_task(evals.run())
        for number in range(live.MAX_FAILED):
            async with asyncio.timeout(WAIT_S):
                while len(scene.events) == number:
                    await asyncio.sleep(0.005)
            scene.steps = {"http://a": number + 1}
            scene.changes.notify()
        await asyncio.wait_for(running, WAIT_S)
        await asyncio.wait_for(evals.finished(), WAIT_S)

    asyncio.run(go())
    assert len(scene.calls(0)) == live.TRIES
    assert {level for level, _ in scene.events} == {"warning"}
    assert "so it ended: 2" in scene.events[0][1]
    assert "no more" in scene.events[-1][1]
    assert not scene.records


def test_a_failure_costs_a_point(tmp_path: Path) -> None:
    """A crash, a server that is away, a full disk: the next one is made as if nothing had been."""
    scene = Scene(tmp_path, 9, every=10)

    async def failed(number: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(scene.events) < number:
                await asyncio.sleep(0.005)

    async def go() -> None:
        running = asyncio.create_task(scene.made(total_steps=40).run())
        await failed(1)
        scene.run.key.unlink()  # what the command is given cannot even be read
        scene.steps = {"http://a": 10}
        scene.changes.notify()
        await failed(2)
        make_key(scene.run)
        (scene.run.path.parent / "statuses.json").write_text("[2, 0]")
        await scene.to(20)
        running.cancel()
        await asyncio.wait((running,))

    asyncio.run(go())
    assert [record["step"] for record in scene.records] == [20]
    assert "FileNotFoundError" in scene.events[1][1]


def test_results_of_other_weights_are_no_point(tmp_path: Path) -> None:
    """They are of the attempt before, whose weights of this step were thrown away."""
    scene = Scene(tmp_path, 0, every=10)

    async def go(first: int, *points: int) -> None:
        scene.steps = {"http://a": first}
        running = asyncio.create_task(scene.made(total_steps=40).run())
        for step in points:
            await scene.to(step)
        running.cancel()
        await asyncio.wait((running,))

    async def in_vain() -> None:
        scene.steps = {"http://a": 15}
        running = asyncio.create_task(scene.made(total_steps=40).run())
        await asyncio.sleep(0)
        scene.steps = {"http://a": 20}
        scene.offset = 200  # versions go on
        scene.changes.notify()
        async with asyncio.timeout(WAIT_S):
            while not scene.events:
                await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.wait((running,))

    asyncio.run(go(0, 0, 10, 20))
    (tmp_path / "statuses.json").write_text("[9]")
    asyncio.run(in_vain())
    assert [record["step"] for record in scene.records] == [0, 10, 20]


def test_an_evaluation_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    scene = Scene(tmp_path, deadline_s=0.3)
    (tmp_path / "evaluate.py").write_text("import time\ntime.sleep(3600)\n")

    async def go() -> None:
        running = asyncio.create_task(scene.made(total_steps=0).run())
        await asyncio.wait_for(running, WAIT_S)

    asyncio.run(go())
    assert "evals.deadline_s" in scene.events[0][1]


def test_the_deadline_is_for_all_tries_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, deadline_s=2.5)
    evals = scene.made(total_steps=0)
    began = []

    async def leaves_rows(step: int, name: str) -> int:
        """Each is done well before the deadline, and not all of them together are."""
        began.append(name)
        await asyncio.sleep(1.0)
        return 1

    monkeypatch.setattr(evals, "_ask", leaves_rows)
    assert "evals.deadline_s, 2.5 s" in run_virtually(evals._asked(0, "base"))
    assert 1 < len(began) <= live.TRIES


def test_the_next_attempt_goes_on_after_the_last_point(tmp_path: Path) -> None:
    scene = Scene(tmp_path, every=10)

    async def go(first: int, *points: int) -> LiveEvals:
        scene.steps = {"http://a": first}
        evals = scene.made(total_steps=40)
        running = asyncio.create_task(evals.run())
        await asyncio.sleep(0)
        for step in points:
            await scene.to(step)
        if first == 40:
            await asyncio.wait_for(running, WAIT_S)
            await asyncio.wait_for(evals.finished(), WAIT_S)
        running.cancel()
        await asyncio.wait((running,))
        return evals

    asyncio.run(go(0, 0, 10, 20))
    # It was set back to 12: those of 20 are other weights now, and are not shown any more.
    asyncio.run(go(12, 20))
    assert [record["step"] for record in scene.records] == [0, 10, 20, 20]
    assert len(scene.calls(20)) == 2
    asyncio.run(go(25, 40))  # nothing is due before
    assert [record["step"] for record in scene.records][4:] == [40]
    (scene.run.evals / "step-40.bak").mkdir()
    # It ended after the last evaluation, and before its end: there is nothing to wait for.
    assert "step 40" in asyncio.run(go(40)).line()
    assert len(scene.records) == 5


def test_its_process_ends_with_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    (tmp_path / "evaluate.py").write_text("import time\ntime.sleep(3600)\n")

    async def go() -> None:
        running = asyncio.create_task(scene.made(total_steps=40).run())
        async with asyncio.timeout(WAIT_S):
            while not list(scene.run.pids.iterdir()):
                await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.wait((running,))

    asyncio.run(go())
    (pid,) = (int(path.name) for path in scene.run.pids.iterdir())
    assert not Path(f"/proc/{pid}").exists()


QUICKSTART = CONFIGS / "quickstart.yaml"
WAIT_S = 300


def test_servers_of_their_own_are_a_follower_that_has_the_last_weights(tmp_path: Path) -> None:
    wanted = ["evals.benchmarks=[chartqa]", "evals.servers=own", f"evals.data={tmp_path}"]
    wanted += [f"run.root={tmp_path}", "evals.every=7"]
    config = load_root(QUICKSTART, wanted)
    own = followers(config)[EVALUATED]
    assert (own.policy, own.every, own.keeps_last) == ("solver", 7, True)
    with pytest.raises(ConfigError, match=r"'evaluated'.*has none; set layout") as said:
        check_before_start(config, resume=False)
    fix = str(said.value).rpartition("; set ")[2]
    check_before_start(load_root(QUICKSTART, [*wanted, fix]), resume=False)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["evals.benchmarks=[chartqqa]"], r"unknown: chartqqa; there are all, mmsi"),
        (["evals.benchmarks=[all]", "elastic.enabled=true"], "set evals.servers=own"),
        (["evals.judge=http://x/v1"], "judge and judge_model go together"),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_root(QUICKSTART, overrides)


@pytest.mark.parametrize(
    "override, message",
    [
        ("evals.data=/nowhere", "evals.data: /nowhere is no folder of rows, nor hub"),
        ("evals.policy=judge", "evals.policy: 'judge' is none of proposer, coder, solver"),
    ],
)
def test_what_would_fail_later_is_refused_before_the_start(
    tmp_path: Path, override: str, message: str
) -> None:
    wanted = [f"run.root={tmp_path}", "evals.benchmarks=[chartqa]", f"evals.data={tmp_path}"]
    with pytest.raises(ConfigError, match=message):
        check_before_start(load_root(QUICKSTART, [*wanted, override]), resume=False)
