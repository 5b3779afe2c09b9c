"""Which model it is: its folder, and the hash by which its answers are told from others'."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError

_SMALL = ("*.json", "*.jinja", "*.txt", "*.model")
_TEMPLATE = ("chat_template.jinja", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Model:
    """A folder of Hugging Face's form."""

    name: str
    """As on the command line."""
    folder: Path

    def identity(self, *, weights: str | None = None) -> Mapping[str, str]:
        """Hashes of everything that an answer depends on.

        `weights`: what stands for the weights where they are not in the folder, but at a server.
        """
        return {
            "weights": weights or _hash(_weights(self.folder)),
            "config": _hash(sorted(self.folder.glob("*config.json"))),
            "tokenizer": _hash([self.folder / "tokenizer.json"]),
            "template": _hash(self.folder / name for name in _TEMPLATE),
        }


def resolve(name: str, *, with_weights: bool) -> Model:
    """The folder of a model: itself, or a snapshot from the Hub. Raises ConfigError."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"--model: {folder} has no config.json")
        return Model(name, folder)
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise ConfigError(f"--model: {name} is no folder, nor a model's id on the Hub (ORG/NAME)")
    from huggingface_hub import snapshot_download

    patterns = None if with_weights else list(_SMALL)
    try:
        return Model(name, Path(snapshot_download(name, allow_patterns=patterns)))
    except Exception as error:  # the library raises dozens of types, all the user's to mend
        raise ConfigError(
            f"--model: {name} is no folder, and the Hub has none that can be fetched "
            f"({type(error).__name__}: {str(error)[:300]})"
        ) from error


def step_of(folder: Path) -> int:
    """The learner step of a checkpoint; 0 for any other folder."""
    try:
        return int(json.loads((folder / "trainer.json").read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _weights(folder: Path) -> list[Path]:
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")])
    return [file for file in files if file.name != "trainer.safetensors"]


def _hash(files: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of the files that are there."""
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            with file.open("rb") as data:
                digest.update(file.name.encode() + hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()
