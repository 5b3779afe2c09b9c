"""The model that a plan is for: a folder, or a known one by its name."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from engine.errors import ConfigError
from engine.learner.base_model import check_architecture, read_json
from engine.learner.costs import ModelShape, model_shape
from engine.learner.memory_check import compute_bytes
from launch.planning.shapes import shape_of_config

KNOWN = Path(__file__).with_name("models.yaml")
MODELS = Path("models")
"""Where the configurations of known models look for their weights."""
VISION_HEADS = 16
"""Of a tower whose config.json does not say: transformers' default for all families."""
_MAX_TILES = 12
"""Of a picture in InternVL3."""
_NOT_SERVED = {
    "internvl": "no server plays it yet: SGLang 0.5.23 takes no token ids with pictures for "
    "InternVL, and the embedded server serves Qwen3-VL only; its learner is ready"
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a plan has to know of a model."""

    name: str
    folder: Path
    """What `model.base` will be."""
    family: str
    """`model_type` of its config.json."""
    shape: ModelShape
    compute_bytes: int
    """Of a number of forward, backward and servers."""
    config: Mapping[str, Any]
    caveat: str | None = None
    """Why it can not be played today, although it may fit."""

    @property
    def weight_bytes(self) -> int:
        """Of a whole copy, as it is served and published."""
        return self.compute_bytes * self.shape.params

    def picture(self, side: int) -> tuple[int, int]:
        """(tokens, patches of the vision tower) of a square picture of `side` pixels."""
        return picture_of(self.folder, self.config, side)

    def splits(self, tp: int) -> bool:
        """Whether a server can divide it over `tp` GPUs: SGLang cuts heads and MLPs of decoder and
        vision tower into equal parts; keys' and values' heads that are fewer are held by several
        GPUs each."""
        shape, vision = self.shape, self.config["vision_config"]
        heads = vision.get("num_heads") or vision.get("num_attention_heads") or VISION_HEADS
        parts = (
            shape.heads,
            shape.intermediate,
            int(heads),
            shape.vision_intermediate,
        )
        is_shared = shape.kv_heads % tp == 0 or tp % shape.kv_heads == 0
        return is_shared and all(size % tp == 0 for size in parts)


def find_model(named: str) -> Model:
    """The model in folder `named`, or the known one of that name (case, owner and a trailing
    -Instruct do not matter). Raises ConfigError with the nearest name, and for a folder that the
    launcher would refuse."""
    folder = Path(named)
    if folder.is_dir():
        config = read_json(folder / "config.json")
        check_architecture(folder, config)
        has_weights = any(folder.glob("*.safetensors"))
        shape = model_shape(folder) if has_weights else shape_of_config(config)
        return _model(folder.resolve().name, folder, config, shape)
    known: dict[str, dict[str, Any]] = yaml.safe_load(KNOWN.read_text())
    by_key = {_key(name): name for name in known}
    name = by_key.get(_key(named))
    if name is None:
        near = difflib.get_close_matches(_key(named), by_key, n=1, cutoff=0.0)
        hint = f"did you mean {by_key[near[0]]}?" if near else ""
        raise ConfigError(
            f"MODEL {named!r} is no folder and no known model; {hint} Known are {', '.join(known)}"
        )
    return _model(name, MODELS / name, known[name], shape_of_config(known[name]))


def picture_of(folder: Path, config: Mapping[str, Any], side: int) -> tuple[int, int]:
    """(tokens, patches of the vision tower) of a square picture of `side` pixels, for the model in
    `folder` whose config.json is `config`. Raises ConfigError where that lacks something."""
    try:
        if config.get("model_type") == "internvl":
            return _tiles(config, side)
        vision = config["vision_config"]
        merge = int(vision["spatial_merge_size"])
        across = max(1, round(side / (int(vision["patch_size"]) * merge)))
    except KeyError as missing:
        raise ConfigError(
            f"base model file {folder / 'config.json'}: {missing.args[0]} is missing; "
            "copy the whole folder again"
        ) from None
    return across**2, (across * merge) ** 2


def _model(name: str, folder: Path, config: Mapping[str, Any], shape: ModelShape) -> Model:
    family = str(config.get("model_type"))
    return Model(
        name=name,
        folder=folder,
        family=family,
        shape=shape,
        compute_bytes=compute_bytes(config),
        config=config,
        caveat=_NOT_SERVED.get(family),
    )


def _key(name: str) -> str:
    key = name.rpartition("/")[2].lower().replace("_", "-")
    for ending in ("-instruct", "-hf", "-rl"):
        key = key.removesuffix(ending)
    return key


def _tiles(config: Mapping[str, Any], side: int) -> tuple[int, int]:
    """InternVL's: the largest square grid of tiles that the picture fills by more than half, and
    with more than one tile a thumbnail."""
    vision = config["vision_config"]
    (tile, _), (patch, _) = (
        (value, value) if isinstance(value, int) else value
        for value in (vision["image_size"], vision["patch_size"])
    )
    grids = [n for n in range(1, _MAX_TILES) if n * n <= _MAX_TILES]
    across = max([n for n in grids if side**2 > 0.5 * (tile * n) ** 2], default=1)
    tiles = across**2 + (1 if across > 1 else 0)
    return tiles * int(config["image_seq_length"]), tiles * ((tile // patch) ** 2 + 1)
