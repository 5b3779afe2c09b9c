"""What one rank of a learner group does: its trainers, and the commands of rank 0.

Every rank executes the commands in rank 0's order on its one thread, so no two collectives ever
interleave. They travel over a gloo group of their own, pictures as raw frames.

    prepare POLICY BATCH   begin to turn groups into tensors, in a thread of each rank
    step POLICY            train on the oldest batch that was prepared
    gather POLICY          take part in gathering all its weights, one tensor at a time
    score POLICY           log-probs of the probe
    save POLICY            begin a checkpoint; a thread of each rank writes it
    stop                   leave
"""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from engine.config import WeightsConfig
from engine.errors import TransportError
from engine.layout import Follower
from engine.learner import checkpoint, sharding
from engine.learner.checkpoint_writer import CheckpointWriter
from engine.learner.config import LearnerConfig
from engine.learner.costs import model_shape
from engine.learner.memory_check import check_device, setup_of
from engine.learner.preparation import Prepared
from engine.learner.trainer import PolicyTrainer, StepReport, load_reference
from engine.nodes import LOOPBACK
from engine.transport import Images, Message
from engine.types import Group
from engine.wire import decode_group, from_frames, to_frames

log = logging.getLogger(__name__)

PROBE = tuple(range(3, 27))
"""Token ids whose log-probs servers and learners are compared by; every vocabulary has them."""


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
    stop_s: float
    """What a stop may take (`RunConfig.stop_s`)."""
    shard: int | None = None
    """Ranks over which one copy of the weights is sharded; None: all."""
    longest_row: int = 0
    """Tokens of the longest reply with its prompt (`memory.Setup`)."""
    bad_batches: Path
    """Folder for batches that could not be trained on."""
    learner: LearnerConfig
    weights: WeightsConfig
    address: str
    servers: dict[str, tuple[str, ...]]
    """By policy, and by follower."""
    tensor_parallel: dict[str, int]
    """{server url: its tensor-parallel size}."""
    followers: Mapping[str, Follower] = field(default_factory=dict)
    """Of this group's policies."""
    key: str | None = None
    """What servers, and the engine beyond this node, ask for (`RunDir.key`)."""
    node_address: str = LOOPBACK
    """Where servers reach this rank."""


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
        self._control: dist.ProcessGroup | None = None
        if spec.world > 1 or spec.device == "cuda":
            prefix = dist.PrefixStore(f"learners/{spec.policies[0]}", store)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if spec.backend == "nccl" else "gloo",
                store=prefix,
                rank=spec.rank,
                world_size=spec.world,
            )
            # The other ranks wait in it for the next command, however long that takes.
            self._control = dist.new_group(backend="gloo", timeout=timedelta(days=365))
        self.checkpoints = CheckpointWriter()
        self.requests: dict[str, int] = {}
        """The last request of each policy that the restored weights contain."""
        # One thread: batches are prepared in the order in which they will be trained on.
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._preparing: dict[str, deque[Future[Prepared | Unprepared]]] = defaultdict(deque)
        self._mesh = sharding.world_mesh(torch.device(spec.device), spec.shard)
        # The KL anchor is the base, frozen and shared, also after a resume.
        self._reference = (
            load_reference(spec.base, device=spec.device, mesh=self._mesh)
            if spec.learner.objective.needs_reference
            else None
        )
        self.trainers = {policy: self._load(policy) for policy in spec.policies}

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
            reference=self._reference,
            mesh=self._mesh,
        )
        self.requests[policy] = 0
        if path is not None:
            meta = checkpoint.load(path, trainer, is_verified=True)
            self.requests[policy] = int(meta["request"])
        trainer.rest()
        return trainer

    def _newest(self, policy: str) -> Path | None:
        """The checkpoint that all ranks load; rank 0 verifies it and decides."""
        name = ""
        if self.spec.rank == 0:
            path, warnings = checkpoint.latest_valid(self.spec.checkpoints[policy])
            for warning in warnings:
                log.warning("%s", warning)
            name = path.name if path else ""
        said, _ = self.broadcast({"kind": "load", "policy": policy, "name": name}, {})
        return self.spec.checkpoints[policy] / said["name"] if said["name"] else None

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
        if self.spec.rank == 0:
            return command, images
        return from_frames([part.numpy().tobytes() for part in payload.split(lengths.tolist())])

    def follow(self) -> None:
        """Ranks other than 0: execute rank 0's commands until it says stop."""
        while True:
            command, images = self.broadcast({}, {})
            if command["kind"] == "stop":
                self.checkpoints.wait()
                return
            self.execute(command, images)

    def execute(self, command: Message, images: Images) -> Any:
        """One command, on this rank."""
        policy = command["policy"]
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
            return self.trainers[policy].score(PROBE)
        if command["kind"] == "gather":
            for _ in self.trainers[policy].named_weights():
                pass  # takes part in the gathers; rank 0 sends what they give
            return None
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
        if not self._all_ranks(isinstance(batch, Prepared)) or isinstance(batch, Unprepared):
            report = StepReport(step=trainer.step_count, skipped=True, reason="unpreparable")
            return report, batch.groups
        report = trainer.step(batch)
        trainer.rest()
        metrics = {**report.metrics, "prepare_wait_s": waited}
        return replace(report, metrics=metrics), batch.groups

    def _all_ranks(self, is_so: bool) -> bool:
        """Whether it is so on every rank; a collective."""
        if self._control is None:
            return is_so
        flag = torch.tensor([int(is_so)])
        dist.all_reduce(flag, dist.ReduceOp.MIN, group=self._control)
        return bool(flag)

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
