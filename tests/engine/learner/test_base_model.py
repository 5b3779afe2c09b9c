"""Bad model folders give one clear line, cheaply."""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.learner.base_model import check_base_model


def _other_architecture(folder: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(config))


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _cut_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:50])


def _garbage_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"oops")


def _other_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] += 1
    (folder / "config.json").write_text(json.dumps(config))


def _half(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))


def _missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "damage, message",
    [
        (shutil.rmtree, "no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable as JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "0 bytes"),
        (_other_architecture, "LlamaForCausalLM is not supported"),
        (_half, "write bfloat16 there"),
        (_truncate, "where its header says"),
        (_cut_header, "header is cut off"),
        (_garbage_header, "unreadable header"),
        (_other_vocabulary, "do not belong together"),
        (_missing_shard, "model-00002.safetensors is missing"),
    ],
)
def test_a_bad_folder_is_named_in_one_line(
    tiny_base: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    check_base_model(folder)
    damage(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        check_base_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_check_needs_no_torch() -> None:
    code = "import sys, engine.learner.base_model; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
