"""Is this folder a model that we can train? Reads JSON and headers only; imports no torch."""

import importlib.util
import json
import math
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from engine.errors import ConfigError
from engine.learner.config import LoraConfig

VISION = {"visual", "vision_tower", "vision_model"}
"""Parts of the names of vision towers' weights."""
ARCHITECTURES = (
    "Qwen3VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "InternVLForConditionalGeneration",
)
"""Those for which `engine.learner.families` has a family (MiMo-VL's is Qwen2.5-VL's)."""
REMOTE_CODE = {"InternVLChatModel": "-hf"}
"""Architectures that come with code of their own: how the folder for transformers' is called."""
NEEDED_FILES = ("config.json", "tokenizer.json", "preprocessor_config.json")
_MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit


def check_base_model(path: Path) -> None:
    """Raise ConfigError (one line: what, where, fix) if `path` is no complete model folder.

    Checked: the folder, its JSON files, the architecture, that every weight file is as long as
    its header says, and that the embedding has the configured shape.
    """
    if not path.is_dir():
        raise ConfigError(f"base model {path}: no such folder; give a Hugging Face model folder")
    for name in NEEDED_FILES:
        if not (path / name).is_file():
            raise ConfigError(f"base model {path}: {name} is missing; copy the whole folder again")
        if name == "config.json":
            config = read_json(path / name)
            check_architecture(path, config)
            compute_dtype(config, path)
    shapes = weight_shapes(path)
    text = text_config(config)
    want = [text.get("vocab_size"), text.get("hidden_size")]
    # Families name it differently, and transformers 5 and the Hub do.
    got = next((shapes[name] for name in shapes if name.endswith("embed_tokens.weight")), None)
    if got != want:
        raise ConfigError(
            f"base model {path}: the token embedding has shape {got} but config.json says {want}; "
            "weights and config do not belong together"
        )


def check_lora(path: Path, cfg: LoraConfig) -> None:
    """Raise ConfigError if peft is missing or the model in `path` has no such layers."""
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("learner.lora needs peft: pip install -e '.[lora]'")
    check_targets(
        cfg,
        {
            name.split(".")[-2]
            for name, shape in weight_shapes(path).items()
            if ".layers." in name and not VISION & set(name.split("."))
            if name.endswith(".weight") and len(shape) == 2
        },
    )


def check_targets(cfg: LoraConfig, linear: Collection[str]) -> None:
    """Raise ConfigError unless all of `cfg.targets` are among the decoder's `linear` layers."""
    if missing := set(cfg.targets) - set(linear):
        raise ConfigError(
            f"learner.lora.targets: no linear layer is called {', '.join(sorted(missing))}; there "
            f"are {', '.join(sorted(linear))}"
        )


def check_architecture(path: Path, config: Mapping[str, Any]) -> None:
    """Raise ConfigError if `config`, the config.json of folder `path`, is of no known family."""
    found = config.get("architectures") or [config.get("model_type")]
    if set(found) & set(ARCHITECTURES):
        return
    suffix = REMOTE_CODE.get(found[0])
    if suffix:
        raise ConfigError(
            f"base model {path}: {found[0]} brings code of its own, which is not run; "
            f"use the same model's folder for transformers ({path.name}{suffix})"
        )
    raise ConfigError(
        f"base model {path}: architecture {found[0]} is not supported; "
        f"use one of {', '.join(ARCHITECTURES)}"
    )


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The decoder's part of a config.json: Qwen2.5-VL's on the Hub are flat."""
    text: Mapping[str, Any] = config.get("text_config") or config
    return text


def compute_dtype(
    config: Mapping[str, Any], path: Path | None = None
) -> Literal["float32", "bfloat16"]:
    """The dtype of forward, backward and published weights, as a config.json names it: at its top,
    or, as those of Qwen3-VL on the Hub do, for its decoder only; float32 where it does not.

    Raises ConfigError for another one.
    """
    parts = (config, text_config(config))
    names = [part.get(key) for part in parts for key in ("dtype", "torch_dtype")]
    match next((name for name in names if name), "float32"):
        case "float32":
            return "float32"
        case "bfloat16":
            return "bfloat16"
        case other:
            raise ConfigError(
                f"base model {path or ''}: config.json says dtype {other}: want float32 or "
                "bfloat16 (gradients of float16 would need a scaled loss); write bfloat16 there"
            )


def weight_shapes(path: Path) -> dict[str, list[int]]:
    """{tensor: shape} over all weight files of the folder."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
    else:
        names = ["model.safetensors"]
    shapes: dict[str, list[int]] = {}
    for name in names:
        if not (path / name).is_file():
            raise ConfigError(f"base model {path}: {name} is missing; copy the whole folder again")
        shapes |= read_header(path / name)
    return shapes


def read_header(path: Path) -> dict[str, list[int]]:
    """{tensor: shape} of a safetensors file. Raises ConfigError if it is truncated or malformed."""
    broken = f"weights {path}: not a whole safetensors file"
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ConfigError(f"{broken}: {size} bytes; download or copy it again")
        (length,) = struct.unpack("<Q", prefix)
        if length > min(_MAX_HEADER_BYTES, size - 8):
            raise ConfigError(f"{broken}: its header is cut off; download or copy it again")
        try:
            header = json.loads(file.read(length))
            tensors = {key: value for key, value in header.items() if key != "__metadata__"}
            shapes = {key: list(map(int, value["shape"])) for key, value in tensors.items()}
            end = max((int(value["data_offsets"][1]) for value in tensors.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ConfigError(f"{broken}: unreadable header; copy it again") from error
    if end != size - 8 - length:
        raise ConfigError(
            f"{broken}: {size} bytes where its header says {8 + length + end}; "
            "download or copy it again"
        )
    if not all(math.prod(shape) >= 0 for shape in shapes.values()):
        raise ConfigError(f"{broken}: negative shapes")
    return shapes


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the folder. Raises ConfigError where it can't be read."""
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"base model file {path}: not readable as JSON ({error})") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"base model file {path}: not a JSON object")
    return tree
