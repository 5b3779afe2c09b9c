"""Checkpoints of one policy: `<dir>/step-00000040/`, complete or not there at all.

    config.json, tokenizer, processor, ...   copied from the base: a normal Hugging Face folder
    model.safetensors                        weights as published
    trainer.safetensors                      AdamW's moments, RNG, float32 masters if published
                                             weights are a cast of them
    trainer.json                             step, meta (request number, ...), SHA-256 of the rest

Written into a temporary folder, synced, then renamed, so that a crash or a full disk leaves the
previous one. Read only after its checksums have been verified. No pickle.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engine.errors import CheckpointError
from engine.learner.trainer import PolicyTrainer

FORMAT = 1
_NAME = re.compile(r"step-(\d{8})")
_MASTER = "master."


def save(directory: Path, trainer: PolicyTrainer, *, base: Path, meta: Mapping[str, Any]) -> Path:
    """Write a checkpoint of `trainer` at its step; returns its folder.

    `base`: the model folder whose tokenizer, processor and config are copied; `meta`: JSON, given
    back by `load`. Over several ranks all must call it; rank 0 writes. Raises CheckpointError if
    it can't be written; what was there stays valid.
    """
    target = directory / f"step-{trainer.step_count:08d}"
    weights = {name: tensor.cpu() for name, tensor in trainer.named_weights()}
    state = trainer.trainer_state()
    if trainer.published_dtype != torch.float32:
        masters = trainer.named_weights(torch.float32)
        state |= {_MASTER + name: tensor.cpu() for name, tensor in masters}
    if dist.is_initialized() and dist.get_rank() != 0:
        return target
    building = directory / f".building-{target.name}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        _copy_base(base, building)
        save_file(weights, building / "model.safetensors", metadata={"format": "pt"})
        save_file(state, building / "trainer.safetensors")
        files = {path.name: _sha256(path) for path in sorted(building.iterdir())}
        record = {
            "format": FORMAT,
            "policy": trainer.policy,
            "step": trainer.step_count,
            "meta": dict(meta),
            "files": files,
        }
        (building / "trainer.json").write_text(json.dumps(record, indent=1))
        for path in building.iterdir():
            _sync(path)
        _sync(building)
        _replace(building, target)
        _sync(directory)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(building, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint {target} not written: {error}; "
            "make room or fix the folder (earlier checkpoints are still valid)"
        ) from error
    return target


def load(path: Path, trainer: PolicyTrainer) -> dict[str, Any]:
    """Make `trainer` continue exactly from the checkpoint; returns the `meta` that was saved.

    Raises CheckpointError if the folder is damaged or of another policy or model.
    """
    record = _verified(path)
    if record["policy"] != trainer.policy:
        raise CheckpointError(
            f"checkpoint {path} is of policy {record['policy']!r}, not {trainer.policy!r}"
        )
    try:
        weights = load_file(path / "model.safetensors")
        state = load_file(path / "trainer.safetensors")
        masters = {k.removeprefix(_MASTER): v for k, v in state.items() if k.startswith(_MASTER)}
        trainer.restore(int(record["step"]), masters or weights, state)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"checkpoint {path} does not fit this model: {error}; remove it to start from the base"
        ) from error
    return dict(record["meta"])


def latest_valid(directory: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose checksums hold, and a warning for each newer one that fails."""
    warnings: list[str] = []
    for path in reversed(_found(directory)):
        try:
            _verified(path)
        except CheckpointError as error:
            warnings.append(f"{error}; falling back to the one before")
            continue
        return path, warnings
    return None, warnings


def prune(directory: Path, keep: int, *, newest: int | None = None) -> None:
    """Remove all but the last `keep` (at least one) checkpoints up to step `newest`, and
    unfinished ones. Later steps are of weights that a fallback left behind: corrupt, and no
    reason to remove a good one."""
    found = _found(directory)
    lineage = [p for p in found if newest is None or p.name <= f"step-{newest:08d}"]
    for path in set(found) - set(lineage[-max(1, keep) :]):
        shutil.rmtree(path)
    for path in directory.glob(".building-*"):
        shutil.rmtree(path)


def _found(directory: Path) -> list[Path]:
    """Checkpoint folders, oldest step first."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _verified(path: Path) -> dict[str, Any]:
    """The record of a checkpoint. Raises CheckpointError if any file is not what was written."""
    try:
        record = json.loads((path / "trainer.json").read_text())
        if record["format"] != FORMAT:
            raise CheckpointError(f"checkpoint {path}: format {record['format']}, want {FORMAT}")
        files, _ = dict(record["files"]), (record["step"], record["policy"], dict(record["meta"]))
        wrong = [name for name, digest in files.items() if _sha256(path / name) != digest]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} is incomplete: {error}") from error
    if wrong:
        raise CheckpointError(f"checkpoint {path} is corrupt: wrong checksum of {wrong[0]}")
    return record


def _copy_base(base: Path, folder: Path) -> None:
    """Everything but weights and trainer state."""
    for path in base.iterdir():
        is_weights = path.suffix in {".safetensors", ".bin", ".pt", ".pth"}
        is_ours = path.name in {"trainer.json", "model.safetensors.index.json"}
        if path.is_file() and not is_weights and not is_ours:
            shutil.copyfile(path, folder / path.name)


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
