"""The desk, message by message: what the learners say, and what becomes of games and groups."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

import engine.desk
from engine.admission import Admission, AdmissionRules, StreamRule
from engine.buffer import Buffer, Leased
from engine.conservation import violations
from engine.desk import Desk
from engine.errors import EngineError, TransportError
from engine.layout import Follower
from engine.records import Records
from engine.transport import Message
from engine.versions import Version
from tests.engine.make_groups import PNG, make_group

PEER = b"learner"


class FakeSocket:
    """Both directions of the engine's socket, in memory."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []

    async def receive(self) -> tuple[bytes, Message]:
        return PEER, await self.inbox.get()

    async def send(
        self, peer: bytes, message: Message, images: Mapping[str, bytes] | None = None
    ) -> None:
        assert peer == PEER
        self.sent.append(message)

    def batches(self) -> list[Message]:
        return [message for message in self.sent if message["kind"] == "batch"]


@dataclass(slots=True)
class FakeServers:
    ready: dict[str, int] = field(default_factory=dict)
    lost: list[tuple[str, str]] = field(default_factory=list)
    """(url, why)"""

    def mark_ready(self, url: str, version: int) -> None:
        self.ready[url] = version

    def mark_unready(self, url: str, why: str = "") -> None:
        self.ready.pop(url, None)
        self.lost.append((url, why))


class Office:
    """A desk with one policy, `solver`, and everything around it; with a judge that follows the
    policy every `judge_every` steps, where that is given."""

    def __init__(
        self,
        buffer: Buffer,
        *,
        total_steps: int | None = None,
        max_age: int = 4,
        judge_every: int | None = None,
        max_judge_age: int | None = None,
        too_old: Literal["wait", "drop"] = "wait",
    ) -> None:
        self.buffer = buffer
        self.attempt = buffer.begin_attempt()
        self.servers = FakeServers()
        self.judges = FakeServers()
        self.events: list[tuple[str, str]] = []
        self.steps: list[tuple[int, list[Leased]]] = []
        self.handled = asyncio.Event()
        self.socket = FakeSocket()
        self.desk = Desk(
            socket=self.socket,  # type: ignore[arg-type]
            buffer=buffer,
            rules=AdmissionRules(
                streams={"solver": StreamRule(policy="solver", max_age=max_age)},
                games_per_step=1,
                total_steps=total_steps,
                too_old=too_old,
            ),
            max_judge_age=max_judge_age,
            servers={"solver": self.servers, "judge": self.judges},
            followers={"judge": Follower("solver", judge_every)} if judge_every else {},
            attempt=self.attempt,
            on_change=self.handled.set,
            on_step=lambda _, message, groups: self.steps.append((message["step"], list(groups))),
            on_event=lambda level, text: self.events.append((level, text)),
        )
        self.admission: Admission
        self.version = 0
        """What the servers sample with."""

    async def open(self, step: int = 0, request: int = 0) -> None:
        """The learner's hello, with a checkpoint of `step`."""
        state = {"solver": {"step": step, "request": request}}
        await self.socket.inbox.put({"kind": "hello", "policies": state})
        self.admission = await self.desk.gather()
        self.version = self.socket.sent[-1]["versions"]["solver"]

    async def told(self, kind: str, **fields: Any) -> None:
        """A message of the learner, handled; raises what the desk raises."""
        self.handled.clear()
        await self.socket.inbox.put({"kind": kind, **{"policy": "solver", **fields}})
        serving = asyncio.create_task(self.desk.serve(self.admission))
        handled = asyncio.create_task(self.handled.wait())
        await asyncio.wait({serving, handled}, return_when=asyncio.FIRST_COMPLETED)
        for task in (serving, handled):
            task.cancel()
        for result in await asyncio.gather(serving, handled, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def published(self, version: int, step: int, **fields: Any) -> None:
        given: dict[str, Any] = {"servers": ["one"], "failed": {}, **fields}
        await self.told("published", version=version, step=step, **given)
        self.version = version

    async def pinned(self, version: int, step: int) -> int:
        """The learner renews the judge; its version."""
        await self.told(
            "published", policy="judge", version=version, step=step, servers=["j"], failed={}
        )
        return version

    def play(self, *, groups: int = 1, judge: int | None = None) -> int:
        """A whole game, with as many groups as that, judged by that version."""
        judges = {"judge": (judge, judge)} if judge else {}
        game = self.buffer.start_game("fake")
        self.admission.start(game)
        for _ in range(groups):
            self.buffer.submit(make_group(game=game, versions=(self.version,), judges=judges))
            self.admission.submit(game, "solver")
        self.buffer.end_game(game)
        self.admission.settle(game)
        return game

    async def train(self, request: int, step: int) -> Message:
        """A request, its batch, the step, the publication."""
        await self.told("next", request=request)
        assert await self.desk.answer(self.admission)
        batch = self.socket.batches()[-1]
        assert batch["request"] == request
        await self.told("stepped", request=request, step=step, skipped=False, reason="", metrics={})
        await self.published(batch["versions"]["solver"], step)
        return batch


@pytest.fixture
def buffer(tmp_path: Path) -> Buffer:
    return Buffer.open(tmp_path / "run.db")


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())


@pytest.mark.parametrize("cause", ["no groups", "too old"])
def test_a_policy_that_never_gets_a_group_ends_the_run_by_name(
    buffer: Buffer, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    monkeypatch.setattr(engine.desk, "MAX_BARREN_STEPS", 3)

    async def scenario() -> None:
        office = Office(buffer, max_age=0)  # one game at a time, so that a step is always due
        await office.open()
        request = 1

        async def barren() -> None:
            nonlocal request
            await office.told("next", request=request)
            game = office.play(groups=0 if cause == "no groups" else 1)
            if cause == "too old":  # closed behind admission's back, so the lease comes out empty
                assert buffer.drop_ready("solver", "too_old") == 1
            before = len(office.socket.batches())
            assert await office.desk.answer(office.admission)
            for batch in office.socket.batches()[before:]:
                assert batch["groups"] == []
                request += 1
            assert game not in office.admission._open["solver"]

        for _ in range(2):
            await barren()
        office.play()
        await office.train(request, step=1)
        request += 1
        for _ in range(2):  # a step in between: the count begins anew
            await barren()
        with pytest.raises(EngineError, match=r"solver: 3 batches in a row .* funnel"):
            await barren()

    run(scenario)
    assert not violations(buffer.counts())


def test_an_empty_batch_takes_no_version_and_no_step(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer)
        await office.open()
        versions = len(buffer.ledger._versions)
        office.play()
        buffer.drop_ready("solver", "too_old")
        await office.told("next", request=1)
        assert await office.desk.answer(office.admission)
        assert office.socket.batches() == [
            {"kind": "batch", "policy": "solver", "request": 1, "groups": []}
        ]
        assert len(buffer.ledger._versions) == versions
        assert not office.desk.waiting
        office.play()  # the same step is still to be made
        await office.train(2, step=1)

    run(scenario)


def test_what_is_left_at_the_last_step_ends_as_finished(buffer: Buffer) -> None:
    async def scenario() -> None:
        first = Office(buffer)
        await first.open()
        for _ in range(3):
            first.play()
        last = Office(buffer, total_steps=1)  # as after a restart with three games to train on
        await last.open()
        await last.train(1, step=1)
        assert last.admission.is_finished

    run(scenario)
    counts = buffer.counts()
    assert counts["groups"]["solver"]["trained"] == 1
    assert counts["groups"]["solver"]["dropped"] == {"finished": 2}
    assert not violations(counts)


def test_nothing_ends_as_finished_before_the_last_step(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer, total_steps=2)
        await office.open()
        for _ in range(2):
            office.play()
        await office.train(1, step=1)
        assert buffer.counts()["groups"]["solver"]["ready"] == 1
        await office.published(9, 1, servers=["late"])
        assert buffer.counts()["groups"]["solver"]["ready"] == 1
        await office.train(2, step=2)

    run(scenario)
    assert buffer.counts()["groups"]["solver"]["dropped"] == {}


def test_a_checkpoint_frees_what_no_restore_needs_and_no_more(buffer: Buffer) -> None:
    """Of three steps the checkpoints of the second and the third are kept."""

    async def scenario() -> None:
        office = Office(buffer)
        await office.open()
        for step in (1, 2, 3):
            office.play()
            await office.train(step, step)
        syncs = buffer.counters().get("syncs", 0)
        await office.told("saved", step=2, oldest_request=0)
        assert len(buffer.leased("solver", 1, office.attempt) or ()) == 1, "freed too early"
        await office.told("saved", step=3, oldest_request=2)
        assert buffer.counters()["syncs"] == syncs + 2, "a checkpoint waits for the disk"
        for request in (1, 2):
            with pytest.raises(EngineError, match="no payload any more"):
                buffer.leased("solver", request, office.attempt)
        again = Office(buffer)
        await again.open(step=2, request=2)
        assert [text for _, text in again.events] == [
            "solver: 1 groups that step 2 does not contain are ready again"
        ]
        batch = await again.train(3, step=3)
        assert len(batch["groups"]) == 1
        assert again.steps[0][1][0].group.rollouts[0].images == (PNG,)

    run(scenario)
    assert buffer.counts()["groups"]["solver"]["trained"] == 3
    assert not violations(buffer.counts())


def test_a_restore_behind_all_kept_checkpoints_gives_up_what_was_freed(buffer: Buffer) -> None:
    """All checkpoints turn out corrupt: the run begins at the base again, and still can lease."""

    async def scenario() -> None:
        office = Office(buffer)
        await office.open()
        for step in (1, 2):
            office.play()
            await office.train(step, step)
        await office.told("saved", step=1, oldest_request=1)
        again = Office(buffer)
        await again.open(step=0, request=0)
        assert buffer.counts()["groups"]["solver"]["dropped"] == {"payload_freed": 1}
        batch = await again.train(1, step=1)
        assert [row["game"] for row in batch["groups"]] == [2]

    run(scenario)
    assert not violations(buffer.counts())


def test_a_publication_to_a_late_server_changes_nothing_else(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer, max_age=0)
        await office.open()
        office.play()
        assert not office.admission.may_start()
        batch = await office.train(1, step=1)
        assert office.servers.ready == {"one": batch["versions"]["solver"]}
        office.play()
        await office.published(batch["versions"]["solver"], 1, servers=["two"])
        assert office.servers.ready == {
            "one": batch["versions"]["solver"],
            "two": batch["versions"]["solver"],
        }
        assert not office.admission.may_start(), "the game of the next step was consumed"
        assert office.desk.steps == {"solver": 1}
        assert office.desk.versions == {"solver": batch["versions"]["solver"]}
        await office.told("serving", version=batch["versions"]["solver"], servers=["three"])
        assert office.servers.ready["three"] == batch["versions"]["solver"]
        await office.train(2, step=2)

    run(scenario)
    assert buffer.counts()["groups"]["solver"]["trained"] == 2


def test_a_server_that_was_not_filled_gets_no_requests(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer)
        await office.open()
        await office.published(1, 0, servers=["one", "two"])
        await office.published(2, 0, servers=["one"], failed={"two": "gone"})
        assert office.servers.ready == {"one": 2}
        assert office.events[-1] == ("warning", "solver: publication to two failed: gone")

    run(scenario)


def test_a_server_that_began_anew_gets_no_requests_and_its_pool_hears_why(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer)
        await office.open()
        await office.published(1, 0, servers=["one", "two"])
        await office.told("lost", url="two")
        assert office.servers.ready == {"one": 1}
        assert office.servers.lost == [("two", "it began anew, without our weights")]

    run(scenario)


def test_a_skipped_batch_is_dropped_and_its_step_still_to_be_made(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer)
        await office.open()
        office.play()
        await office.told("next", request=1)
        assert await office.desk.answer(office.admission)
        await office.told(
            "stepped", request=1, step=0, skipped=True, reason="non_finite_loss", metrics={}
        )
        assert buffer.counts()["groups"]["solver"]["dropped"] == {"bad_batch": 1}
        assert office.desk.steps == {"solver": 0}
        assert "non_finite_loss" in office.events[-1][1]
        office.play()
        await office.train(2, step=1)

    run(scenario)


def test_batches_asked_for_ahead_are_as_old_as_they_will_be(buffer: Buffer) -> None:
    """Three batches before the first step; the second is bad, so the third makes its step."""

    async def scenario() -> None:
        office = Office(buffer, max_age=4, judge_every=2)
        await office.open()
        for _ in range(3):
            office.play(judge=1)
        for request in (1, 2, 3, 4):
            await office.told("next", request=request)
        assert await office.desk.answer(office.admission)
        first, second, third = office.socket.batches()
        assert [b["request"] for b in (first, second, third)] == [1, 2, 3]
        assert [b["step"] for b in (first, second, third)] == [1, 2, 3]
        assert [b["versions"] for b in (first, second, third)] == [
            {"solver": 2}, {"solver": 3, "judge": 2}, {"solver": 4},
        ]  # fmt: skip
        assert not office.desk.waiting, "it has something to train on"
        assert [b["ages"] for b in (first, second, third)] == [[(1, 0)], [(1, 1)], [(1, 2)]]

        await office.told("stepped", request=1, step=1, skipped=False, reason="", metrics={})
        await office.published(2, 1)
        bad = {"skipped": True, "reason": "non_finite_loss", "metrics": {}}
        await office.told("stepped", request=2, step=1, **bad)
        await office.told("stepped", request=3, step=2, skipped=False, reason="", metrics={})
        assert office.desk.waiting == {"solver"}
        await office.published(3, 2)
        assert buffer.ledger.find("solver", 3) == Version("solver", 3, 2, 1)
        assert [[(row.age, row.judge_age) for row in rows] for _, rows in office.steps] == [
            [(0, 0)], [(1, 1)], [(2, 2)],
        ]  # fmt: skip

        office.play(judge=1)
        assert await office.desk.answer(office.admission)
        fourth = office.socket.batches()[-1]
        assert (fourth["request"], fourth["step"]) == (4, 3)
        assert fourth["versions"] == {"solver": 4}, "reserved before, and not used"
        await office.told("stepped", request=4, step=3, skipped=False, reason="", metrics={})
        await office.published(4, 3)
        assert office.admission.is_drained

    run(scenario)
    assert not violations(buffer.counts())


def test_a_server_moves_when_its_old_learner_has_let_go(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer)
        await office.open()
        office.desk.claim("http://x", "solver")  # there is one policy here
        await office.desk.release("http://x", "solver")
        assert office.socket.sent[-1] == {"kind": "release", "policy": "solver", "url": "http://x"}
        await office.told("released", url="http://x")
        assert office.socket.sent[-1] == {"kind": "assign", "policy": "solver", "url": "http://x"}
        await office.told("serving", version=1, servers=["http://x"])
        assert office.servers.ready == {"http://x": 1}

        office.desk.claim("http://x", "judge")
        office.servers.mark_unready("http://x")
        # The learner knows nothing of it yet.
        await office.told("serving", version=1, servers=["http://x"])
        await office.published(1, 0, servers=["http://x"])
        assert office.servers.ready == {}

    run(scenario)


@pytest.mark.parametrize("strict", [{"max_judge_age": 4}, {"too_old": "drop"}])
def test_no_batch_goes_ahead_where_waiting_costs(buffer: Buffer, strict: dict[str, Any]) -> None:
    """Judges would go on while it waits; slow games would be cut sooner than need be."""

    async def scenario() -> None:
        office = Office(buffer, **strict)
        await office.open()
        for _ in range(2):
            office.play()
        for request in (1, 2):
            await office.told("next", request=request)
        await office.desk.answer(office.admission)
        assert [batch["request"] for batch in office.socket.batches()] == [1]
        await office.told("stepped", request=1, step=1, skipped=False, reason="", metrics={})
        await office.desk.answer(office.admission)
        assert [batch["request"] for batch in office.socket.batches()] == [1, 2]

    run(scenario)


def test_a_batch_without_a_signal_is_not_called_bad(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer)
        await office.open()
        office.play()
        await office.told("next", request=1)
        await office.desk.answer(office.admission)
        skipped = {"skipped": True, "reason": "no_signal", "metrics": {}}
        await office.told("stepped", request=1, step=0, **skipped)
        assert office.events[-1][0] == "info"

    run(scenario)
    assert buffer.counts()["groups"]["solver"]["dropped"] == {"no_signal": 1}


def test_no_more_batches_are_given_than_steps_are_left(buffer: Buffer) -> None:
    async def scenario() -> None:
        first = Office(buffer)
        await first.open()
        for _ in range(3):
            first.play()
        office = Office(buffer, total_steps=2)  # as after a restart, with three games to train on
        await office.open()
        for request in (1, 2, 3):
            await office.told("next", request=request)
        await office.desk.answer(office.admission)
        assert [batch["step"] for batch in office.socket.batches()] == [1, 2]
        bad = {"skipped": True, "reason": "non_finite_loss", "metrics": {}}
        await office.told("stepped", request=1, step=0, **bad)
        await office.desk.answer(office.admission)  # a step is left after all
        assert [batch["step"] for batch in office.socket.batches()] == [1, 2, 2]
        for step, request in ((1, 2), (2, 3)):
            result = {"step": step, "skipped": False, "reason": "", "metrics": {}}
            await office.told("stepped", request=request, **result)
            await office.published(step + 1, step)
        assert office.admission.is_finished

    run(scenario)
    assert not violations(buffer.counts())


def test_a_batch_asked_for_ahead_is_ready_again_after_a_crash(buffer: Buffer) -> None:
    """The checkpoint contains the first of two batches that were leased."""

    async def scenario() -> None:
        office = Office(buffer)
        await office.open()
        games = [office.play() for _ in range(2)]
        for request in (1, 2):
            await office.told("next", request=request)
        await office.desk.answer(office.admission)
        await office.told("stepped", request=1, step=1, skipped=False, reason="", metrics={})
        again = Office(buffer)
        await again.open(step=1, request=1)
        assert "1 groups that step 1 does not contain are ready again" in again.events[-1][1]
        await again.train(2, step=2)
        assert [row.group.game for _, rows in again.steps for row in rows] == games[1:]

    run(scenario)
    assert not violations(buffer.counts())


def test_a_follower_gets_a_version_at_the_start_and_with_every_nth_step(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer, judge_every=2)
        await office.open()
        assert office.socket.sent[-1]["versions"] == {"solver": 1, "judge": 1}
        renewed = {}
        for step in range(1, 6):
            office.play()
            batch = await office.train(step, step)
            if "judge" in batch["versions"]:
                renewed[step] = batch["versions"]["judge"]
        assert renewed == {2: 2, 4: 3}
        # Durably: another process reads them from the file.
        ledger = Records.open(buffer.path).ledger
        steps = [ledger.find("judge", version).step for version in (1, 2, 3)]
        assert steps == [0, 2, 4]
        again = Office(buffer, judge_every=2)
        await again.open(step=3, request=3)
        versions = again.socket.sent[-1]["versions"]
        assert buffer.ledger.find("judge", versions["judge"]) == Version("judge", 4, 3, 2)

    run(scenario)


def test_the_last_step_renews_no_follower(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer, total_steps=2, judge_every=1)
        await office.open()
        office.play()
        assert (await office.train(1, 1))["versions"].keys() == {"solver", "judge"}
        office.play()
        assert (await office.train(2, 2))["versions"].keys() == {"solver"}

    run(scenario)


def test_a_follower_that_keeps_the_last_weights_gets_them(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer, total_steps=2)
        office.desk.followers = {"evaluated": Follower("solver", 5, keeps_last=True)}
        await office.open()
        office.play()
        assert (await office.train(1, 1))["versions"].keys() == {"solver"}
        office.play()
        assert (await office.train(2, 2))["versions"].keys() == {"solver", "evaluated"}

    run(scenario)


def test_an_empty_batch_renews_no_follower(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer, judge_every=1)
        await office.open()
        office.play()
        buffer.drop_ready("solver", "too_old")
        await office.told("next", request=1)
        assert await office.desk.answer(office.admission)
        assert "versions" not in office.socket.batches()[-1]
        assert buffer.ledger.newest("judge") == 1

    run(scenario)


def test_a_followers_publication_makes_its_servers_ready_and_no_step(buffer: Buffer) -> None:
    async def scenario() -> None:
        first = Office(buffer)
        await first.open()
        for _ in range(2):
            first.play()
        office = Office(buffer, total_steps=1, judge_every=1)  # as after a restart
        await office.open()
        await office.told("serving", policy="judge", version=1, servers=["j", "k"])
        assert (office.judges.ready, office.servers.ready) == ({"j": 1, "k": 1}, {})
        await office.told("next", request=1)
        assert await office.desk.answer(office.admission)
        batch = office.socket.batches()[-1]
        await office.told("stepped", request=1, step=1, skipped=False, reason="", metrics={})
        # Before its policy's own, which is what counts.
        version = await office.pinned(2, 1)
        assert office.judges.ready == {"j": version, "k": 1}
        assert office.desk.versions == {"judge": version}
        assert not office.admission.is_finished
        assert buffer.counts()["groups"]["solver"]["ready"] == 1, "nothing ends as finished yet"
        await office.published(batch["versions"]["solver"], 1)
        assert office.admission.is_finished
        assert office.desk.steps == {"solver": 1}
        await office.told(
            "published", policy="judge", version=version, step=1, servers=[], failed={"j": "gone"}
        )
        assert office.judges.ready == {"k": 1}
        assert office.events[-1] == ("warning", "judge: publication to j failed: gone")

    run(scenario)


def test_a_followers_age_is_counted_in_its_policys_steps(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer, judge_every=2, max_judge_age=2)
        await office.open()
        pinned = 1
        for step in range(1, 6):
            office.play(judge=pinned)
            batch = await office.train(step, step)
            if step == 2:
                pinned = await office.pinned(batch["versions"]["judge"], 2)
        leased = [row for _, rows in office.steps for row in rows]
        assert [row.judge_age for row in leased] == [0, 1, 0, 1, 2]
        assert [row.age for row in leased] == [0] * 5, "the own age is that of the own policy"
        office.play(judge=pinned)
        await office.told("next", request=6)
        assert await office.desk.answer(office.admission)
        assert buffer.counts()["groups"]["solver"]["dropped"] == {"judges_too_old": 1}

    run(scenario)


def test_a_pin_that_a_restore_threw_away_is_as_old_as_its_weights(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer, judge_every=2)
        await office.open()
        for step in (1, 2):
            office.play()
            batch = await office.train(step, step)
        lost = await office.pinned(batch["versions"]["judge"], 2)
        again = Office(buffer, judge_every=2)
        await again.open(step=1, request=1)  # one step before the pin
        again.play(judge=lost)
        for request in (2, 3):  # the second batch anew, then ours
            await again.train(request, request)
        assert [rows[0].judge_age for _, rows in again.steps] == [0, 2]

    run(scenario)


def test_a_learner_that_breaks_the_protocol_ends_the_run(buffer: Buffer) -> None:
    async def scenario() -> None:
        office = Office(buffer)
        await office.socket.inbox.put({"kind": "next", "policy": "solver", "request": 1})
        with pytest.raises(TransportError, match="'next' before hello"):
            await office.desk.gather()
        await office.open()
        with pytest.raises(TransportError, match="again within one attempt"):
            await office.told("hello", policies={})
        with pytest.raises(TransportError, match="'nonsense'"):
            await office.told("nonsense")

    run(scenario)
