"""A learner and a recipe without a model, for tests of the real engine."""

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.admission import AdmissionRules
from engine.buffer import Buffer, Leased
from engine.desk import Desk
from engine.errors import GameDropped
from engine.games import Games
from engine.loop import Engine, Hooks
from engine.tasks import Signal
from engine.transport import EngineSocket, LearnerSocket, Message
from engine.types import Group, Rollout, SamplingParams, Segment
from engine.wire import decode_group

PARAMS = SamplingParams(max_new_tokens=4)


def make_rollout(policy: str = "a", version: int = 1, *, token: int = 1, **changes: Any) -> Rollout:
    fields: dict[str, Any] = {
        "policy": policy,
        "role": policy,
        "prompt_ids": (5, 6),
        "token_ids": (token, 2),
        "logprobs": (-0.5, -0.25),
        "segments": (Segment(0, version),),
        "finish": "stop",
        "sampling": PARAMS,
        "text": str(token),
    }
    return Rollout(**{**fields, **changes})


@dataclass(slots=True)
class FakeServers:
    """Knows which version a policy's only server has."""

    version: int = 0

    def mark_ready(self, url: str, version: int) -> None:
        self.version = version

    def mark_unready(self, url: str, why: str = "") -> None:
        self.version = 0


@dataclass(slots=True)
class FakeLearner:
    """Speaks the learners' protocol from a thread; trains nothing, skips some batches."""

    address: str
    policies: tuple[str, ...]
    rng: random.Random
    restored: dict[str, tuple[int, int]] = field(default_factory=dict)
    skip_share: float = 0.0
    die_after: int | None = None
    """Batches after which it vanishes without a word."""
    is_over: threading.Event = field(default_factory=threading.Event)
    is_gone: threading.Event = field(default_factory=threading.Event)
    wants_stop: threading.Event = field(default_factory=threading.Event)
    """Set by a test, as Ctrl-C would: it says `stopping` once, and waits for bye."""
    told_to_stop: threading.Event = field(default_factory=threading.Event)
    stops_when_told: bool = True
    heard_bye: threading.Event = field(default_factory=threading.Event)
    """The engine itself has said bye."""
    prefetch: int = 2
    """Batches that it asks for ahead of the one that it trains on."""
    versions: dict[tuple[str, int], int] = field(default_factory=dict)
    """What the weights of each policy and step are published as."""
    batches: list[tuple[str, int, list[Group]]] = field(default_factory=list)
    """(policy, request, groups), in the order of training."""

    def run(self) -> None:
        socket = LearnerSocket(self.address, "learner-" + "-".join(self.policies))
        steps = {p: self.restored.get(p, (0, 0))[0] for p in self.policies}
        requests = {p: self.restored.get(p, (0, 0))[1] for p in self.policies}
        socket.send(
            {
                "kind": "hello",
                "policies": {p: {"step": steps[p], "request": requests[p]} for p in self.policies},
            }
        )
        try:
            welcome = self._receive(socket)
            if welcome["kind"] == "bye":
                return
            for policy in self.policies:
                self._publish(socket, policy, welcome["versions"][policy], steps[policy])
                for _ in range(1 + self.prefetch):
                    self._ask(socket, policy, requests, welcome["attempt"])
            while (message := self._receive(socket))["kind"] != "bye":
                if message["kind"] == "stop":
                    if self.stops_when_told:
                        socket.send({"kind": "stopping", "seconds": 0.0})
                    self.told_to_stop.set()
                    continue
                self._train(socket, message, steps, requests, welcome["attempt"])
                if self.die_after is not None and len(self.batches) >= self.die_after:
                    return
        finally:
            socket.close()
            self.is_gone.set()

    def learn(self, policy: str, request: int, groups: list[Group]) -> bool:
        """Make a step of this batch. True: it is skipped."""
        return self.rng.random() < self.skip_share

    def _receive(self, socket: LearnerSocket) -> Message:
        self._say_stopping(socket)  # also where there is always another message
        while (received := socket.receive(0.02)) is None:
            if self.is_over.is_set():
                # What the engine said last may still be on its way.
                if (received := socket.receive(0.5)) is not None:
                    break
                return {"kind": "bye"}
            self._say_stopping(socket)
        message, images = received
        if message["kind"] == "bye":
            self.heard_bye.set()
        if message["kind"] == "batch":
            message["groups"] = [decode_group(row, images) for row in message["groups"]]
        return message

    def _say_stopping(self, socket: LearnerSocket) -> None:
        if self.wants_stop.is_set():
            self.wants_stop.clear()
            socket.send({"kind": "stopping", "seconds": 0.0})

    def _ask(
        self, socket: LearnerSocket, policy: str, requests: dict[str, int], attempt: int
    ) -> None:
        requests[policy] += 1
        socket.send(
            {
                "kind": "next",
                "policy": policy,
                "request": requests[policy],
                "attempt": attempt,
            }
        )

    def _publish(self, socket: LearnerSocket, policy: str, version: int, step: int) -> None:
        socket.send(
            {
                "kind": "published",
                "policy": policy,
                "version": version,
                "step": step,
                "servers": ["one"],
                "failed": {},
                "seconds": 0.0,
            }
        )

    def _train(
        self,
        socket: LearnerSocket,
        message: Message,
        steps: dict[str, int],
        requests: dict[str, int],
        attempt: int,
    ) -> None:
        policy, request = message["policy"], message["request"]
        if message["groups"]:
            self.versions[policy, message["step"]] = message["versions"][policy]
            skipped = self.learn(policy, request, message["groups"])
            self.batches.append((policy, request, message["groups"]))
            steps[policy] += not skipped
            socket.send(
                {
                    "kind": "stepped",
                    "policy": policy,
                    "request": request,
                    "step": steps[policy],
                    "skipped": skipped,
                    "reason": "non_finite_loss" if skipped else "",
                    "metrics": {},
                    "busy_s": 0.0,
                    "alive_s": 1.0,
                }
            )
            if not skipped:
                version = self.versions.pop((policy, steps[policy]))
                self._publish(socket, policy, version, steps[policy])
        self._ask(socket, policy, requests, attempt)


@dataclass(slots=True, kw_only=True)
class FakeRun:
    """One attempt of the real engine over fakes."""

    buffer: Buffer
    rules: AdmissionRules
    folder: Path
    play: Callable[["FakeRun", int, Callable[[Group], None]], Any]
    learner: FakeLearner
    others: Sequence[FakeLearner] = ()
    """Learner groups of other policies."""
    stopped_s: float = 0.0
    servers: dict[str, FakeServers] = field(default_factory=dict)
    leased: list[tuple[str, Leased]] = field(default_factory=list)
    deadline_s: float = 30.0
    max_judge_age: int | None = None
    hooks: Hooks | None = None
    make_games: Callable[..., Games] = Games
    engine: Engine | None = None
    """The engine, as soon as it runs."""
    on_step: Callable[[str, Message, Any], None] = lambda *_: None
    on_event: Callable[[str, str], None] = lambda *_: None

    async def run(self) -> None:
        policies = {rule.policy for rule in self.rules.streams.values()}
        self.servers = {policy: FakeServers() for policy in policies}
        changes = Signal()
        attempt = self.buffer.begin_attempt()
        desk = Desk(
            socket=EngineSocket(self.learner.address),
            buffer=self.buffer,
            rules=self.rules,
            max_judge_age=self.max_judge_age,
            servers=self.servers,
            attempt=attempt,
            on_change=changes.notify,
            on_step=self._stepped,
            on_event=self.on_event,
        )
        learners = (self.learner, *self.others)
        threads = [threading.Thread(target=one.run, daemon=True) for one in learners]
        for thread in threads:
            thread.start()
        try:
            admission = await desk.gather()
            hooks = self.hooks or Hooks(
                measure_before=None,
                measure_dev=None,
                measure_after=None,
                dev_every=1,
                watch=_watch_nothing,
            )
            games = self.make_games(
                plays={"": lambda game, submit, note: self.play(self, game, submit)},
                buffer=self.buffer,
                admission=admission,
                deadline_s=self.deadline_s,
                on_change=changes.notify,
                on_group=lambda group, is_ready: None,
            )
            self.engine = Engine(
                desk=desk,
                games=games,
                admission=admission,
                hooks=hooks,
                changes=changes,
                stopped_s=self.stopped_s,
            )
            await self.engine.run()
        finally:
            for one in learners:
                one.is_over.set()
            desk.socket.close()
            for thread in threads:
                await asyncio.to_thread(thread.join, 30.0)

    def _stepped(self, policy: str, message: Message, batch: Any) -> None:
        self.leased.extend((policy, row) for row in batch)
        self.on_step(policy, message, batch)


def random_game(
    rng: random.Random, *, failure_share: float = 0.0
) -> Callable[[FakeRun, int, Callable[[Group], None]], Any]:
    """A game of every stream: zero to three groups each, in random order and time."""

    async def play(run: FakeRun, game: int, submit: Callable[[Group], None]) -> None:
        streams = [s for s in run.rules.streams for _ in range(rng.randrange(4))]
        rng.shuffle(streams)
        for stream in streams:
            policy = run.rules.streams[stream].policy
            while not (oldest := run.servers[policy].version):
                await asyncio.sleep(0)  # as the sampler does: no request before the weights
            for _ in range(rng.choice((0, 1, 3, 30))):
                await asyncio.sleep(0)
            newest = run.servers[policy].version
            if rng.random() < failure_share:
                raise GameDropped("retries", "the fake server said no")
            segments = (Segment(0, oldest),)
            if newest != oldest:
                segments = (Segment(0, oldest), Segment(1, newest))
            rollouts = tuple(make_rollout(policy, token=k, segments=segments) for k in (1, 2))
            rewards = (0.0, float(rng.random() < 0.8))
            submit(Group(stream=stream, game=game, rollouts=rollouts, rewards=rewards))

    return play


async def _watch_nothing(engine: Engine) -> None:
    return None
