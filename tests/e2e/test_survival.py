"""One run that loses a render worker, its server, its network, its engine and rank 0, is stopped
and resumed, and ends well.

Each blow follows an event that the run itself has written down, never a time.
"""

import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.rundir import RunDir
from launch.watching import RECORD_EVERY_S
from tests.e2e.blows import ENGINE, SERVER, Hand
from tests.e2e.command import (
    POLL_S,
    WITHOUT_MEASURING,
    Ended,
    Process,
    Started,
    descendants,
    left_of,
    parent_of,
    recorded,
    run,
    selfplay,
    started,
)
from tests.e2e.network import SIDES, Network, free_ports, network
from tests.e2e.records import (
    POLICIES,
    attempts_of,
    check_books,
    check_conservation,
    check_lineage,
    check_versions,
    checkpoints_of,
    events_of,
    metrics_of,
    rows,
    steps_of,
    summary_of,
)

pytestmark = pytest.mark.slow

MANY = 1000
"""Steps before the stop: the run must not end while something is taken from it."""
STALL_S = 2.0
"""After so long a server that says nothing is given up."""


@dataclass(slots=True)
class Survivor:
    """The run of these tests, and what was seen on its way."""

    dir: RunDir
    output: Path
    port: int = field(default_factory=lambda: free_ports(2 * len(POLICIES)))
    """Of its first server; as many more, for the network before them, follow."""
    family: set[Process] = field(default_factory=set)
    """Every process of the run that was ever seen."""
    stopped: Ended | None = None
    steps: int = MANY
    """That it makes in the end: a few more than before the stop."""
    third_from: int = 0
    """How many steps were on record when the third attempt began."""
    stopped_steps: list[dict[str, Any]] = field(default_factory=list)
    """Those on record when the stop had ended."""
    saved: dict[str, str] = field(default_factory=dict)
    """The newest checkpoint of each policy then."""
    left_after_stop: set[Process] = field(default_factory=set)
    second: Ended | None = None
    ended: Ended | None = None

    def command(self, *more: str) -> list[str]:
        # max_age 1 keeps games close to steps: without a server nothing can go on for long.
        place = (f"run.name={self.dir.path.name}", f"run.root={self.dir.path.parent}")
        sizes = (f"run.steps={self.steps}", "run.checkpoint_every=2", "streams.max_age=1")
        between = f"layout.servers.0.advertise=127.0.0.1:{self.port + len(POLICIES)}"
        ports = (f"layout.servers.0.port={self.port}", between, f"sampler.stall_s={STALL_S}")
        silence = ("weights.timeout_s=10",)
        return selfplay(*place, *sizes, *ports, *silence, *WITHOUT_MEASURING, *more)

    def network(self) -> AbstractContextManager[Network]:
        num = len(POLICIES)
        return network({self.port + num + i: self.port + i for i in range(num)})

    def look(self, front: Started) -> None:
        self.family |= descendants(front.process.pid)

    def alive(self) -> set[Process]:
        return left_of(self.family)


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survivor]:
    root = tmp_path_factory.mktemp("survival")
    one = Survivor(RunDir(root / "runs" / "survivor"), root / "output")
    with one.network() as net, started(one.command(), one.output) as front:
        lose_the_server(one, front)
        lose_a_render_worker(one, front, net)
        lose_the_network(one, front, net)
        lose_the_engine(one, front)
        lose_rank_0(one, front)
        front.process.send_signal(signal.SIGINT)
        one.stopped = front.wait()
        one.stopped_steps = steps_of(one.dir)
        one.saved = {policy: checkpoints_of(one.dir, policy)[-1].name for policy in POLICIES}
    one.left_after_stop = one.alive()
    one.steps = max(record["step"] for record in one.stopped_steps) + 2
    last = [*again(one.stopped), f"run.steps={one.steps}"]
    with one.network(), started(last, one.output) as front:
        front.until(lambda: attempts_of(one.dir) == 4, "the resumed engine")
        one.look(front)
        one.second = run(one.command("--resume"), one.output)
        one.ended = front.wait()
    yield one
    for process in one.family:
        process.kill()


def again(stopped: Ended) -> list[str]:
    """The command that the stopped run tells its user to continue with."""
    assert stopped.status == 130, stopped
    (line,) = [line for line in stopped.stdout.splitlines() if "stopped and saved" in line]
    assert line.startswith("streamzero: ")
    command = line.partition("continue with: ")[2]
    assert "--resume" in command
    words = shlex.split(command)
    assert words[0] == sys.executable  # it works wherever it is typed
    return words


def lose_the_server(one: Survivor, front: Started) -> None:
    front.until(lambda: bool(steps_of(one.dir)), "a first step")
    one.look(front)
    server = recorded(one.dir, SERVER)
    assert server is not None
    server.kill()
    # Of games that were played by then two steps may still be made, and one may not be on record.
    last = max(record["step"] for record in steps_of(one.dir)) + 4
    front.until(lambda: any(r["step"] == last for r in steps_of(one.dir)), "a new server's games")
    front.until(lambda: recorded(one.dir, SERVER) not in (None, server), "a new server")
    assert attempts_of(one.dir) == 1


def lose_a_render_worker(one: Survivor, front: Started, net: Network) -> None:
    one.look(front)
    hand = Hand(run=one.dir, net=net, seed=0)
    front.until(lambda: hand.find("render worker") is not None, "a render worker")
    worker = hand.find("render worker")
    assert worker is not None
    worker.kill()
    front.until(lambda: hand.find("render worker") not in (None, worker), "another worker")


def lose_the_network(one: Survivor, front: Started, net: Network) -> None:
    """Nobody reaches the servers; nobody is told so either, by any connection that closes."""
    seen = len(events_of(one.dir))

    def told(words: str) -> bool:
        return any(words in text for text in events_of(one.dir)[seen:])

    net.swallow(*SIDES)
    # Who finds out first, who samples or who publishes, is chance.
    front.until(lambda: told(" is gone: ") or told("publication to "), "the silence is noticed")
    net.let_through(*SIDES)
    front.until(lambda: told(" is back after "), "the servers are heard again")
    steps = len(steps_of(one.dir))
    front.until(lambda: len(steps_of(one.dir)) > steps, "it plays on")
    assert attempts_of(one.dir) == 1


def lose_the_engine(one: Survivor, front: Started) -> None:
    saved = [f"{policy}: checkpoint of step 2" for policy in POLICIES]
    front.until(lambda: {*saved} <= {*events_of(one.dir)}, "checkpoints of step 2")
    one.look(front)
    engine = recorded(one.dir, ENGINE)
    assert engine is not None
    engine.kill()
    front.until(goes_on(one, attempt=2), "steps of a second attempt")


def lose_rank_0(one: Survivor, front: Started) -> None:
    one.look(front)
    engine = recorded(one.dir, ENGINE)
    assert engine is not None
    rank_0 = parent_of(engine.pid)
    assert rank_0 in {process.pid for process in one.family}
    os.kill(rank_0, signal.SIGKILL)
    front.until(lambda: attempts_of(one.dir) == 3, "a third attempt")
    one.third_from = len(steps_of(one.dir))
    front.until(goes_on(one, attempt=3), "steps of a third attempt")
    one.look(front)


def goes_on(one: Survivor, *, attempt: int) -> Callable[[], bool]:
    """True from the first step of `attempt` on."""
    seen: list[int] = []

    def condition() -> bool:
        if attempts_of(one.dir) < attempt:
            return False
        seen.append(len(steps_of(one.dir)))
        return seen[-1] > seen[0]

    return condition


def test_ctrl_c_saves_and_says_so(survivor: Survivor) -> None:
    stopped = survivor.stopped
    assert stopped is not None
    assert stopped.status == 130, stopped
    assert "Traceback" not in stopped.text
    assert stopped.stderr == ""
    assert again(stopped)
    assert survivor.left_after_stop == set()


def test_ctrl_c_loses_no_step(survivor: Survivor) -> None:
    """It saves what the third attempt has made, and there the fourth begins."""
    third = survivor.stopped_steps[survivor.third_from :]
    assert third, "stopped before its first step: this test would show nothing"
    for policy in POLICIES:
        query = f"SELECT step FROM restores WHERE policy = '{policy}' ORDER BY attempt"
        restores = [step for (step,) in rows(survivor.dir, query)]
        assert len(restores) == 4
        first, second, third_start, fourth_start = restores
        assert 0 == first < second <= third_start <= fourth_start, policy
        assert survivor.saved[policy] == f"step-{fourth_start:08d}"
        made = [record["step"] for record in third if record["policy"] == policy]
        assert fourth_start >= max(made, default=third_start), policy


def test_a_second_process_is_refused(survivor: Survivor) -> None:
    second = survivor.second
    assert second is not None
    assert second.status != 0
    (line,) = second.lines
    assert line.startswith("streamzero: ")
    assert str(survivor.dir.path) in line
    assert "in use" in line


def test_the_run_ends_well_after_all(survivor: Survivor) -> None:
    ended = survivor.ended
    assert ended is not None
    assert ended.status == 0, ended
    assert "Traceback" not in ended.text
    summary = summary_of(survivor.dir)
    assert summary["steps"] == dict.fromkeys(POLICIES, survivor.steps)
    assert summary["attempts"] == 4
    assert summary["games"]["in_flight"] == 0
    assert set(summary["games"]["dropped"]) <= {"lost_in_crash", "stopped"}
    for policy in POLICIES:
        assert summary["age"][policy]["max"] <= 1
        assert checkpoints_of(survivor.dir, policy)[-1].name == f"step-{survivor.steps:08d}"


def test_the_books_balance_over_all_attempts(survivor: Survivor) -> None:
    summary = summary_of(survivor.dir)
    check_conservation(summary)
    check_books(survivor.dir, summary)
    assert all(groups["leased"] == 0 for groups in summary["groups"].values())


def test_nothing_is_twice_in_the_lineage(survivor: Survivor) -> None:
    made = [(record["policy"], record["step"]) for record in steps_of(survivor.dir)]
    assert len(made) > len(set(made)), "the kills undid no step: this test would show nothing"
    assert any("are ready again" in text for text in events_of(survivor.dir))
    check_lineage(survivor.dir, survivor.steps)
    check_versions(survivor.dir)


def test_what_happened_is_in_the_event_log(survivor: Survivor) -> None:
    events = events_of(survivor.dir)
    for policy in POLICIES:  # who finds out first is chance
        own = [text for text in events if text.startswith(f"{policy}: ")]
        gone = [
            i for i, text in enumerate(own) if re.search(r" is gone: |publication .* failed", text)
        ]
        back = [i for i, text in enumerate(own) if " is back after " in text]
        assert gone, policy
        assert back, policy
        assert gone[0] < back[-1]
    for attempt in (2, 3, 4):
        (line,) = [text for text in events if text.startswith(f"attempt {attempt} goes on with ")]
        query = f"SELECT policy, step FROM restores WHERE attempt = {attempt}"
        for policy, step in rows(survivor.dir, query):
            assert f"{policy} of step {step}" in line


def test_tokens_and_time_add_up_over_attempts(survivor: Survivor) -> None:
    """The tokens of undone steps count too; a killed engine may lose what it counted after it last
    saved its counters, `RECORD_EVERY_S` before at most (and a look, once a second)."""
    summary = summary_of(survivor.dir)
    made: dict[str, list[tuple[float, int]]] = {policy: [] for policy in POLICIES}
    for record in steps_of(survivor.dir):
        made[record["policy"]].append((record["t"], int(record["metrics"]["tokens"])))
    for policy, steps in made.items():
        counted, total = summary["tokens"][policy], sum(tokens for _, tokens in steps)
        lost = max(
            sum(tokens for at_s, tokens in steps if 0 <= at_s - from_s <= RECORD_EVERY_S + 2)
            for from_s, _ in steps
        )
        assert total - 2 * lost <= counted["trained"] <= total
        assert counted["generated"] > 0
    records = metrics_of(survivor.dir)
    spanned_s = records[-1]["t"] - records[0]["t"]
    assert 0.3 * spanned_s < summary["wall_s"] < spanned_s + 60


def test_nothing_of_it_is_left(survivor: Survivor) -> None:
    assert survivor.family
    assert survivor.alive() == set()
    assert named(survivor) == []


def named(one: Survivor) -> list[str]:
    """Processes whose command line has the run's folder."""
    root = str(one.dir.path.parent).encode()
    return [
        path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if root in words(path)
    ]


def words(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_ctrl_c_right_at_the_start(tmp_path: Path) -> None:
    """As soon as the command says that it may be stopped, it may be stopped."""
    one = Survivor(RunDir(tmp_path / "runs" / "early"), tmp_path / "output")
    with started(one.command(), one.output) as front:
        # At once, to hit the moments before torchrun and the ranks can answer.
        front.until(lambda: b"Ctrl-C" in front.stdout.read_bytes(), "its first line", poll_s=0.001)
        front.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 300.0
        while front.process.poll() is None:
            assert time.monotonic() < deadline
            one.look(front)
            time.sleep(POLL_S)
        ended = front.wait()
    assert ended.status == 130, ended
    assert ended.stderr == ""
    assert one.alive() == set()
    assert named(one) == []
