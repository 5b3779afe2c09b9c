"""Where the weights of a group's policies go: links to servers, publications, and their proof.

Rank 0 only. A server that is late, restarted or failed is filled as soon as it answers, with the
weights that are already published and under their own version. Every publication is followed by a
*probe* (log-probs of fixed tokens, ours against the server's), the first and every n-th also by a
comparison of checksums: weights that arrived wrong are never routed to.
"""

import http.client
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from engine.errors import WeightSyncError
from engine.learner.group import PROBE, LearnerGroup
from engine.transport import Message
from engine.weights import ServerLink, checksums, probe, publish, server_checksums

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Published:
    """What the servers of one policy have, or are to have."""

    version: int
    step: int
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
        self._tell = tell
        """Sends a message to the engine."""
        self.states: dict[str, Published] = {}
        self.busy_s = 0.0

    def begin(self, policy: str, version: int) -> None:
        """The weights as they are now have this version; servers get it as they turn up."""
        self.states[policy] = Published(version, self._group.trainers[policy].step_count)

    def publish_step(self, policy: str, version: int) -> None:
        """A step was made: send its weights to all servers that are linked."""
        state = self.states[policy]
        state.version, state.step = version, self._group.trainers[policy].step_count
        self._publish(policy, dict(state.links))

    def look_after_servers(self) -> None:
        """Fill late and restarted servers; tell the engine which serve our weights."""
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
        for state in self.states.values():
            for link in state.links.values():
                link.close()

    def _publish(self, policy: str, links: dict[str, ServerLink]) -> None:
        """Send the current weights, as the current version, to the servers behind `links`."""
        state, cfg = self.states[policy], self._spec.weights
        started = time.monotonic()
        # Whole buckets are gathered twice, to check and to send; never the whole model at once.
        self._group.broadcast({"kind": "gather", "policy": policy, "passes": 2}, {})
        report = publish(
            self._group.trainers[policy].named_weights,
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
        self.busy_s += state.seconds
        for url, error in failed.items():
            log.warning("publication of %s v%d: %s", policy, state.version, error)
            state.links.pop(url).close()
        self._tell(
            {
                "kind": "published",
                "policy": policy,
                "version": state.version,
                "step": state.step,
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
        command = {"kind": "score", "policy": policy}
        ours = self._group.execute(*self._group.broadcast(command, {}))
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
        # A gather is a collective: without the command the other ranks would never join it.
        self._group.broadcast({"kind": "gather", "policy": policy, "passes": 1}, {})
        ours = checksums(self._group.trainers[policy].named_weights())
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
