"""A seeded world around the real desk, stages, admission and buffer: games, learners, crashes.

Learners are asked through the desk's own messages. Each policy has checkpoints of its own, so a
crash sets policies back to different steps. Nothing waits for a clock: what happens next is drawn.
"""

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.admission import Admission, AdmissionRules
from engine.buffer import Buffer
from engine.desk import Desk
from engine.stages import Gate, Stages
from engine.transport import Images, Message
from tests.engine.make_groups import make_group

PEER = b"learner"
MOST_EVENTS = 20_000


@dataclass(slots=True)
class FakeSocket:
    """What the desk takes for its socket."""

    incoming: deque[Message] = field(default_factory=deque)
    sent: deque[Message] = field(default_factory=deque)

    async def receive(self) -> tuple[bytes, Message]:
        return PEER, self.incoming.popleft()

    async def send(self, peer: bytes, message: Message, images: Images | None = None) -> None:
        self.sent.append(message)


class FakeServers:
    def mark_ready(self, url: str, version: int) -> None: ...
    def mark_unready(self, url: str, why: str = "") -> None: ...


@dataclass(slots=True)
class Learner:
    """One policy's, as far as the desk sees it."""

    step: int = 0
    asked: int = 0
    done: int = 0
    """The last request that was trained, or found bad."""
    batches: deque[Message] = field(default_factory=deque)
    unpublished: deque[tuple[int, int]] = field(default_factory=deque)
    """(step, version)"""
    checkpoints: dict[int, int] = field(default_factory=lambda: {0: 0})
    """{step: request}"""

    @property
    def is_idle(self) -> bool:
        return not self.batches and not self.unpublished


@dataclass(slots=True)
class Game:
    number: int
    plan: list[str]
    """Streams of the groups that are still to come."""
    versions: Mapping[str, int]
    """That play it."""


@dataclass(slots=True, kw_only=True)
class World:
    rules: AdmissionRules
    folder: Path
    make_gate: Callable[[], Gate]
    rng: random.Random
    crash_rate: float = 0.0
    stop_rate: float = 0.0
    skip_rate: float = 0.0
    signal_rate: float = 1.0
    """Of groups that can be trained on."""
    group_numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """{stream: numbers of groups, from which each game draws one}; (1,)."""
    prefetch: int = 1
    checkpoint_every: int = 2
    on_lease: Callable[["World", str, Message], None] = lambda *_: None
    on_start: Callable[["World"], None] = lambda *_: None
    buffer: Buffer = field(init=False)
    gate: Gate = field(init=False)
    admission: Admission = field(init=False)
    desk: Desk = field(init=False)
    socket: FakeSocket = field(init=False)
    learners: dict[str, Learner] = field(init=False)
    versions: dict[str, int] = field(init=False)
    games: list[Game] = field(default_factory=list)
    crashes: int = 0

    def __post_init__(self) -> None:
        self.buffer = Buffer.open(self.folder / "run.db")
        policies = {rule.policy for rule in self.rules.streams.values()}
        self.learners = {policy: Learner() for policy in sorted(policies)}

    async def run(self) -> None:
        """Until every policy has made its steps."""
        await self._begin()
        for _ in range(MOST_EVENTS):
            await self._settle_down()
            if self.admission.is_finished:
                return
            events = self._events()
            assert events, f"dead-lock at {self.steps}: {self._waits()}"
            self.rng.choice(events)()
            while self.socket.incoming:
                _, message = await self.socket.receive()
                self.desk._handle(PEER, message, self.admission)
            if self.rng.random() < self.crash_rate:
                await self._crash()
            elif self.rng.random() < self.stop_rate:
                await self._stop()
        raise AssertionError(f"no end in sight at {self.steps}: {self._waits()}")

    @property
    def steps(self) -> dict[str, int]:
        return {policy: learner.step for policy, learner in self.learners.items()}

    def _waits(self) -> dict[str, str]:
        return {policy: self.admission.waits_for(policy) for policy in self.learners}

    # one life

    async def _begin(self) -> None:
        self.gate = self.make_gate()
        self.socket = FakeSocket()
        attempt = self.buffer.begin_attempt()
        stages = Stages(
            recipe="spy",
            gate=self.gate,
            rules=self.rules,
            buffer=self.buffer,
            on_event=lambda level, text: None,
        )
        self.desk = Desk(
            socket=self.socket,  # type: ignore[arg-type]
            buffer=self.buffer,
            rules=self.rules,
            max_judge_age=None,
            servers={policy: FakeServers() for policy in self.learners},
            stages=[stages],
            attempt=attempt,
            on_change=lambda: None,
            on_step=lambda *_: None,
            on_event=lambda *_: None,
        )
        own = {p: {"step": one.step, "request": one.done} for p, one in self.learners.items()}
        self.socket.incoming.append({"kind": "hello", "policies": own})
        self.admission = await self.desk.gather()
        self.versions = dict(self.socket.sent.popleft()["versions"])
        for policy in self.learners:
            for _ in range(1 + self.prefetch):
                self._ask(policy)

    async def _crash(self) -> None:
        """Every policy goes back to a checkpoint of its own; games in flight are lost."""
        self.crashes += 1
        self.games.clear()
        for policy, one in self.learners.items():
            step = max(one.checkpoints)
            request = one.checkpoints[step]
            self.learners[policy] = Learner(step, request, request, checkpoints=one.checkpoints)
        await self._begin()

    async def _stop(self) -> None:
        """Ctrl-C: the learners save and say so, games in flight are cancelled. Then --resume."""
        for one in self.learners.values():
            one.checkpoints[one.step] = one.done
        self._say({"kind": "stopping", "seconds": 0.0})
        for game in self.games:
            self.buffer.end_game(game.number, dropped="stopped")
            self.admission.settle(game.number)
        await self.desk.answer(self.admission)
        await self._crash()

    async def _settle_down(self) -> None:
        """Start, lease and deliver whatever may be."""
        is_busy = True
        while is_busy:
            while (recipe := self.admission.next_recipe()) is not None:
                self._start(recipe)
            is_busy = await self.desk.answer(self.admission)
            while self.socket.sent:
                self._deliver(self.socket.sent.popleft())
                is_busy = True

    def _start(self, recipe: str) -> None:
        self.on_start(self)
        number = self.buffer.start_game(recipe)
        self.admission.start(number, recipe)
        plan = [
            stream
            for stream in self.rules.streams
            for _ in range(self.rng.choice(self.group_numbers.get(stream, (1,))))
        ]
        self.rng.shuffle(plan)
        self.games.append(Game(number, plan, dict(self.versions)))

    def _deliver(self, message: Message) -> None:
        assert message["kind"] == "batch"
        policy = message["policy"]
        if not message["groups"]:
            self._ask(policy)
            return
        self.on_lease(self, policy, message)
        self.learners[policy].batches.append(message)

    def _ask(self, policy: str) -> None:
        one = self.learners[policy]
        one.asked += 1
        self._say({"kind": "next", "policy": policy, "request": one.asked})

    def _say(self, message: Message) -> None:
        self.desk._handle(PEER, message, self.admission)

    # what may happen next

    def _events(self) -> list[Callable[[], None]]:
        found: list[Callable[[], None]] = [lambda g=g: self._go_on(g) for g in self.games]  # type: ignore[misc]
        for policy, one in self.learners.items():
            if one.unpublished:
                found.append(lambda p=policy: self._publish(p))  # type: ignore[misc]
            elif one.batches:
                found.append(lambda p=policy: self._train(p))  # type: ignore[misc]
        return found

    def _go_on(self, game: Game) -> None:
        if not game.plan:
            self.games.remove(game)
            self.buffer.end_game(game.number)
            self.admission.settle(game.number)
            return
        stream = game.plan.pop()
        policy = self.rules.streams[stream].policy
        has_signal = self.rng.random() < self.signal_rate
        group = make_group(
            game=game.number,
            stream=stream,
            policy=policy,
            versions=(game.versions[policy],),
            rewards=(0.0, 1.0) if has_signal else (1.0, 1.0),
        )
        if self.buffer.submit(group, drop=self.admission.refusal(game.number, stream)):
            self.admission.submit(game.number, stream)

    def _train(self, policy: str) -> None:
        one = self.learners[policy]
        batch = one.batches.popleft()
        one.done = int(batch["request"])
        skipped = self.rng.random() < self.skip_rate
        told: dict[str, Any] = {"skipped": skipped, "reason": "not_finite" if skipped else None}
        if not skipped:
            one.step += 1
            version = int(batch["versions"][policy]) if one.step == batch["step"] else -1
            one.unpublished.append((one.step, version))
            if one.step % self.checkpoint_every == 0 or one.step == self.rules.total_steps:
                one.checkpoints[one.step] = one.done
        self._say(
            {
                "kind": "stepped",
                "policy": policy,
                "request": one.done,
                "step": one.step,
                "metrics": {},
                **told,
            }
        )
        self._ask(policy)

    def _publish(self, policy: str) -> None:
        step, version = self.learners[policy].unpublished.popleft()
        if version < 0:  # of the batch before, which made no step
            version = self.buffer.reserve_version(policy, step, self.desk.attempt)
        self.versions[policy] = version
        told = {"kind": "published", "policy": policy, "version": version, "step": step}
        self._say({**told, "servers": [], "failed": {}})
