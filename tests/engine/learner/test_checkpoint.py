"""A checkpoint is whole or absent, and continues bit for bit."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, Qwen3VLForConditionalGeneration

from engine.errors import CheckpointError
from engine.learner import checkpoint
from engine.learner.config import LearnerConfig
from engine.learner.trainer import PolicyTrainer
from tests.engine.learner.learner_data import make_group

META = {"request": 17, "note": "x"}


def make_trainer(path: Path, policy: str = "solver", **over: object) -> PolicyTrainer:
    cfg = LearnerConfig.model_validate({"lr": 1e-2, "updates_per_step": 2, **over})
    return PolicyTrainer(policy, path, cfg, total_steps=10)


def train(trainer: PolicyTrainer, *seeds: int) -> None:
    for seed in seeds:
        batch = [make_group(10 * seed + i, num_images=i % 2) for i in range(4)]
        assert not trainer.step(batch).skipped


def same(one: PolicyTrainer, two: PolicyTrainer) -> bool:
    pairs = zip(one.named_weights(torch.float32), two.named_weights(torch.float32), strict=True)
    a, b = one.trainer_state(), two.trainer_state()
    return (
        all(n == m and torch.equal(x, y) for (n, x), (m, y) in pairs)
        and a.keys() == b.keys()
        and all(torch.equal(a[key], b[key]) for key in a)
        and one.step_count == two.step_count
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("start", ["base", "checkpoint"])
def test_the_step_after_a_resume_is_bit_equal(
    tiny_base: Path, tmp_path: Path, start: str, dtype: str
) -> None:
    """Also where published weights are a cast: the masters are kept beside them."""
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": dtype}))
    trainer = make_trainer(base)
    train(trainer, 1, 2)
    path = checkpoint.save(tmp_path, trainer, base=base, meta=META)
    assert path == tmp_path / "step-00000002"
    assert {str(t.dtype) for t in load_file(path / "model.safetensors").values()} == {
        f"torch.{dtype}"
    }
    train(trainer, 3)
    resumed = make_trainer(path if start == "checkpoint" else base)
    assert checkpoint.load(path, resumed) == META
    train(resumed, 3)
    assert same(trainer, resumed)


def test_a_checkpoint_before_the_first_step_resumes(tiny_base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_base)
    path = checkpoint.save(tmp_path, trainer, base=tiny_base, meta={})
    resumed = make_trainer(tiny_base)
    train(resumed, 5)
    checkpoint.load(path, resumed)
    assert same(trainer, resumed)


def test_a_checkpoint_is_a_plain_model_folder(tiny_base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_base)
    train(trainer, 1)
    path = checkpoint.save(tmp_path, trainer, base=tiny_base, meta=META)
    model = Qwen3VLForConditionalGeneration.from_pretrained(path)
    loaded = dict(model.named_parameters())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in trainer.named_weights())
    assert AutoImageProcessor.from_pretrained(path).patch_size == 16
    assert (path / "tokenizer.json").read_bytes() == (tiny_base / "tokenizer.json").read_bytes()


@pytest.fixture
def two_checkpoints(tiny_base: Path, tmp_path: Path) -> Path:
    trainer = make_trainer(tiny_base)
    for seed in (1, 2):
        train(trainer, seed)
        checkpoint.save(tmp_path, trainer, base=tiny_base, meta=META)
    return tmp_path


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    two_checkpoints: Path, name: str, damage: str
) -> None:
    file = two_checkpoints / "step-00000002" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flip" else content[:-1])
    path, warnings = checkpoint.latest_valid(two_checkpoints)
    assert path == two_checkpoints / "step-00000001"
    (warning,) = warnings
    assert "step-00000002" in warning
    assert "falling back" in warning
    assert "\n" not in warning


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 9}', '{"format": 1, "files": 3}']
)
def test_a_damaged_record_falls_back_too(two_checkpoints: Path, text: str) -> None:
    (two_checkpoints / "step-00000002" / "trainer.json").write_text(text)
    path, warnings = checkpoint.latest_valid(two_checkpoints)
    assert path == two_checkpoints / "step-00000001"
    assert len(warnings) == 1


def test_without_any_valid_checkpoint_there_is_none(two_checkpoints: Path, tmp_path: Path) -> None:
    for path in two_checkpoints.glob("step-*"):
        (path / "model.safetensors").unlink()
    path, warnings = checkpoint.latest_valid(two_checkpoints)
    assert path is None
    assert len(warnings) == 2
    assert checkpoint.latest_valid(tmp_path / "nowhere") == (None, [])


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """Writes beyond the limit fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [100, 20_000, 300_000])
def test_a_full_disk_leaves_the_previous_checkpoint(
    tiny_base: Path, tmp_path: Path, room: int
) -> None:
    """Fails in the config, in the weights and in the optimiser state."""
    trainer = make_trainer(tiny_base)
    train(trainer, 1)
    first = checkpoint.save(tmp_path, trainer, base=tiny_base, meta=META)
    train(trainer, 2)
    with file_size_limit(room), pytest.raises(CheckpointError) as caught:
        checkpoint.save(tmp_path, trainer, base=tiny_base, meta=META)
    assert "step-00000002 not written" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert checkpoint.latest_valid(tmp_path) == (first, [])
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    checkpoint.save(tmp_path, trainer, base=tiny_base, meta=META)
    assert checkpoint.latest_valid(tmp_path)[0] == tmp_path / "step-00000002"


def test_an_unfinished_checkpoint_is_not_seen(two_checkpoints: Path) -> None:
    """What a kill -9 in the middle of a save leaves behind."""
    unfinished = two_checkpoints / ".building-step-00000003"
    shutil.copytree(two_checkpoints / "step-00000002", unfinished)
    assert checkpoint.latest_valid(two_checkpoints)[0] == two_checkpoints / "step-00000002"
    checkpoint.prune(two_checkpoints, 5)
    assert not unfinished.exists()


def test_saving_a_step_again_replaces_it(two_checkpoints: Path, tiny_base: Path) -> None:
    trainer = make_trainer(tiny_base)
    train(trainer, 7)
    path = checkpoint.save(two_checkpoints, trainer, base=tiny_base, meta={"request": 99})
    assert json.loads((path / "trainer.json").read_text())["meta"] == {"request": 99}
    resumed = make_trainer(tiny_base)
    checkpoint.load(path, resumed)
    assert same(trainer, resumed)


def test_prune_keeps_the_newest(two_checkpoints: Path) -> None:
    checkpoint.prune(two_checkpoints, 0)
    assert [path.name for path in two_checkpoints.iterdir()] == ["step-00000002"]


def test_a_checkpoint_of_another_policy_is_refused(two_checkpoints: Path, tiny_base: Path) -> None:
    with pytest.raises(CheckpointError, match="'solver', not 'coder'"):
        checkpoint.load(two_checkpoints / "step-00000002", make_trainer(tiny_base, policy="coder"))
