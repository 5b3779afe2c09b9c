"""Rank 0 of a learner group: the engine's peer, and the one that decides.

It waits for a message of the engine at most `GAP_S` at a time, and never inside a collective.
Between two commands it looks after its servers every `SERVER_CHECK_S` (`publisher.py`). What the
ranks do together is a command (`group.py`). A request for a batch is numbered; the engine answers
it once, whatever came of it.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from transformers.utils.logging import disable_progress_bar

from engine.errors import CheckpointError, TransportError
from engine.learner.group import LearnerGroup, LearnerSpec
from engine.learner.publisher import Publisher
from engine.learner.trainer import StepReport
from engine.transport import Images, LearnerSocket, Message

log = logging.getLogger(__name__)

GAP_S = 0.2
SERVER_CHECK_S = 2.0
HELLO_TIMEOUT_S = 1800.0
"""The engine welcomes nobody before all groups have loaded their weights."""


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
        self._publisher = Publisher(group, self._socket.send)
        self._attempt = 0
        self._kept: dict[str, dict[int, int]] = {}
        """{policy: {step: request}} of the checkpoints of this attempt that are kept."""
        self._checked = 0.0
        self._started = time.monotonic()
        self._busy_s = 0.0

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
                self._publisher.look_after_servers()
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
        self._publisher.begin(header["versions"])

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
        published = self._publisher.states[policy]  # of the step before
        self._socket.send(
            {
                "kind": "stepped",
                "policy": policy,
                "request": request,
                "step": self._group.trainers[policy].step_count,
                "skipped": report.skipped,
                "reason": report.reason,
                "metrics": {
                    **report.metrics,
                    "step_s": seconds,
                    "publish_s": published.seconds,
                    "probe_gap": published.probe_gap,
                },
                "busy_s": self._busy_s + self._publisher.busy_s,
                "alive_s": time.monotonic() - self._started,
            }
        )
        if report.skipped:
            self._ask(policy)
            return
        versions = {policy: batch["version"], **batch.get("follower_versions", {})}
        for name, version in versions.items():
            self._publisher.publish_step(name, int(version))
        step = self._group.trainers[policy].step_count
        if step % self._spec.checkpoint_every == 0 or step >= self._spec.steps:
            self._save(policy, request)
        self._ask(policy)

    def _timed(self, policy: str, command: Message, images: Images) -> tuple[Any, float]:
        started = time.monotonic()
        result = self._group.execute(*self._group.broadcast(command, images))
        seconds = time.monotonic() - started
        self._busy_s += seconds
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
        self._publisher.close()

    def close(self) -> None:
        """Close the socket: a context that is collected with an open one blocks for ever."""
        self._socket.close()


__all__ = ["Leader", "LearnerGroup", "LearnerSpec", "run_learner"]
