"""Rank 0 of a learner group: the engine's peer, and the one that decides.

It waits for a message of the engine at most `GAP_S` at a time, and never inside a collective.
Between two commands it looks after its servers every `SERVER_CHECK_S` (`publisher.py`). What the
ranks do together is a command (`group.py`). A request for a batch is numbered; the engine answers
it once, whatever came of it. Some are asked for ahead, so that one can be prepared while another
trains.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from transformers.utils.logging import disable_progress_bar

from engine.config import SAVE_SHARE, stopped_s
from engine.errors import CheckpointError, EngineError, TransportError
from engine.learner.bad_batches import REASONS, BadBatches
from engine.learner.checkpoint_writer import Saved
from engine.learner.group import LearnerGroup
from engine.learner.publisher import Publisher
from engine.learner.spec import LearnerSpec
from engine.learner.trainer import StepReport
from engine.transport import Images, LearnerSocket, Message

log = logging.getLogger(__name__)

GAP_S = 0.2
SERVER_CHECK_S = 2.0
SUMMARY_S = 20.0
"""For the engine, to write its summary, after the last learner group has saved."""
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
    try:
        if spec.rank == 0:
            leader = Leader(spec, group, should_stop, is_engine_gone)
            try:
                leader.run()
            finally:
                leader.close()
        else:
            group.follow()
    except Exception:
        # The next attempt goes on from what is being written, which takes less than its steps did.
        group.checkpoints.wait(SAVE_SHARE * spec.stop_s)
        raise


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
        identity = "learner-" + "-".join(spec.policies)
        self._socket = LearnerSocket(spec.address, identity, spec.key)
        self._publisher = Publisher(group, self._socket.send)
        self._attempt = 0
        self._kept: dict[str, dict[int, int]] = {}
        """{policy: {step: request}} of the checkpoints of this attempt that are kept."""
        self._asked = dict(group.requests)
        """The last request of each policy."""
        self._open: Counter[str] = Counter()
        """Requests of each policy that are not finished: not answered, or the batch not trained."""
        self._done = dict(group.requests)
        """The last request of each policy that was trained, or found bad."""
        self._versions: dict[tuple[str, int], Mapping[str, int]] = {}
        """By policy and step: what its weights, and its followers', are published as."""
        self._ready: deque[Message] = deque()
        """Batches that are prepared or being prepared, without their groups."""
        self._bad_batches = BadBatches(spec.bad_batches, spec.learner.max_bad_batches)
        self._disagreeing: set[str] = set()
        """Policies whose sampler and learner disagree."""
        self._is_told_to_stop = False
        self._checked = 0.0
        self._started = time.monotonic()
        self._busy_s = 0.0

    def run(self) -> None:
        """Hello, then batches until the engine says bye or this process is told to stop."""
        self._hello()
        for policy in self._spec.policies:
            self._ask_ahead(policy)
        while True:
            if self._should_stop() or self._is_told_to_stop:
                self._stop()
                return
            # What has arrived meanwhile is prepared while the next batch trains.
            if not self._receive(0.0 if self._ready else GAP_S):
                if self._is_told_to_stop:  # another group was quicker, and "bye" came right behind
                    self._save_all()
                break
            if self._ready:
                self._train(self._ready.popleft())
            self._report_saves(self._group.checkpoints.poll())
            self._publisher.report()
            is_due = time.monotonic() - self._checked > SERVER_CHECK_S
            if is_due and self._publisher.look_after_servers():
                self._checked = time.monotonic()
        self._leave()

    def _receive(self, wait_s: float) -> bool:
        """Handle what the engine has sent, waiting `wait_s` for the first message. False: bye."""
        message = self._socket.receive(wait_s)
        if message is None and self._is_engine_gone():
            raise TransportError("the engine process is gone")
        while message is not None:
            command, images = message
            if command["kind"] == "batch":
                self._begin(command, images)
            elif command["kind"] == "release":
                self._publisher.release(command["policy"], command["url"])
            elif command["kind"] == "assign":
                self._publisher.assign(command["policy"], command["url"])
                self._checked = 0.0  # it serves nobody before it is looked after
            elif command["kind"] == "save":
                self._save_all()
            elif command["kind"] == "stop":
                self._is_told_to_stop = True
            elif command["kind"] == "bye":
                return False
            message = self._socket.receive(0.0)
        return True

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
        self._attempt = self._bad_batches.attempt = int(header["attempt"])
        self._publisher.begin(header["versions"])

    def _ask_ahead(self, policy: str) -> None:
        """Ask for as many batches as may be under way."""
        while self._open[policy] < 1 + self._spec.learner.prefetch:
            self._asked[policy] += 1
            self._open[policy] += 1
            self._socket.send(
                {
                    "kind": "next",
                    "policy": policy,
                    "request": self._asked[policy],
                    "attempt": self._attempt,
                }
            )

    def _finished(self, policy: str) -> None:
        """One request of the policy is done with."""
        self._open[policy] -= 1
        self._ask_ahead(policy)

    def _begin(self, batch: Message, images: Images) -> None:
        """Begin to prepare an answered request's batch."""
        policy = batch["policy"]
        if not batch["groups"]:
            self._finished(policy)
            return
        self._versions[policy, int(batch["step"])] = batch["versions"]
        command = {
            "kind": "prepare",
            "policy": policy,
            "groups": batch["groups"],
            "ages": batch["ages"],
        }
        self._group.run(command, images)
        self._ready.append({key: value for key, value in batch.items() if key != "groups"})

    def _train(self, batch: Message) -> None:
        """One prepared batch: a step unless it is bad, and its publication."""
        policy, request = batch["policy"], int(batch["request"])
        published = self._publisher.states[policy]  # of the step before
        cpu_began = time.process_time()
        (report, groups), seconds = self._timed({"kind": "step", "policy": policy})
        cpu_s = time.process_time() - cpu_began
        assert isinstance(report, StepReport)
        self._done[policy] = request
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
                    "step_cpu_s": cpu_s,
                    "publish_s": published.seconds,
                    "publish_cpu_s": published.cpu_s,
                    "process_cpu_s": time.process_time(),
                    "probe_gap": published.probe_gap,
                },
                "busy_s": self._busy_s + self._publisher.busy_s,
                "alive_s": time.monotonic() - self._started,
            }
        )
        if report.reason in REASONS:
            self._bad_batches.bad(policy, request, report.reason, groups)
        elif not report.skipped:
            self._bad_batches.good(policy)
        self._watch_gap(policy, report)
        if not report.skipped:
            step = self._group.trainers[policy].step_count
            for name, version in self._versions.pop((policy, step)).items():
                self._publisher.publish_step(name, int(version))
            if step % self._spec.checkpoint_every == 0 or step >= self._spec.steps:
                self._save(policy, request)
        self._finished(policy)

    def _watch_gap(self, policy: str, report: StepReport) -> None:
        """Warn once when sampler and learner begin to disagree about the same weights."""
        gap = report.metrics.get("sampler_gap")
        if gap is None:
            return
        limit = self._spec.learner.gap_alarm
        if gap > limit and policy not in self._disagreeing:
            self._disagreeing.add(policy)
            text = (
                f"{policy}: the servers' log-probs differ from the learner's by {gap:.3g} nats per "
                f"token for the same weights (learner.gap_alarm is {limit}): another precision, "
                "image processor or temperature?"
            )
            self._socket.send({"kind": "event", "text": text, "level": "warning"})
        elif gap <= limit:
            self._disagreeing.discard(policy)

    def _timed(self, command: Message) -> tuple[Any, float]:
        started = time.monotonic()
        result = self._group.run(command)
        seconds = time.monotonic() - started
        self._busy_s += seconds
        return result, seconds

    def _save(self, policy: str, request: int) -> None:
        self._timed({"kind": "save", "policy": policy, "request": request})

    def _report_saves(self, results: Sequence[Saved | CheckpointError]) -> None:
        """Tell the engine of checkpoints that are in place, and of those that failed."""
        for result in results:
            if isinstance(result, Saved):
                self._report_saved(result)
                continue
            # A full disk must not cost the run: the previous checkpoint stays valid.
            log.error("%s", result)
            self._socket.send({"kind": "event", "text": str(result), "level": "warning"})

    def _report_saved(self, saved: Saved) -> None:
        kept = self._kept.setdefault(saved.policy, {})
        kept[saved.step] = int(saved.meta["request"])
        while len(kept) > self._spec.keep_checkpoints:
            del kept[min(kept)]
        # Until this attempt has written as many as are kept, older ones may still be there.
        oldest = min(kept.values()) if len(kept) == self._spec.keep_checkpoints else 0
        self._socket.send(
            {
                "kind": "saved",
                "policy": saved.policy,
                "step": saved.step,
                "oldest_request": oldest,
            }
        )

    def _save_all(self) -> None:
        self._report_saves(self._group.checkpoints.wait(SAVE_SHARE * self._spec.stop_s))
        for policy in self._spec.policies:
            step = self._group.trainers[policy].step_count
            record = self._spec.checkpoints[policy] / f"step-{step:08d}" / "trainer.json"
            if step in self._kept.get(policy, {}) and record.exists():
                continue  # to replace it by itself would leave none for a moment
            # The open requests are not part of these weights.
            self._save(policy, self._done[policy])

    def _stop(self) -> None:
        """The first Ctrl-C, or the engine's "stop": save, tell the engine, and wait until it has
        written its summary."""
        began = time.monotonic()
        self._save_all()
        self._report_saves(self._group.checkpoints.wait(SAVE_SHARE * self._spec.stop_s))
        self._socket.send({"kind": "stopping", "seconds": time.monotonic() - began})
        deadline = began + stopped_s(self._spec.stop_s) + SUMMARY_S
        with suppress(EngineError):  # all is saved: nothing that can be lost now matters
            while not self._is_engine_gone() and time.monotonic() < deadline:
                message = self._socket.receive(GAP_S)
                if message is not None and message[0]["kind"] == "bye":
                    break
        self._leave()

    def _leave(self) -> None:
        self._report_saves(self._group.checkpoints.wait())
        self._group.control.broadcast({"kind": "stop"}, {})
        self._publisher.close()

    def close(self) -> None:
        """Close the socket: a context that is collected with an open one blocks for ever. After an
        error, too, nothing of ours is left in memory."""
        self._socket.close()
        self._publisher.forget_folders()
