"""Checkpoints of one policy: `<dir>/step-00000040/`, complete or not there at all.

    config.json, tokenizer, processor, ...   copied from the base: a normal Hugging Face folder
    model.safetensors                        weights as published; several files with an index
                                             where they are large
    trainer/shard-00001-of-00002.safetensors ...
                                             what each rank held of the trainer's state: float32
                                             masters, optimiser state
    trainer.json                             step, meta (request number, ...), SHA-256 of the rest

Written by `checkpoint_writer.py`, read only after the checksums have been verified, on any number
of ranks. `trainer/` is torch.distributed.checkpoint's safetensors format. No pickle.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from engine.errors import CheckpointError, EngineError, FatalError
from engine.learner.trainer import PolicyTrainer

FORMAT = 3
SHARDS = "trainer"
"""The folder of the ranks' shards within a checkpoint."""
_NAME = re.compile(r"step-(\d{8})")
_SKIPPED = ".skipped-"
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def load(path: Path, trainer: PolicyTrainer, *, is_verified: bool = False) -> dict[str, Any]:
    """Make `trainer` continue exactly from the checkpoint; returns the `meta` that was saved.

    Each rank reads its own shards, whatever the number of ranks that wrote them. Raises
    CheckpointError if the folder is damaged or of another policy or model. `is_verified`: somebody
    has compared the checksums already (`latest_valid`), which takes as long as reading it all.
    """
    record = _record(path) if is_verified else _verified(path)
    if record["policy"] != trainer.policy:
        raise CheckpointError(
            f"checkpoint {path} is of policy {record['policy']!r}, not {trainer.policy!r}"
        )
    try:
        reader = HuggingFaceStorageReader(str(path / SHARDS))
        metadata = reader.read_metadata()
        trainer.restore(
            int(record["step"]),
            metadata.state_dict_metadata.keys(),
            lambda state: _read(reader, metadata, state),
        )
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} does not fit this model: {error}; remove it to start from the base"
        ) from error
    return dict(record["meta"])


def latest_valid(directory: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose checksums hold, and a warning for each newer one that fails.
    Raises EngineError where the disk does not say."""
    warnings: list[str] = []
    for path in reversed(_found(directory)):
        try:
            _verified(path)
        except CheckpointError as error:
            warnings.append(f"{error}; falling back to the one before")
            continue
        return path, warnings
    return None, warnings


def set_aside(directory: Path, *, newer_than: Path | None) -> None:
    """Take the checkpoints beyond the one that the run goes on from (None: the base) out of its
    line: if they could be read once more later, their weights would be others than those that were
    trained since. `prune` removes them."""
    for path in _found(directory):
        if newer_than is None or path.name > newer_than.name:
            aside = directory / f"{_SKIPPED}{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def prune(directory: Path, keep: int, *, newest: int | None = None) -> None:
    """Remove all but the last `keep` (at least one) checkpoints up to step `newest`, and those that
    are unfinished or set aside. Later steps are of weights that a fallback left behind: corrupt,
    and no reason to remove a good one."""
    found = _found(directory)
    lineage = [p for p in found if newest is None or p.name <= f"step-{newest:08d}"]
    for path in set(found) - set(lineage[-max(1, keep) :]):
        shutil.rmtree(path)
    for pattern in (".building-*", f"{_SKIPPED}*"):
        for path in directory.glob(pattern):
            shutil.rmtree(path)


def _read(
    reader: HuggingFaceStorageReader, metadata: Metadata, state: Mapping[str, Tensor]
) -> None:
    """Overwrite the tensors of `state` by what was saved. Raises KeyError, ValueError or
    RuntimeError if names, dtypes or shapes differ."""
    if odd := metadata.state_dict_metadata.keys() ^ state.keys():
        raise KeyError(f"{min(odd)} is on one side only")
    for name, saved in metadata.state_dict_metadata.items():
        assert isinstance(saved, TensorStorageMetadata)
        if saved.properties.dtype != state[name].dtype:
            raise ValueError(f"{name} is {saved.properties.dtype}, want {state[name].dtype}")
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(state), metadata)
    reader.set_up_storage_reader(metadata, False)
    reader.read_data(planner.create_local_plan(), planner).wait()


def _found(directory: Path) -> list[Path]:
    """Checkpoint folders, oldest step first."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _verified(path: Path) -> dict[str, Any]:
    """The record of a checkpoint. Raises CheckpointError if any file is not what was written."""
    record = _record(path)
    files = record["files"]
    try:
        wrong = [name for name, digest in files.items() if sha256(path / name) != digest]
        # The reader takes every file in this folder.
        shards = {f"{SHARDS}/{found.name}" for found in (path / SHARDS).glob("*")}
        wrong += sorted(shards - files.keys())
    except _NOT_THERE as error:
        raise CheckpointError(f"checkpoint {path} is incomplete: {error}") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if wrong:
        raise CheckpointError(f"checkpoint {path} is corrupt: wrong checksum of {wrong[0]}")
    return record


def _record(path: Path) -> dict[str, Any]:
    """trainer.json. Raises CheckpointError if it isn't all there, FatalError if it is of another
    format: it is whole, and not ours to pass over."""
    try:
        record = json.loads((path / "trainer.json").read_text())
        if record["format"] != FORMAT:
            raise FatalError(
                f"checkpoint {path}: format {record['format']}, want {FORMAT}: written by another "
                "version of streamzero; resume with that one, or move it away to begin anew"
            )
        files, meta = dict(record["files"]), dict(record["meta"])
        return {"step": record["step"], "policy": record["policy"], "files": files, "meta": meta}
    except (*_NOT_THERE, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} is incomplete: {error}") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> EngineError:
    """Of a disk or a network that may answer the next time: no reason to give up what is there."""
    return EngineError(
        f"checkpoint {path} can't be read now ({error}); if that stays so, move it away to go on "
        "from the one before"
    )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
