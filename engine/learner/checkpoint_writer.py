"""Writes checkpoints (`checkpoint.py`) while training goes on.

`start` copies this rank's state into host memory, which is all that training waits for; one thread
per rank writes. Everything goes into a temporary folder, is synced, then renamed, so that a crash
or a full disk leaves the previous checkpoint. No rank ever holds another's optimiser state.

torch.distributed.checkpoint's planner says which part of a tensor is whose. Its own writer serves
no background thread: it serialises with the interpreter locked (2.2 s for 640 MB with torch 2.13
and safetensors 0.8, during which nothing else runs), and `dcp.save` sends pickles between ranks.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner
from torch.distributed.tensor import DTensor

from engine.errors import CheckpointError
from engine.learner.checkpoint import FORMAT, SHARDS, prune, sha256
from engine.learner.trainer import PolicyTrainer

log = logging.getLogger(__name__)

MODEL_FILE_BYTES = 5 * 10**9
PEERS_TIMEOUT = timedelta(hours=1)
"""How much later than the first rank the last one may have written its part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint that is in place."""

    policy: str
    step: int
    path: Path
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    """One rank's part of a checkpoint, in host memory: no step changes it."""

    policy: str
    step: int
    meta: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    """Whole, as published; on rank 0 only."""
    shards: Mapping[str, Tensor]
    offsets: Mapping[str, list[int]]
    """Where each shard begins in its tensor."""


class CheckpointWriter:
    """Writes checkpoints in the background, one after the other in the order of `start`.

    Over several ranks all construct it and call `start` in the same order; they must see the same
    files. `group`: gloo ranks that nobody else uses meanwhile; default: a new group of all ranks.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if group is None and dist.is_initialized() and dist.get_world_size() > 1:
            # Of its own: the threads' collectives must not interleave with the trainers'.
            group = dist.new_group(backend="gloo", timeout=PEERS_TIMEOUT)
        self._group = group
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: list[tuple[str, Future[Saved | CheckpointError]]] = []

    def start(
        self,
        trainer: PolicyTrainer,
        directory: Path,
        *,
        base: Path,
        meta: Mapping[str, Any],
        keep: int | None = None,
    ) -> None:
        """Snapshot `trainer` at its step, and write it; an earlier one of the policy comes first.

        `base`: the model folder whose tokenizer, processor and config are copied; `meta`: JSON,
        given back by `load`; `keep`: `prune` to so many afterwards.
        """
        wait([future for policy, future in self._running if policy == trainer.policy])
        snapshot = _snapshot(trainer, meta, _rank(self._group))
        job = self._thread.submit(_write, snapshot, directory, base, keep, self._group)
        self._running.append((trainer.policy, job))

    def poll(self) -> list[Saved | CheckpointError]:
        """What became of the saves that ended since the last call; rank 0's word counts."""
        ended = [future for _, future in self._running if future.done()]
        self._running = [entry for entry in self._running if entry[1] not in ended]
        return [future.result() for future in ended]

    def wait(self, timeout_s: float | None = None) -> list[Saved | CheckpointError]:
        """`poll` once every save has ended, or after `timeout_s`."""
        wait([future for _, future in self._running], timeout_s)
        return self.poll()


def save(directory: Path, trainer: PolicyTrainer, *, base: Path, meta: Mapping[str, Any]) -> Path:
    """Write a checkpoint and wait for it; returns its folder.

    Over several ranks all must call it, with no other collective on its way. Raises
    CheckpointError if it can't be written; what was there stays valid.
    """
    writer = CheckpointWriter(dist.group.WORLD if dist.is_initialized() else None)
    writer.start(trainer, directory, base=base, meta=meta)
    (result,) = writer.wait()
    if isinstance(result, CheckpointError):
        raise result
    return result.path


def _snapshot(trainer: PolicyTrainer, meta: Mapping[str, Any], rank: int) -> _Snapshot:
    """A collective: published weights are gathered tensor by tensor, the trainer's state never."""
    weights: dict[str, Tensor] = {}
    for name, tensor in trainer.named_weights():
        if rank == 0:
            weights[name] = _copy(tensor)
    state = trainer.trainer_state()
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(state)
    shards: dict[str, Tensor] = {}
    offsets: dict[str, list[int]] = {}
    for item in planner.create_local_plan().items:
        name, part = item.index.fqn, item.tensor_data
        if part is not None and _is_first_replica(state[name], rank):
            shards[name] = _copy(planner.resolve_data(item))
            offsets[name] = list(part.chunk.offsets)
    return _Snapshot(
        policy=trainer.policy,
        step=trainer.step_count,
        meta=dict(meta),
        weights=weights,
        shards=shards,
        offsets=offsets,
    )


def _copy(tensor: Any) -> Tensor:
    """Contiguous, in host memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


def _is_first_replica(tensor: Tensor, rank: int) -> bool:
    """Whether this rank is the one that writes its part of `tensor`."""
    if not isinstance(tensor, DTensor):
        return rank == 0
    places = tensor.device_mesh.get_coordinate() or ()
    replicas = zip(places, tensor.placements, strict=True)
    return all(place == 0 for place, placement in replicas if placement.is_replicate())


def _write(
    snapshot: _Snapshot,
    directory: Path,
    base: Path,
    keep: int | None,
    group: dist.ProcessGroup | None,
) -> Saved | CheckpointError:
    """On the writing thread of every rank; rank 0 makes the folder and renames it."""
    rank, world = _rank(group), dist.get_world_size(group) if group else 1
    target = directory / f"step-{snapshot.step:08d}"
    building = directory / f".building-{target.name}"

    def begin() -> dict[str, str]:
        return _begin(base, building) if rank == 0 else {}

    def write_part() -> dict[str, str]:
        paths = _write_model(snapshot.weights, building) if rank == 0 else []
        paths.append(building / SHARDS / f"shard-{rank + 1:05d}-of-{world:05d}.safetensors")
        _write_shards(snapshot, paths[-1])
        return _hashed(paths, building)

    try:
        files = _together(begin, group) | _together(write_part, group)
        if rank == 0:
            _finish(snapshot, files, building, target)
    except (OSError, RuntimeError) as error:
        if rank == 0:
            shutil.rmtree(building, ignore_errors=True)
        return CheckpointError(
            f"checkpoint {target} not written: {' '.join(str(error).split())}; "
            "make room or fix the folder (earlier checkpoints are still valid)"
        )
    if rank == 0 and keep is not None:
        try:
            prune(directory, keep, newest=snapshot.step)
        except OSError as error:
            log.warning("old checkpoints in %s not removed: %s", directory, error)
    return Saved(policy=snapshot.policy, step=snapshot.step, path=target, meta=snapshot.meta)


def _together(
    work: Callable[[], dict[str, str]], group: dist.ProcessGroup | None
) -> dict[str, str]:
    """Do `work` on every rank; the answers of all, merged. Raises OSError on every rank if it
    failed on one, RuntimeError if one is gone."""
    answer: dict[str, Any] = {}
    try:
        answer["files"] = work()
    except Exception as error:
        # Whatever it is: the other ranks wait for an answer.
        log.info("a checkpoint failed on rank %d", _rank(group), exc_info=True)
        answer["error"] = f"{type(error).__name__}: {error}"
    answers = [json.loads(text) for text in _all_gather(json.dumps(answer), group)]
    if errors := [a["error"] for a in answers if "error" in a]:
        raise OSError(errors[0])
    return {name: digest for a in answers for name, digest in a["files"].items()}


def _all_gather(text: str, group: dist.ProcessGroup | None) -> list[str]:
    """Every rank's `text`, as bytes in tensors: object collectives would pickle."""
    if group is None:
        return [text]
    raw = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(lengths, torch.tensor([len(raw)]), group=group)
    padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
    padded[: len(raw)] = raw
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded, group=group)
    pairs = zip(gathered, lengths, strict=True)
    return [bytes(row[: int(length)].tolist()).decode() for row, length in pairs]


def _rank(group: dist.ProcessGroup | None) -> int:
    return dist.get_rank(group) if group else 0


def _begin(base: Path, building: Path) -> dict[str, str]:
    """An empty folder, and all of the base but weights and trainer state."""
    shutil.rmtree(building, ignore_errors=True)
    (building / SHARDS).mkdir(parents=True)
    copied = []
    for path in sorted(base.iterdir()):
        is_weights = path.suffix in {".safetensors", ".bin", ".pt", ".pth"}
        is_ours = path.name in {"trainer.json", "model.safetensors.index.json"}
        if path.is_file() and not is_weights and not is_ours:
            copied.append(Path(shutil.copyfile(path, building / path.name)))
    return _hashed(copied, building)


def _write_model(weights: Mapping[str, Tensor], folder: Path) -> list[Path]:
    """Hugging Face's weight files: one, or several with an index that says which holds what."""
    files: list[dict[str, Tensor]] = [{}]
    room = MODEL_FILE_BYTES
    for name, tensor in weights.items():
        if tensor.nbytes > room and files[-1]:
            files.append({})
            room = MODEL_FILE_BYTES
        files[-1][name] = tensor
        room -= tensor.nbytes
    paths = [
        folder / f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
    ]
    if len(files) == 1:
        paths = [folder / "model.safetensors"]
    for path, tensors in zip(paths, files, strict=True):
        save_file(tensors, path, metadata={"format": "pt"})
    if len(files) > 1:
        placed = zip(paths, files, strict=True)
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in weights.values())},
            "weight_map": {name: path.name for path, tensors in placed for name in tensors},
        }
        paths.append(folder / "model.safetensors.index.json")
        paths[-1].write_text(json.dumps(index, indent=1))
    return paths


def _write_shards(snapshot: _Snapshot, path: Path) -> None:
    """As HuggingFaceStorageReader expects it: the offset of each shard is in the file's header."""
    sharding = {name: {"saved_offsets": offset} for name, offset in snapshot.offsets.items()}
    header = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(sharding)}
    save_file(dict(snapshot.shards), path, metadata=header)


def _finish(snapshot: _Snapshot, files: Mapping[str, str], building: Path, target: Path) -> None:
    """The record, then the rename."""
    record = {
        "format": FORMAT,
        "policy": snapshot.policy,
        "step": snapshot.step,
        "meta": snapshot.meta,
        "files": dict(sorted(files.items())),
    }
    (building / "trainer.json").write_text(json.dumps(record, indent=1))
    for path in (building / "trainer.json", building / SHARDS, building):
        _sync(path)
    _replace(building, target)
    _sync(target.parent)


def _replace(building: Path, target: Path) -> None:
    """Rename into place; a folder of the same step (from before a restore) gives way."""
    if target.exists():
        stale = building.with_name(f".building-stale-{target.name}")
        shutil.rmtree(stale, ignore_errors=True)
        target.rename(stale)
        building.rename(target)
        shutil.rmtree(stale)
    else:
        building.rename(target)


def _hashed(paths: list[Path], folder: Path) -> dict[str, str]:
    """{name within `folder`: SHA-256} of files that are on the disk."""
    for path in paths:
        _sync(path)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
