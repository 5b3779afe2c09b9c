"""Weights by way of a folder: what a learner writes, and servers load by its path.

The folder is a Hugging Face one: the base's own files, and the weights as one safetensors file,
which is written tensor by tensor, so that no whole model is in memory. It is not synced to the
disk: a folder on a tmpfs is the fastest, and none is needed after a crash.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.buckets import NamedTensors, raw_bytes

WEIGHTS = "model.safetensors"
KEPT = 2
"""Folders of one policy: the newest, and the one that a slow server may still be reading."""
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
_NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".index.json")


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor that is to come."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def write_weights(path: Path, specs: Mapping[str, Spec], tensors: NamedTensors) -> None:
    """Write tensors as they come, in the order of `specs`, as a safetensors file.

    Raises ValueError where they are not what `specs` say, OSError where the disk does not take it.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, spec in specs.items():
        size = math.prod(spec.shape) * spec.dtype.itemsize
        header[name] = {
            "dtype": _DTYPES[spec.dtype],
            "shape": spec.shape,
            "data_offsets": (offset, offset + size),
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin aligned
    expected = iter(specs.items())
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors:
            found = Spec(tensor.dtype, tuple(tensor.shape))
            if next(expected, None) != (name, found):
                raise ValueError(f"{name} {found} was not announced for {path}")
            file.write(raw_bytes(tensor).cpu().numpy().data)
        if (missing := next(expected, None)) is not None:
            raise ValueError(f"{missing[0]} is missing for {path}")


def write_folder(
    parent: Path, version: int, base: Path, specs: Mapping[str, Spec], tensors: NamedTensors
) -> Path:
    """The folder `parent`/v<version>, complete when it is there; older ones than the newest
    `KEPT` are deleted. Errors as those of `write_weights`."""
    parent.mkdir(parents=True, exist_ok=True)
    target, building = parent / f"v{version}", parent / f".v{version}-{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        for file in base.iterdir():
            if file.is_file() and not file.name.endswith(_NOT_COPIED):
                shutil.copyfile(file, building / file.name)
        write_weights(building / WEIGHTS, specs, tensors)
        shutil.rmtree(target, ignore_errors=True)
        building.rename(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    kept = sorted(int(f.name[1:]) for f in parent.glob("v*") if f.name[1:].isdigit())
    for old in kept[:-KEPT]:
        shutil.rmtree(parent / f"v{old}", ignore_errors=True)
    return target


def read_weights(folder: Path, own: Mapping[str, Iterable[int]]) -> list[tuple[str, Tensor]]:
    """All tensors of the folder's safetensors files; read before any is used.

    Raises OSError or ValueError: there are none, one cannot be read, or has another shape than
    the reader's `own`.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"no safetensors in {folder}")
    found = []
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                found += [(name, file.get_tensor(name)) for name in file.keys()]  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path.name}: {error}") from error
    for name, tensor in found:
        wanted = tuple(own.get(name, tensor.shape))
        if tuple(tensor.shape) != wanted:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)} does not fit {wanted}")
    return found
