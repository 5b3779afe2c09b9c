"""A learner group that trains nothing: it speaks the protocol of `engine.desk`, and takes its time.

Batches are trained in the order in which they arrive, and published before the next one is. While
the servers of a policy get its weights, they sample nothing for it (`weights.pause: retract`).
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.tasks import concurrently
from engine.transport import Message
from launch.simulation.cores import Process
from launch.simulation.server import Server
from launch.simulation.service_times import LearnerTimes
from launch.simulation.wire import Wire

_AFTER = 1.0
"""Answers of a server that a publication waits for when it generates again: the probe's."""


@dataclass(slots=True, kw_only=True)
class SimulatedLearner:
    """Rank 0 of a group, and all other ranks with it."""

    name: str
    policies: Sequence[str]
    times: Mapping[str, LearnerTimes]
    senders: int
    """Ranks that share the copies of a publication."""
    process: Process
    wire: Wire
    servers: Mapping[str, Server]
    """By url."""
    urls: dict[str, list[str]]
    """{policy or follower: urls of its servers}."""
    prefetch: int
    checkpoint_every: int
    trained: Counter[str] = field(default_factory=Counter)
    """Sampled tokens, by policy."""
    publications: int = 0
    publishing_s: float = 0.0
    """Spent on publications, waiting included."""
    _asked: Counter[str] = field(default_factory=Counter)
    _steps: Counter[str] = field(default_factory=Counter)
    _versions: dict[str, int] = field(default_factory=dict)
    _batches: deque[Message] = field(default_factory=deque)

    @property
    def peer(self) -> bytes:
        return self.name.encode()

    async def run(self) -> None:
        """From hello to bye."""
        states = {policy: {"step": 0, "request": 0} for policy in self.policies}
        self._tell("hello", policies=states)
        welcome = await self._inbox.get()
        for name, version in welcome["versions"].items():
            await self._publish(name, int(version), 0)
        for policy in self.policies:
            for _ in range(1 + self.prefetch):
                self._ask(policy)
        while await self._receive():
            if self._batches:
                await self._train(self._batches.popleft())

    def stop(self) -> None:
        """As Ctrl-C does: what is in flight is given up, and the engine says bye."""
        self._tell("stopping")

    @property
    def _inbox(self) -> asyncio.Queue[Message]:
        return self.wire.inbox(self.peer)

    def _tell(self, kind: str, **content: object) -> None:
        self.wire.tell(self.peer, {"kind": kind, **content})

    def _ask(self, policy: str) -> None:
        self._asked[policy] += 1
        self._tell("next", policy=policy, request=self._asked[policy])

    async def _receive(self) -> bool:
        """Take what has arrived; wait for it where there is nothing to train on. False: bye."""
        while not self._inbox.empty() or not self._batches:
            message = await self._inbox.get()
            kind = message["kind"]
            if kind == "bye":
                return False
            if kind == "batch" and message["groups"]:
                self._batches.append(message)
            elif kind == "batch":
                self._ask(message["policy"])
            elif kind == "release":
                self.urls[message["policy"]].remove(message["url"])
                self._tell("released", policy=message["policy"], url=message["url"])
            elif kind == "assign":
                await self._fill(message["policy"], message["url"])
        return True

    async def _train(self, batch: Message) -> None:
        policy, times = batch["policy"], self.times[batch["policy"]]
        tokens = num_tokens(batch)
        await self.process.work(times.step_s + times.state_s + times.token_s * tokens)
        self._steps[policy] += 1
        self.trained[policy] += tokens
        self._tell(
            "stepped",
            policy=policy,
            request=batch["request"],
            step=batch["step"],
            skipped=False,
            reason="",
            metrics={"tokens": tokens},
        )
        for name, version in batch["versions"].items():
            await self._publish(name, int(version), int(batch["step"]))
        if self._steps[policy] % self.checkpoint_every == 0:
            self._tell("saved", policy=policy, step=batch["step"], oldest_request=batch["request"])
        self._ask(policy)

    async def _publish(self, name: str, version: int, step: int) -> None:
        """To all servers of a policy or follower at once."""
        self._versions[name] = version
        urls = list(self.urls[name])
        times, began_s = self._times_of(name), asyncio.get_running_loop().time()
        await self.process.work(times.publish_s)

        async def send(url: str) -> None:
            await self._send(name, url, times, self._copies(name))

        await concurrently(send, urls)
        self.publications += 1
        self.publishing_s += asyncio.get_running_loop().time() - began_s
        self._tell("published", policy=name, version=version, step=step, servers=urls, failed={})

    async def _fill(self, name: str, url: str) -> None:
        """A server that has come from another policy."""
        self.urls[name].append(url)
        await self._send(name, url, self._times_of(name), 1)
        version = self._versions[name]
        self._tell("serving", policy=name, version=version, servers=[url])

    async def _send(self, name: str, url: str, times: LearnerTimes, copies: int) -> None:
        """To one server, by a rank that sends so many copies."""
        server, left = self.servers[url], times.answers
        server.pause(name)
        while left > _AFTER:
            await server.answer(min(1.0, left - _AFTER))
            left -= min(1.0, left - _AFTER)
        await asyncio.sleep(times.copy_s * copies)
        await server.work(server.times.update_s)
        server.resume(name, self._versions[name])
        await server.answer(min(left, _AFTER))

    def _copies(self, name: str) -> int:
        """What one rank sends: all share a policy's servers; a follower's are rank 0's."""
        senders = self.senders if name in self.policies else 1
        return math.ceil(len(self.urls[name]) / senders)

    def _times_of(self, name: str) -> LearnerTimes:
        """A follower's weights are those of a policy of this group: as costly as the first's."""
        return self.times.get(name, self.times[self.policies[0]])


def num_tokens(batch: Message) -> int:
    """Sampled tokens of a batch, as `SimulatedSampler` notes them: each rollout's own number."""
    number = 0
    for group in batch["groups"]:
        prompts = [int.from_bytes(prompt, "little") for prompt in group["prompts"]]
        number += sum(prompts[rollout["prompt"]] for rollout in group["rollouts"])
    return number
