"""What one rank of a learner group does: its trainers, and the commands of rank 0.

Every rank executes the commands in rank 0's order on its one thread, so no two collectives ever
interleave.

    prepare POLICY BATCH   begin to turn groups into tensors, in a thread of each rank
    step POLICY            train on the oldest batch that was prepared
    gather POLICY          take part in gathering all its weights, one tensor at a time
    connect SERVERS        make links to those of which this rank is the sender
    send POLICY SERVERS    gather its weights, and send them to those servers
    leave SERVER           its link, and all that is known of it
    score POLICY           log-probs of the probe
    save POLICY            begin a checkpoint; a thread of each rank writes it
    stop                   leave
"""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from engine.buckets import NamedTensors
from engine.errors import FatalError, TransportError
from engine.give_back import GiveBack
from engine.learner import checkpoint, sharding
from engine.learner.checkpoint_writer import CheckpointWriter
from engine.learner.control import Control
from engine.learner.costs import model_shape
from engine.learner.families import PolicyModel
from engine.learner.memory_check import check_device, setup_of
from engine.learner.preparation import Prepared
from engine.learner.sender import Sender
from engine.learner.spec import LearnerSpec
from engine.learner.trainer import PolicyTrainer, StepReport, load_reference
from engine.transport import Images, Message
from engine.types import Group
from engine.weights import ServerResult
from engine.wire import decode_group

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unprepared:
    """A batch that can't be turned into tensors: its prompts and pictures contradict the model."""

    groups: Sequence[Group]
    error: str


def _check_device(spec: LearnerSpec) -> None:
    """Raise ConfigError where this rank's GPU is too small for what it is to hold."""
    setup = setup_of(
        spec.base,
        spec.learner,
        policies=len(spec.policies),
        ranks=spec.world,
        shard=spec.shard,
        longest_row=spec.longest_row,
        followers=len(spec.followers),
        bucket_mb=spec.weights.bucket_mb,
        overlap=spec.weights.overlap,
    )
    available = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    check_device("layout.learners", model_shape(spec.base), setup, available)


class LearnerGroup:
    """The trainers of this rank, and the commands that all ranks execute together."""

    def __init__(self, spec: LearnerSpec, store: dist.Store) -> None:
        self.spec = spec
        if spec.device == "cuda":
            _check_device(spec)
        self.control = Control(
            f"learners/{spec.policies[0]}",
            store,
            rank=spec.rank,
            world=spec.world,
            backend=spec.backend,
            is_needed=spec.device == "cuda",
        )
        self.sender = Sender(spec)
        self._num_sent = 0
        """Publications of all ranks together."""
        self.addresses = [
            str(reply["at"]) for reply in self.control.gather({"at": spec.node_address})
        ]
        """By rank, of its node."""
        self.checkpoints = CheckpointWriter()
        self._give_back = GiveBack()
        self.requests: dict[str, int] = {}
        """The last request of each policy that the restored weights contain."""
        # One thread: batches are prepared in the order in which they will be trained on.
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._preparing: dict[str, deque[Future[Prepared | Unprepared]]] = defaultdict(deque)
        self._mesh = sharding.world_mesh(torch.device(spec.device), spec.shard)
        # The base, frozen and shared, also after a resume; else each policy has its own.
        objective = spec.learner.objective
        is_shared = objective.needs_reference and not objective.moves_reference
        self._reference = self._load_reference() if is_shared else None
        self.trainers = {policy: self._load(policy) for policy in spec.policies}
        self.layouts = {name: trainer.layout() for name, trainer in self.trainers.items()}
        """By policy, what its published tensors are, in their order."""

    def _load(self, policy: str) -> PolicyTrainer:
        """The trainer of `policy`, from its newest valid checkpoint or from the base."""
        path = self._newest(policy)
        trainer = PolicyTrainer(
            policy,
            self.spec.base,  # a checkpoint's weights have the adapters merged in
            self.spec.learner,
            total_steps=self.spec.steps,
            seed=self.spec.seed,
            device=self.spec.device,
            reference=self._load_reference()
            if self.spec.learner.objective.moves_reference
            else self._reference,
            mesh=self._mesh,
        )
        self.requests[policy] = 0
        if path is not None:
            meta = checkpoint.load(path, trainer, is_verified=True)
            self.requests[policy] = int(meta["request"])
        trainer.rest()
        return trainer

    def _load_reference(self) -> PolicyModel:
        return load_reference(self.spec.base, device=self.spec.device, mesh=self._mesh)

    def _newest(self, policy: str) -> Path | None:
        """The checkpoint that all ranks load; rank 0 verifies it and decides."""
        name = ""
        if self.spec.rank == 0:
            path, warnings = checkpoint.latest_valid(self.spec.checkpoints[policy])
            for warning in warnings:
                log.warning("%s", warning)
            checkpoint.set_aside(self.spec.checkpoints[policy], newer_than=path)
            name = path.name if path else ""
        said, _ = self.control.broadcast({"kind": "load", "policy": policy, "name": name}, {})
        return self.spec.checkpoints[policy] / said["name"] if said["name"] else None

    def weights(self, policy: str, *, changed_only: bool = False) -> NamedTensors:
        """A policy's, by their published names; a collective, all of them must be taken.

        Args:
            changed_only: for servers that hold an older version of the same weights. With adapters
                only the tensors into which they are merged: all are gathered, few are sent.
        """
        trainer = self.trainers[policy]
        names = trainer.adapted if changed_only else None
        return (
            (name, tensor) for name, tensor in trainer.named_weights() if not names or name in names
        )

    def run(self, command: Message, images: Images | None = None) -> Any:
        """On rank 0: have every rank execute a command; what it gives here."""
        return self.execute(*self.control.broadcast(command, images or {}))

    def follow(self) -> None:
        """Ranks other than 0: execute rank 0's commands until it says stop."""
        while True:
            command, images = self.control.broadcast({}, {})
            if command["kind"] == "stop":
                self.checkpoints.wait()
                self.sender.close()
                return
            self.execute(command, images)

    def execute(self, command: Message, images: Images) -> Any:
        """One command, on this rank."""
        policy = command.get("policy", "")
        if command["kind"] == "prepare":
            self._preparing[policy].append(
                self._preparer.submit(
                    self._prepare, policy, command["groups"], images, dict(command["ages"])
                )
            )
            return None
        if command["kind"] == "step":
            return self._step(policy)
        if command["kind"] == "save":
            return self.save(policy, int(command["request"]))
        if command["kind"] == "score":
            return self.trainers[policy].score()
        if command["kind"] == "gather":
            for _ in self.trainers[policy].named_weights():
                pass  # takes part in the gathers; rank 0 has a use for what they give
            return None
        if command["kind"] == "connect":
            return self._connect(command["servers"], command["senders"])
        if command["kind"] == "send":
            return self._send(command)
        if command["kind"] == "leave":
            self.sender.leave(command["url"])
            return self.control.gather({})
        raise TransportError(f"unknown command {command['kind']!r} in a learner group")

    def _prepare(
        self, policy: str, rows: Sequence[Message], images: Images, ages: Mapping[int, int]
    ) -> Prepared | Unprepared:
        groups = [decode_group(row, images) for row in rows]
        try:
            return self.trainers[policy].prepare(groups, ages=ages)
        except (ValueError, OSError) as error:  # OSError: PIL's, of a broken picture
            return Unprepared(groups, str(error))

    def _step(self, policy: str) -> tuple[StepReport, Sequence[Group]]:
        """What became of the oldest prepared batch, and its groups."""
        started = time.monotonic()
        trainer, batch = self.trainers[policy], self._preparing[policy].popleft().result()
        waited = time.monotonic() - started
        if isinstance(batch, Unprepared):
            log.warning("%s: a batch can't be prepared: %s", policy, batch.error)
        # Each rank decodes its own pictures: all of them skip what one of them can't read.
        if not self.control.agree(isinstance(batch, Prepared)) or isinstance(batch, Unprepared):
            report = StepReport(step=trainer.step_count, skipped=True, reason="unpreparable")
            return report, batch.groups
        report = trainer.step(batch)
        trainer.rest()
        self._give_back()
        metrics = {**report.metrics, "prepare_wait_s": waited}
        return replace(report, metrics=metrics), batch.groups

    def _connect(self, servers: Mapping[str, str], senders: Mapping[str, int]) -> list[str]:
        """{url: policy whose weights it is to hold} -> those that have taken part."""
        own = [url for url, rank in senders.items() if rank == self.spec.rank]
        reply: Message = {"fatal": ""}
        try:
            reply["urls"] = self.sender.connect({url: self.layouts[servers[url]] for url in own})
        except FatalError as error:  # rank 0 raises it, and ends the others
            reply["fatal"] = str(error)
        replies = self.control.gather(reply)
        if self.spec.rank == 0 and (fatal := [r["fatal"] for r in replies if r["fatal"]]):
            raise FatalError("; ".join(fatal))
        return [url for reply in replies for url in reply.get("urls", [])]

    def _send(self, command: Message) -> dict[str, ServerResult]:
        """This rank's share of a publication; what became of all."""
        policy, senders = command["policy"], command["senders"]
        self._num_sent += 1
        results = self.sender.send(
            self.weights(policy, changed_only=command["changed_only"]),
            [url for url, rank in senders.items() if rank == self.spec.rank],
            int(command["version"]),
            self.control.progress(self._num_sent),
        )
        replies = self.control.gather({url: asdict(result) for url, result in results.items()})
        return {url: ServerResult(**told) for reply in replies for url, told in reply.items()}

    def save(self, policy: str, request: int) -> None:
        """Begin a checkpoint; rank 0 learns from `checkpoints` what becomes of it."""
        if self.spec.rank != 0:
            self.checkpoints.poll()  # nobody asks this rank
        self.checkpoints.start(
            self.trainers[policy],
            self.spec.checkpoints[policy],
            base=self.spec.base,
            meta={"request": request},
            keep=self.spec.keep_checkpoints,
        )
        self.trainers[policy].rest()
