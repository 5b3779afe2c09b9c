"""Where the learner groups are served: the engine's side of their protocol.

    learner                            engine
    hello {policy: step, request}  ->  the buffer goes back to what those checkpoints contain
                                   <-  welcome {attempt, versions}     once all policies are here
                                       (versions of its policies, and of their followers)
    next {policy, request}         ->  parked until admission has a batch; several may be
                                   <-  batch {policy, request, step, versions, ages, groups}
                                       (may be empty; versions of the policy's weights once they
                                       contain `step`, and of the followers that it renews; ages
                                       of the versions that sampled it, [[version, age]])
    stepped {policy, request, step, metrics}   -> its rows are trained, or dropped[bad_batch]
    published {policy, version, step, servers} -> servers are routable, games are consumed
    serving {policy, version, servers}         -> servers are routable
                                       (policy may be a follower: servers are routable, no more)
    lost {policy, url}             ->  a server that began anew, without our weights, is not
    saved {policy, step, oldest_request}       -> payloads that no restore needs are freed
    event, stopping {seconds}      ->  noted
                                   <-  bye
                                   <-  save: a checkpoint now; stop: save, and say "stopping"
                                   <-  release {policy, url}: a server moves to another policy
    released {policy, url}         ->  the old learner sends it nothing any more
                                   <-  assign {policy, url}, to the learner of the new one

A request is answered once; its number names it for ever, so a repeated one gets the same rows.
A batch may be sent while earlier ones still train: it is as old as it will be when they are done.
Where one of them turns out bad, the next makes its step, and publishes under its version.
"""

import logging
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.admission import Admission, AdmissionRules, Consumption
from engine.buffer import Buffer, Leased
from engine.errors import FatalError, TransportError
from engine.layout import Follower
from engine.stages import Stages
from engine.transport import Message

log = logging.getLogger(__name__)

UNTRAINABLE = ("empty", "no_signal")
"""Why a learner skips a batch with which nothing is wrong."""
MAX_BARREN_STEPS = 100
"""Batches in a row of one policy that may come to nothing: without a group to train on, or bad."""


class Socket(Protocol):
    """The engine's end of the wire to the learners; `engine.transport.EngineSocket` is one."""

    async def receive(self) -> tuple[bytes, Message]: ...

    async def send(
        self, peer: bytes, message: Mapping[str, Any], images: Mapping[str, bytes] | None = None
    ) -> None: ...


class Servers(Protocol):
    """What the desk tells the sampler's side about the servers of one policy."""

    def mark_ready(self, url: str, version: int) -> None: ...

    def mark_unready(self, url: str, why: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class Parked:
    """A request for a batch that waits for one."""

    peer: bytes
    request: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What a request was answered, until its step is reported."""

    consumption: Consumption
    groups: Sequence[Leased]


@dataclass(slots=True, kw_only=True)
class Desk:
    """See the module's docstring."""

    socket: Socket
    buffer: Buffer
    rules: AdmissionRules
    max_judge_age: int | None
    servers: Mapping[str, Servers]
    """By policy, and by follower."""
    followers: Mapping[str, Follower] = field(default_factory=dict)
    """By name: servers that hold older weights of a policy."""
    stages: Sequence[Stages] = ()
    """Of the recipes that train their streams in stages."""
    attempt: int
    on_change: Callable[[], None]
    on_step: Callable[[str, Message, Sequence[Leased]], None]
    """Told of every step: policy, the learner's message, the batch."""
    on_event: Callable[[str, str], None]
    """Told of every event: its level ("info" or "warning") and a sentence."""
    steps: dict[str, int] = field(default_factory=dict)
    """Steps that each policy's learner has made."""
    versions: dict[str, int] = field(default_factory=dict)
    """The last published version of each policy and follower."""
    is_stopping: bool = False
    """A learner group was told to stop, and has saved."""
    stopped_after_s: float = 0.0
    """How long that took the first one."""
    _stopped: set[bytes] = field(default_factory=set)
    _peers: dict[bytes, list[str]] = field(default_factory=dict)
    _restored: dict[str, tuple[int, int]] = field(default_factory=dict)
    _moved: dict[str, str] = field(default_factory=dict)
    """{url: policy} of the servers that serve another policy than at first."""
    _parked: dict[str, deque[Parked]] = field(default_factory=lambda: defaultdict(deque))
    """By policy, in the order of the requests."""
    _barren: Counter[str] = field(default_factory=Counter)
    _batches: dict[tuple[str, int], Batch] = field(default_factory=dict)

    async def gather(self) -> Admission:
        """Wait for the hello of every policy, set the buffer back, welcome all."""
        policies = {rule.policy for rule in self.rules.streams.values()}
        while policies - set(self._restored):
            peer, message = await self.socket.receive()
            if message["kind"] != "hello":
                raise TransportError(f"a learner said {message['kind']!r} before hello")
            self._peers[peer] = list(message["policies"])
            for policy, state in message["policies"].items():
                self._restored[policy] = (int(state["step"]), int(state["request"]))
        for policy, (step, request) in self._restored.items():
            again = self.buffer.restore(policy, step=step, request=request, attempt=self.attempt)
            self.steps[policy] = step
            for name in self._followers_of(policy):  # their weights went back as well
                self.buffer.restore(name, step=step, request=0, attempt=self.attempt)
            if again:
                text = f"{policy}: {again} groups that step {step} does not contain are ready again"
                self.on_event("info", text)
        admission = Admission(self.rules, self.steps, self.buffer.ready_games(self.steps))
        for stages in self.stages:
            stages.begin(self.steps, admission)
        for peer, own in self._peers.items():
            versions = {}
            for policy in own:
                for name in (policy, *self._followers_of(policy)):
                    versions[name] = self._reserve(name, self.steps[policy])
            await self.socket.send(
                peer, {"kind": "welcome", "attempt": self.attempt, "versions": versions}
            )
        return admission

    async def serve(self, admission: Admission) -> None:
        """Handle the learners' messages until cancelled."""
        while True:
            peer, message = await self.socket.receive()
            if message["kind"] == "released":
                await self._assign(message["url"])
            else:
                self._handle(peer, message, admission)
            self.on_change()

    def _handle(self, peer: bytes, message: Message, admission: Admission) -> None:
        kind = message["kind"]
        if kind == "next":
            self._parked[message["policy"]].append(Parked(peer, int(message["request"])))
        elif kind == "stepped":
            self._stepped(message, admission)
        elif kind == "published":
            self._published(message, admission)
        elif kind == "serving":
            self._mark_ready(message["policy"], message["servers"], int(message["version"]))
        elif kind == "lost":
            self.servers[message["policy"]].mark_unready(
                message["url"], "it began anew, without our weights"
            )
        elif kind == "saved":
            self.buffer.sync()
            # No restore goes back behind the oldest checkpoint that is kept.
            self.buffer.forget(message["policy"], int(message["oldest_request"]))
            self.on_event("info", f"{message['policy']}: checkpoint of step {message['step']}")
        elif kind == "event":
            self.on_event(message["level"], message["text"])
        elif kind == "stopping":
            if not self.is_stopping:
                self.stopped_after_s = float(message["seconds"])
            self.is_stopping = True
            self._stopped.add(peer)
        elif kind == "hello":
            raise TransportError("a learner group started again within one attempt")
        else:
            raise TransportError(f"a learner sent {kind!r}")

    def _stepped(self, message: Message, admission: Admission) -> None:
        policy, request = message["policy"], int(message["request"])
        batch = self._batches.pop((policy, request))
        if message["skipped"]:
            reason = str(message["reason"])
            is_bad = reason not in UNTRAINABLE
            dropped = self.buffer.bad_batch(
                policy, request, self.attempt, reason="bad_batch" if is_bad else reason
            )
            admission.skipped(batch.consumption)
            self._tell_stages(batch.consumption, admission)
            self._count_barren(policy)
            text = f"{policy}: batch skipped ({reason}), {dropped} groups dropped"
            self.on_event("warning" if is_bad else "info", text)
        else:
            self._barren[policy] = 0
            self.steps[policy] = int(message["step"])
            with self.buffer.transaction():
                self.buffer.trained(policy, request, self.attempt, self.steps[policy])
                self._tell_stages(batch.consumption, admission, message["metrics"])
        self.on_step(policy, message, batch.groups)

    def _tell_stages(
        self,
        consumption: Consumption,
        admission: Admission,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        with self.buffer.transaction():
            for stages in self.stages:
                stages.consumed(consumption, self.steps, admission, metrics)

    def _published(self, message: Message, admission: Admission) -> None:
        policy, version = message["policy"], int(message["version"])
        self._mark_ready(policy, message["servers"], version)
        for url, error in message["failed"].items():
            self.servers[policy].mark_unready(url)
            self.on_event("warning", f"{policy}: publication to {url} failed: {error}")
        self.versions[policy] = version
        if policy in self.followers:
            return  # what admission counts is the publication of its policy
        admission.published(policy, int(message["step"]))
        if int(message["step"]) == self.rules.total_steps:
            for stream, rule in self.rules.streams.items():
                if rule.policy == policy:
                    self.buffer.drop_ready(stream, "finished")
            for stages in self.stages:
                stages.finished(policy, admission)

    def _mark_ready(self, name: str, urls: Sequence[str], version: int) -> None:
        for url in urls:
            if self._moved.get(url, name) == name:  # else the server moves, or has moved
                self.servers[name].mark_ready(url, version)

    def claim(self, url: str, policy: str) -> None:
        """From now on `url` is ready for requests of `policy` only, whatever other learners say."""
        self._moved[url] = policy

    async def release(self, url: str, source: str) -> None:
        """Tell the learners that `url`, which takes no requests now, serves who claimed it, and
        `source` no more. It is routable again when its learner has filled it."""
        await self._tell_learner_of(source, {"kind": "release", "policy": source, "url": url})

    async def _assign(self, url: str) -> None:
        # Not before: the old learner could still send its weights over the new ones.
        target = self._moved[url]
        await self._tell_learner_of(target, {"kind": "assign", "policy": target, "url": url})

    async def _tell_learner_of(self, policy: str, message: Message) -> None:
        for peer, own in self._peers.items():
            if policy in own:
                await self.socket.send(peer, message)

    async def answer(self, admission: Admission) -> bool:
        """Answer the parked requests that admission has a batch for. True: something changed."""
        if self.is_stopping:
            return False  # games that are cancelled now are no games that brought nothing
        changed = False
        for policy, parked in list(self._parked.items()):
            while (
                parked
                and self._may_give(policy)
                and (next_step := admission.ready(policy)) is not None
            ):
                changed = True
                if not admission.consume(next_step):
                    self._tell_stages(next_step, admission)
                    self._count_barren(policy)
                    continue  # games without a group: consumed at once; look at the next ones
                request = parked.popleft()
                groups = self._lease(request.request, next_step)
                if not groups:
                    admission.skipped(next_step)
                    self._tell_stages(next_step, admission)
                    self._count_barren(policy)
                await self._send_batch(request, Batch(next_step, groups))
        return changed

    def _may_give(self, policy: str) -> bool:
        """Whether the policy may have a batch now. Ahead of its step only where waiting for it
        costs nothing: judges go on meanwhile, and with `drop` slow games would be cut sooner."""
        is_ahead = any(holder == policy for holder, _ in self._batches)
        return not is_ahead or (self.max_judge_age is None and self.rules.too_old == "wait")

    def _count_barren(self, policy: str) -> None:
        """A run in which a policy never gets anything to train on must not go on for ever."""
        self._barren[policy] += 1
        if self._barren[policy] >= MAX_BARREN_STEPS:
            raise FatalError(
                f"{policy}: {MAX_BARREN_STEPS} batches in a row came to nothing: its groups are "
                "filtered, of equal rewards, or bad, or its games are dropped (see the funnel and "
                "the events in the report)"
            )

    def _lease(self, request: int, consumption: Consumption) -> list[Leased]:
        streams = self.rules.streams
        steps = self.steps | {consumption.policy: consumption.step}
        return self.buffer.lease(
            consumption.policy,
            request,
            self.attempt,
            games=consumption.games,
            steps=steps | {name: steps[f.policy] for name, f in self.followers.items()},
            max_age={stream: streams[stream].max_age for stream in consumption.games},
            max_judge_age=self.max_judge_age,
        )

    async def _send_batch(self, parked: Parked, batch: Batch) -> None:
        policy = batch.consumption.policy
        rows: list[dict[str, Any]] = []
        images: dict[str, bytes] = {}
        for leased in batch.groups:
            rows.append(dict(leased.header))
            images.update(leased.images)
        answer: Message = {"kind": "batch", "policy": policy, "request": parked.request}
        answer |= {"groups": rows}
        if batch.groups:
            self._batches[policy, parked.request] = batch
            step = batch.consumption.step + 1
            answer |= {"step": step, "versions": self._new_versions(policy, step)}
            answer |= {"ages": self._ages(batch)}
        await self.socket.send(parked.peer, answer, images)

    def _ages(self, batch: Batch) -> list[tuple[int, int]]:
        """(version, age) of the policy's weights that sampled the batch, in steps of its own."""
        policy, step = batch.consumption.policy, batch.consumption.step
        versions = sorted(set().union(*(leased.versions for leased in batch.groups)))
        return [(version, self.buffer.ledger.age(policy, version, step)) for version in versions]

    def _new_versions(self, policy: str, step: int) -> dict[str, int]:
        """What is published after this step: the policy, and the followers that it renews."""
        is_last = step == self.rules.total_steps
        names = [policy]
        for name in self._followers_of(policy):
            follower = self.followers[name]
            # After the last step nobody is judged.
            if follower.keeps_last if is_last else step % follower.every == 0:
                names.append(name)
        return {name: self._reserve(name, step) for name in names}

    def _followers_of(self, policy: str) -> list[str]:
        return [name for name, follower in self.followers.items() if follower.policy == policy]

    def _reserve(self, name: str, step: int) -> int:
        """The version of a policy's or follower's weights of `step`."""
        return self.buffer.reserve_version(name, step, self.attempt)

    async def tell_all(self, kind: str) -> None:
        """Send `bye`, say, to every learner group."""
        for peer in self._peers:
            await self.socket.send(peer, {"kind": kind})

    async def tell_to_stop(self) -> None:
        """Send `stop` to every learner group that has not stopped yet."""
        for peer in self._peers.keys() - self._stopped:
            await self.socket.send(peer, {"kind": "stop"})

    @property
    def has_stopped(self) -> bool:
        """Whether all learner groups have saved what they were told to save before they stop."""
        return self._stopped >= self._peers.keys()

    @property
    def waiting(self) -> frozenset[str]:
        """Policies whose learner waits for a batch, and has none to train on meanwhile."""
        busy = {policy for policy, _ in self._batches}
        return frozenset(policy for policy, parked in self._parked.items() if parked) - busy
