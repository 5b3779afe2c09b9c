"""One learner group: it hosts the trainers of one or several policies on its ranks.

Rank 0 alone talks to the engine and decides; it broadcasts one command at a time over a gloo
control group, and every rank executes the commands in that order on its one thread, so no two
collectives ever interleave:

    step POLICY BATCH    train on the groups of a batch
    publish POLICY       gather whole buckets; rank 0 sends them to the policy's servers
    save POLICY          checkpoint
    stop                 leave

Rank 0 waits for a message of the engine at most `GAP_S` at a time. Between two commands it looks
after its servers every `SERVER_CHECK_S`: a late or restarted one gets the weights that are already
published, under their own version. A request for a batch is numbered; the engine answers it once,
whatever came of it.
"""

import http.client
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from transformers.utils.logging import disable_progress_bar

from engine.config import WeightsConfig
from engine.errors import CheckpointError, TransportError, WeightSyncError
from engine.learner import checkpoint
from engine.learner.config import LearnerConfig
from engine.learner.trainer import PolicyTrainer, StepReport, load_reference
from engine.transport import Images, LearnerSocket, Message
from engine.weights import ServerLink, checksums, publish, server_checksums
from engine.wire import decode_group, from_frames, to_frames

log = logging.getLogger(__name__)

GAP_S = 0.2
SERVER_CHECK_S = 2.0
HELLO_TIMEOUT_S = 1800.0
"""The engine welcomes nobody before all groups have loaded their weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """What one rank of a learner group needs to know."""

    policies: tuple[str, ...]
    rank: int
    """Within the group."""
    world: int
    base: Path
    device: Literal["cpu", "cuda"]
    backend: Literal["gloo", "nccl"]
    seed: int
    steps: int
    checkpoint_every: int
    keep_checkpoints: int
    checkpoints: dict[str, Path]
    learner: LearnerConfig
    weights: WeightsConfig
    address: str
    servers: dict[str, tuple[str, ...]]
    tensor_parallel: dict[str, int]
    """{server url: its tensor-parallel size}."""


def run_learner(
    spec: LearnerSpec,
    *,
    store: dist.Store,
    should_stop: Callable[[], bool],
    is_engine_gone: Callable[[], bool],
) -> None:
    """Load or resume every policy, then train until the engine says bye. Raises what went wrong."""
    torch.set_num_threads(1)
    disable_progress_bar()
    group = LearnerGroup(spec, store)
    if spec.rank == 0:
        leader = Leader(spec, group, should_stop, is_engine_gone)
        try:
            leader.run()
        finally:
            leader.close()
    else:
        group.follow()


class LearnerGroup:
    """The trainers of this rank, and the commands that all ranks execute together."""

    def __init__(self, spec: LearnerSpec, store: dist.Store) -> None:
        self.spec = spec
        self._control: dist.ProcessGroup | None = None
        if spec.world > 1:
            prefix = dist.PrefixStore(f"learners/{spec.policies[0]}", store)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if spec.backend == "nccl" else "gloo",
                store=prefix,
                rank=spec.rank,
                world_size=spec.world,
            )
            # The other ranks wait in it for the next command, however long that takes.
            self._control = dist.new_group(backend="gloo", timeout=timedelta(days=365))
        self.requests: dict[str, int] = {}
        # The KL anchor is the base, frozen and shared, also after a resume.
        self._reference = (
            load_reference(spec.base, device=spec.device) if spec.learner.kl_beta else None
        )
        self.trainers = {policy: self._load(policy) for policy in spec.policies}

    def _load(self, policy: str) -> PolicyTrainer:
        """The trainer of `policy`, from its newest valid checkpoint or from the base."""
        path, warnings = checkpoint.latest_valid(self.spec.checkpoints[policy])
        for warning in warnings:
            log.warning("%s", warning)
        trainer = PolicyTrainer(
            policy,
            path or self.spec.base,
            self.spec.learner,
            total_steps=self.spec.steps,
            seed=self.spec.seed,
            device=self.spec.device,
            reference=self._reference,
        )
        self.requests[policy] = 0
        if path is not None:
            meta = checkpoint.load(path, trainer)
            self.requests[policy] = int(meta["request"])
        return trainer

    def broadcast(self, command: Message, images: Images) -> tuple[Message, Images]:
        """Rank 0's command and its pictures, on every rank of the group."""
        if self._control is None:
            return command, images
        frames = to_frames(command, images) if self.spec.rank == 0 else []
        count = torch.tensor([len(frames)])
        dist.broadcast(count, 0, group=self._control)
        lengths = torch.tensor([len(f) for f in frames] or [0] * int(count))
        dist.broadcast(lengths, 0, group=self._control)
        payload = torch.empty(int(lengths.sum()), dtype=torch.uint8)
        if self.spec.rank == 0:
            payload = torch.frombuffer(bytearray(b"".join(frames)), dtype=torch.uint8)
        dist.broadcast(payload, 0, group=self._control)
        return from_frames([part.numpy().tobytes() for part in payload.split(lengths.tolist())])

    def follow(self) -> None:
        """Ranks other than 0: execute rank 0's commands until it says stop."""
        while True:
            command, images = self.broadcast({}, {})
            if command["kind"] == "stop":
                return
            self.execute(command, images)

    def execute(self, command: Message, images: Images) -> Any:
        """One command, on this rank."""
        policy = command["policy"]
        if command["kind"] == "step":
            groups = [decode_group(row, images) for row in command["groups"]]
            return self.trainers[policy].step(groups)
        if command["kind"] == "save":
            return self.save(policy, int(command["request"]))
        if command["kind"] == "publish":
            for _ in range(int(command["passes"])):
                for _ in self.trainers[policy].named_weights():
                    pass  # takes part in the gathers; rank 0 sends what they give
            return None
        raise TransportError(f"unknown command {command['kind']!r} in a learner group")

    def save(self, policy: str, request: int) -> None:
        folder = self.spec.checkpoints[policy]
        trainer = self.trainers[policy]
        checkpoint.save(folder, trainer, base=self.spec.base, meta={"request": request})
        if self.spec.rank == 0:
            checkpoint.prune(folder, self.spec.keep_checkpoints, newest=trainer.step_count)


@dataclass(slots=True)
class Published:
    """What the servers of one policy have."""

    version: int
    step: int
    links: dict[str, ServerLink] = field(default_factory=dict)
    count: int = 0


class Leader:
    """Rank 0 of a group: the engine's peer, and the one that decides."""

    def __init__(
        self,
        spec: LearnerSpec,
        group: LearnerGroup,
        should_stop: Callable[[], bool],
        is_engine_gone: Callable[[], bool],
    ) -> None:
        self._spec = spec
        self._group = group
        self._should_stop = should_stop
        self._is_engine_gone = is_engine_gone
        self._socket = LearnerSocket(spec.address, identity="learner-" + "-".join(spec.policies))
        self._published: dict[str, Published] = {}
        self._attempt = 0
        self._kept: dict[str, dict[int, int]] = {}
        """{policy: {step: request}} of the checkpoints of this attempt that are kept."""
        self._checked = 0.0
        self._started = time.monotonic()
        self._busy_s = dict.fromkeys((*spec.policies, "publish"), 0.0)

    def run(self) -> None:
        """Hello, then batches until the engine says bye or this process is told to stop."""
        self._hello()
        for policy in self._spec.policies:
            self._ask(policy)
        while True:
            if self._should_stop():
                self._stop()
                return
            message = self._socket.receive(GAP_S)
            if message is None and self._is_engine_gone():
                raise TransportError("the engine process is gone")
            if message is not None:
                command, images = message
                if command["kind"] == "batch":
                    self._train(command, images)
                elif command["kind"] == "save":
                    self._save_all()
                elif command["kind"] == "bye":
                    break
            if time.monotonic() - self._checked > SERVER_CHECK_S:
                self._look_after_servers()
                self._checked = time.monotonic()
        self._leave()

    def _hello(self) -> None:
        trainers, requests = self._group.trainers, self._group.requests
        states = {
            policy: {"step": trainers[policy].step_count, "request": requests[policy]}
            for policy in self._spec.policies
        }
        self._socket.send({"kind": "hello", "policies": states})
        deadline = time.monotonic() + HELLO_TIMEOUT_S
        while (message := self._socket.receive(GAP_S)) is None:
            if self._is_engine_gone() or self._should_stop() or time.monotonic() > deadline:
                raise TransportError(f"no engine answers at {self._spec.address}")
        header, _ = message
        if header["kind"] != "welcome":
            raise TransportError(f"the engine answered {header['kind']!r} to hello")
        self._attempt = int(header["attempt"])
        for policy in self._spec.policies:
            self._published[policy] = Published(
                int(header["versions"][policy]), trainers[policy].step_count
            )

    def _ask(self, policy: str) -> None:
        self._group.requests[policy] += 1
        self._socket.send(
            {
                "kind": "next",
                "policy": policy,
                "request": self._group.requests[policy],
                "attempt": self._attempt,
            }
        )

    def _train(self, batch: Message, images: Images) -> None:
        """One answered request: a step unless the batch is empty or bad, and its publication."""
        policy, request = batch["policy"], int(batch["request"])
        if not batch["groups"]:
            self._ask(policy)
            return
        report, seconds = self._timed(policy, {**batch, "kind": "step"}, images)
        assert isinstance(report, StepReport)
        self._socket.send(
            {
                "kind": "stepped",
                "policy": policy,
                "request": request,
                "step": self._group.trainers[policy].step_count,
                "skipped": report.skipped,
                "reason": report.reason,
                "metrics": {**report.metrics, "step_s": seconds},
                "busy_s": sum(self._busy_s.values()),
                "alive_s": time.monotonic() - self._started,
            }
        )
        if report.skipped:
            self._ask(policy)
            return
        self._publish_step(policy, int(batch["version"]))
        step = self._group.trainers[policy].step_count
        if step % self._spec.checkpoint_every == 0 or step >= self._spec.steps:
            self._save(policy, request)
        self._ask(policy)

    def _timed(self, policy: str, command: Message, images: Images) -> tuple[Any, float]:
        started = time.monotonic()
        result = self._group.execute(*self._group.broadcast(command, images))
        seconds = time.monotonic() - started
        self._busy_s[policy] += seconds
        return result, seconds

    def _save(self, policy: str, request: int) -> None:
        try:
            command = {"kind": "save", "policy": policy, "request": request}
            self._timed(policy, command, {})
        except CheckpointError as error:
            # A full disk must not cost the run: the previous checkpoint stays valid.
            log.error("%s", error)
            self._socket.send({"kind": "event", "text": str(error), "level": "warning"})
            return
        step = self._group.trainers[policy].step_count
        kept = self._kept.setdefault(policy, {})
        kept[step] = request
        while len(kept) > self._spec.keep_checkpoints:
            del kept[min(kept)]
        # Until this attempt has written as many as are kept, older ones may still be there.
        oldest = min(kept.values()) if len(kept) == self._spec.keep_checkpoints else 0
        self._socket.send(
            {"kind": "saved", "policy": policy, "step": step, "oldest_request": oldest}
        )

    def _save_all(self) -> None:
        for policy in self._spec.policies:
            # The open request is not part of these weights.
            self._save(policy, self._group.requests[policy] - 1)

    def _publish_step(self, policy: str, version: int) -> None:
        state = self._published[policy]
        state.version, state.step = version, self._group.trainers[policy].step_count
        self._publish(policy, dict(state.links))

    def _publish(self, policy: str, links: dict[str, ServerLink]) -> None:
        """Send the current weights, as the current version, to the servers behind `links`."""
        state, cfg = self._published[policy], self._spec.weights
        # Whole buckets are gathered twice, to check and to send; never the whole model at once.
        self._group.broadcast({"kind": "publish", "policy": policy, "passes": 2}, {})
        started = time.monotonic()
        report = publish(
            self._group.trainers[policy].named_weights,
            list(links.values()),
            version=state.version,
            bucket_bytes=int(cfg.bucket_mb * 2**20),
            pause_mode=None if cfg.pause == "drain" else cfg.pause,
            timeout_s=cfg.timeout_s,
        )
        seconds = time.monotonic() - started
        self._busy_s["publish"] += seconds
        failed = {url: result.error for url, result in report.servers.items() if not result.ok}
        if state.count == 0 or (cfg.checksum_every and state.count % cfg.checksum_every == 0):
            failed |= self._compare(policy, [url for url in links if url not in failed])
        state.count += 1
        for url, error in failed.items():
            log.warning("publication of %s v%d: %s", policy, state.version, error)
            state.links.pop(url).close()
        self._socket.send(
            {
                "kind": "published",
                "policy": policy,
                "version": state.version,
                "step": state.step,
                "servers": [url for url in links if url not in failed],
                "failed": failed,
                "seconds": seconds,
            }
        )

    def _compare(self, policy: str, urls: list[str]) -> dict[str, str]:
        """{url: error} of the servers whose weights are not ours, bit for bit. A server whose
        tensors have other names (SGLang fuses some) is only asked whether it answers."""
        # A gather is a collective: without the command the other ranks would never join it.
        self._group.broadcast({"kind": "publish", "policy": policy, "passes": 1}, {})
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

    def _look_after_servers(self) -> None:
        """Fill late and restarted servers; tell the engine which serve our weights."""
        for policy in self._spec.policies:
            state = self._published[policy]
            serving, late = [], {}
            for url in self._spec.servers[policy]:
                version = served_version(url)
                if version == str(state.version) and url in state.links:
                    serving.append(url)
                elif version is not None and (link := self._connect(policy, url)):
                    late[url] = link
            if serving:
                self._socket.send(
                    {
                        "kind": "serving",
                        "policy": policy,
                        "version": state.version,
                        "servers": serving,
                    }
                )
            if late:
                self._publish(policy, late)

    def _connect(self, policy: str, url: str) -> ServerLink | None:
        state = self._published[policy]
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

    def _stop(self) -> None:
        """The first Ctrl-C: save, tell the engine, and wait until it has written its summary."""
        self._save_all()
        self._socket.send({"kind": "stopping"})
        deadline = time.monotonic() + 20.0
        while not self._is_engine_gone() and time.monotonic() < deadline:
            message = self._socket.receive(GAP_S)
            if message is not None and message[0]["kind"] == "bye":
                break
        self._leave()

    def _leave(self) -> None:
        self._group.broadcast({"kind": "stop", "policy": ""}, {})
        for state in self._published.values():
            for link in state.links.values():
                link.close()

    def close(self) -> None:
        """Close the socket: a context that is collected with an open one blocks for ever."""
        self._socket.close()


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
