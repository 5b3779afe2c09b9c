"""Where the weights of a group's policies go: links to servers, publications, and their proof.

Rank 0 only. A server that is late, restarted or failed is filled as soon as it answers, with the
weights that are already published and under their own version. Every publication is followed by a
*probe* (log-probs of fixed tokens, ours against the server's), the first and every n-th also by a
comparison of checksums: weights that arrived wrong are never routed to.

A policy's servers get its weights as they are (`Current`); those of a follower
(`engine.layout.Follower`) get a copy that was made of them some steps ago (`Pinned`).

With `weights.overlap` all that is published is such a copy: making it is a collective, in its place
among the other commands; all that follows is done by one thread while training goes on. No two
collectives of the learners ever interleave, and a server's group is used by that thread alone.
"""

import http.client
import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol
from urllib.parse import urlsplit

from torch import Tensor

from engine.errors import WeightSyncError
from engine.learner.group import PROBE, LearnerGroup
from engine.transport import Message
from engine.weights import (
    NamedTensors,
    ServerLink,
    checksums,
    probe,
    publish,
    server_checksums,
)

log = logging.getLogger(__name__)


class Weights(Protocol):
    """What is published, and what it is compared with."""

    step: int
    """Of the policy whose weights they are."""

    def renew(self) -> None:
        """From now on they are its weights of now."""
        ...

    def source(self, passes: int) -> Callable[[], NamedTensors]:
        """What gives the named tensors anew at each call, of which there must be `passes`."""
        ...

    def scores(self) -> list[float]:
        """Log-probs of the probe."""
        ...


class Current:
    """A policy's weights; whoever asks for them or their scores starts a collective."""

    def __init__(self, group: LearnerGroup, policy: str) -> None:
        self._group = group
        self._policy = policy
        self.renew()

    def renew(self) -> None:
        self.step = self._group.trainers[self._policy].step_count

    def source(self, passes: int) -> Callable[[], NamedTensors]:
        # Whole tensors are gathered one by one: without the command the other ranks would never
        # join in, and the whole model is never on one device at once.
        self._group.broadcast({"kind": "gather", "policy": self._policy, "passes": passes}, {})
        return self._group.trainers[self._policy].named_weights

    def scores(self) -> list[float]:
        command = {"kind": "score", "policy": self._policy}
        scores: list[float] = self._group.execute(*self._group.broadcast(command, {}))
        return scores


class Pinned:
    """A copy in host memory of a policy's weights; only `renew` is a collective."""

    def __init__(self, group: LearnerGroup, policy: str) -> None:
        self._current = Current(group, policy)
        self._device = group.trainers[policy].device
        self.renew()

    def renew(self) -> None:
        self._current.renew()
        self.step = self._current.step
        self._scores = self._current.scores()
        self._tensors: dict[str, Tensor] = {}  # the old copy goes first: room for one is enough
        for name, tensor in self._current.source(passes=1)():
            self._tensors[name] = tensor.to("cpu", copy=True)

    def source(self, passes: int) -> Callable[[], NamedTensors]:
        return lambda: ((name, part.to(self._device)) for name, part in self._tensors.items())

    def scores(self) -> list[float]:
        return self._scores


@dataclass(slots=True)
class Published:
    """What the servers of one policy or follower have, or are to have."""

    version: int
    weights: Weights
    links: dict[str, ServerLink] = field(default_factory=dict)
    count: int = 0
    """Publications so far."""
    probe_gap: float = 0.0
    """Largest difference of log-probs at the last probe, nats."""
    seconds: float = 0.0
    """What the last publication took, proof included."""


class Publisher:
    """The servers of a group's policies, seen from rank 0."""

    def __init__(self, group: LearnerGroup, tell: Callable[[Message], None]) -> None:
        self._group = group
        self._spec = group.spec
        self._tell_engine = tell
        """Sends a message to the engine; by the thread of the trainers only."""
        self._outbox: SimpleQueue[Message] = SimpleQueue()
        self._sender = ThreadPoolExecutor(1, "publish") if group.spec.weights.overlap else None
        self._jobs: dict[str, Future[None]] = {}
        """The last publication of each name, and the last look after the servers (``)."""
        self.states: dict[str, Published] = {}
        """By policy, and by follower."""
        self.busy_s = 0.0

    def begin(self, versions: Mapping[str, int]) -> None:
        """The weights as they are now have these versions; servers get them as they turn up.

        Followers too: a pin is in no checkpoint. A resumed run pins what it restored, under a new
        version, and so renews a follower once more than a run that was not interrupted.
        """
        kind = Current if self._sender is None else Pinned
        for policy in self._spec.policies:
            self.states[policy] = Published(int(versions[policy]), kind(self._group, policy))
        for name, follower in self._spec.followers.items():
            self.states[name] = Published(int(versions[name]), Pinned(self._group, follower.policy))

    def publish_step(self, name: str, version: int) -> None:
        """A step was made: send its weights to the servers of the policy, or of a follower that
        it renews, as far as they are linked."""
        state = self.states[name]
        for job in (self._jobs.get(name), self._jobs.get("")):
            if job is not None:
                job.result()  # it reads the copy that is about to be overwritten
        state.weights.renew()
        state.version = version
        self._run(name, lambda: self._publish(name, dict(state.links)))
        self.report()

    def look_after_servers(self) -> None:
        """Fill late and restarted servers; tell the engine which serve our weights."""
        if all(job.done() for job in self._jobs.values()):
            self._run("", self._look_after_servers)
        self.report()

    def report(self) -> None:
        """Tell the engine what the sending thread has to say. Raises what went wrong in it."""
        for job in self._jobs.values():
            if job.done():
                job.result()
        while not self._outbox.empty():
            self._tell_engine(self._outbox.get())

    def _run(self, name: str, job: Callable[[], None]) -> None:
        """Now, or by the sending thread where there is one."""
        if self._sender is None:
            job()
        else:
            self._jobs[name] = self._sender.submit(job)

    def _tell(self, message: Message) -> None:
        self._outbox.put(message)

    def _look_after_servers(self) -> None:
        for policy, state in self.states.items():
            serving, late = [], {}
            for url in self._spec.servers[policy]:
                version = served_version(url)
                if version == str(state.version) and url in state.links:
                    serving.append(url)
                elif version is not None and (link := self._connect(policy, url)):
                    late[url] = link
            if serving:
                self._tell(
                    {
                        "kind": "serving",
                        "policy": policy,
                        "version": state.version,
                        "servers": serving,
                    }
                )
            if late:
                self._publish(policy, late)

    def close(self) -> None:
        """Let the last publication end; leave the servers."""
        for job in self._jobs.values():
            job.result()
        self.report()
        for state in self.states.values():
            for link in state.links.values():
                link.close()

    def _publish(self, policy: str, links: dict[str, ServerLink]) -> None:
        """Send the weights of a policy or follower to the servers behind `links`."""
        state, cfg = self.states[policy], self._spec.weights
        started = time.monotonic()
        report = publish(
            state.weights.source(passes=2),  # to check and to send
            list(links.values()),
            version=state.version,
            bucket_bytes=int(cfg.bucket_mb * 2**20),
            pause_mode=None if cfg.pause == "drain" else cfg.pause,
            timeout_s=cfg.timeout_s,
        )
        failed = {url: result.error for url, result in report.servers.items() if not result.ok}
        failed |= self._probe(policy, [url for url in links if url not in failed])
        if state.count == 0 or (cfg.checksum_every and state.count % cfg.checksum_every == 0):
            failed |= self._compare(policy, [url for url in links if url not in failed])
        state.count += 1
        state.seconds = time.monotonic() - started
        if self._sender is None:
            self.busy_s += state.seconds  # the trainers waited for it
        for url, error in failed.items():
            log.warning("publication of %s v%d: %s", policy, state.version, error)
            state.links.pop(url).close()
        self._tell(
            {
                "kind": "published",
                "policy": policy,
                "version": state.version,
                "step": state.weights.step,
                "servers": [url for url in links if url not in failed],
                "failed": failed,
                "seconds": state.seconds,
            }
        )

    def _probe(self, policy: str, urls: list[str]) -> dict[str, str]:
        """{url: error} of the servers that give the probe's tokens other log-probs than we do."""
        state, cfg = self.states[policy], self._spec.weights
        if not urls:
            return {}
        ours = state.weights.scores()
        errors = {}
        state.probe_gap = 0.0
        for url in urls:
            try:
                theirs = probe(url, PROBE, timeout_s=cfg.timeout_s)
            except WeightSyncError as error:
                errors[url] = str(error)
                continue
            gap = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
            state.probe_gap = max(state.probe_gap, gap)
            if not gap <= cfg.probe_tolerance:
                errors[url] = (
                    f"the probe's log-probs differ by {gap:.3g} nats "
                    f"(weights.probe_tolerance is {cfg.probe_tolerance})"
                )
        return errors

    def _compare(self, policy: str, urls: list[str]) -> dict[str, str]:
        """{url: error} of the servers whose weights are not ours, bit for bit. A server whose
        tensors have other names (SGLang fuses some) is compared in those that it shares."""
        ours = checksums(self.states[policy].weights.source(passes=1)())
        errors = {}
        for url in urls:
            try:
                theirs = server_checksums(url, timeout_s=self._spec.weights.timeout_s)
            except WeightSyncError as error:
                errors[url] = str(error)
                continue
            different = [name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]]
            if different:
                errors[url] = f"{len(different)} tensors differ after publication: {different[0]}"
        return errors

    def _connect(self, policy: str, url: str) -> ServerLink | None:
        state = self.states[policy]
        if url in state.links:
            state.links.pop(url).close()
        link = ServerLink(
            url, backend=self._spec.backend, tensor_parallel=self._spec.tensor_parallel[url]
        )
        try:
            link.connect(self._spec.weights.timeout_s)
        except WeightSyncError as error:
            log.warning("%s", error)
            return None
        state.links[url] = link
        return link


def served_version(url: str, timeout_s: float = 5.0) -> str | None:
    """The weight version that a server reports; None where it does not answer (yet)."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port or 80, timeout=timeout_s
    )
    try:
        connection.request("GET", "/model_info")
        response = connection.getresponse()
        body = response.read()
        return str(json.loads(body)["weight_version"]) if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None
    finally:
        connection.close()
