"""What differs between model architectures. `family_of` finds the one of a folder."""

from collections.abc import Callable
from pathlib import Path

from engine.errors import ConfigError
from engine.learner.base_model import check_base_model, read_json
from engine.learner.families.base import ModelFamily, PolicyModel
from engine.learner.families.internvl import InternVL
from engine.learner.families.qwen2_5_vl import Qwen2_5VL
from engine.learner.families.qwen3_vl import Qwen3VL

FAMILIES: dict[str, Callable[[Path], ModelFamily]] = {
    "qwen3_vl": Qwen3VL,
    "qwen2_5_vl": Qwen2_5VL,
    "internvl": InternVL,
}
"""By `model_type` of config.json. A new one: a class here, and its name in `ARCHITECTURES`."""


def family_of(path: Path) -> ModelFamily:
    """The family of the model in folder `path`. Raises ConfigError for an unknown one."""
    check_base_model(path)
    model_type = read_json(path / "config.json").get("model_type")
    if model_type not in FAMILIES:
        raise ConfigError(
            f"base model {path}: no model family for model_type {model_type}; "
            f"there are {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type](path)


__all__ = ["FAMILIES", "ModelFamily", "PolicyModel", "family_of"]
