"""A checkpoint is whole or absent, and continues bit for bit."""

import errno
import json
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoImageProcessor, Qwen3VLForConditionalGeneration

from engine.errors import CheckpointError, EngineError, FatalError
from engine.learner import checkpoint, checkpoint_writer
from engine.learner.checkpoint_writer import CheckpointWriter, Saved
from engine.learner.config import LearnerConfig
from engine.learner.trainer import PolicyTrainer, load_reference
from tests.engine.learner import checkpoint_ranks
from tests.engine.learner.forked import run_forked
from tests.engine.learner.learner_data import make_group

META = {"request": 17, "note": "x"}
SHARDS = "trainer/shard-00001-of-00001.safetensors"
ROOT = Path(__file__).parents[3]
PATIENCE_S = 300.0


def make_trainer(path: Path, policy: str = "solver", **over: object) -> PolicyTrainer:
    cfg = LearnerConfig.model_validate(
        {
            "lr": 1e-2,
            "updates_per_step": 2,
            "max_gap": 100,
            "objective": {"mask_band": None},
            **over,
        }
    )
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
    path = checkpoint_writer.save(tmp_path, trainer, base=base, meta=META)
    assert path == tmp_path / "step-00000002"
    assert {str(t.dtype) for t in load_file(path / "model.safetensors").values()} == {
        f"torch.{dtype}"
    }
    train(trainer, 3)
    resumed = make_trainer(path if start == "checkpoint" else base)
    assert checkpoint.load(path, resumed) == META
    train(resumed, 3)
    assert same(trainer, resumed)


def losses(trainer: PolicyTrainer, seeds: range) -> list[float]:
    return [
        trainer.step([make_group(100 * seed + i) for i in range(2)]).metrics["loss"]
        for seed in seeds
    ]


def test_twenty_steps_equal_ten_and_ten(tiny_base: Path, tmp_path: Path) -> None:
    straight, first, second = (make_trainer(tiny_base) for _ in range(3))
    expected = losses(straight, range(20))
    got = losses(first, range(10))
    checkpoint.load(checkpoint_writer.save(tmp_path, first, base=tiny_base, meta=META), second)
    got += losses(second, range(10, 20))
    assert got == expected
    assert len(set(got)) == 20
    assert same(straight, second)


def test_a_reference_that_has_moved_goes_on_from_where_it_was(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Saved between two of its moves, whose weights nothing else has any more."""

    def make() -> PolicyTrainer:
        cfg = make_trainer(tiny_base).cfg
        objective = cfg.objective.model_copy(update={"kl_beta": 0.5, "reference_steps": 2})
        cfg = cfg.model_copy(update={"objective": objective})
        reference = load_reference(tiny_base)
        return PolicyTrainer("solver", tiny_base, cfg, total_steps=10, reference=reference)

    straight, first, second = make(), make(), make()
    expected = losses(straight, range(6))
    got = losses(first, range(3))
    checkpoint.load(checkpoint_writer.save(tmp_path, first, base=tiny_base, meta=META), second)
    assert got + losses(second, range(3, 6)) == expected
    assert same(straight, second)


def test_a_checkpoint_before_the_first_step_resumes(tiny_base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_base)
    path = checkpoint_writer.save(tmp_path, trainer, base=tiny_base, meta={})
    resumed = make_trainer(tiny_base)
    train(resumed, 5)
    checkpoint.load(path, resumed)
    assert same(trainer, resumed)


def test_a_checkpoint_is_a_plain_model_folder(tiny_base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_base)
    train(trainer, 1)
    path = checkpoint_writer.save(tmp_path, trainer, base=tiny_base, meta=META)
    model = Qwen3VLForConditionalGeneration.from_pretrained(path)
    loaded = dict(model.named_parameters())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in trainer.named_weights())
    assert AutoImageProcessor.from_pretrained(path).patch_size == 16
    assert (path / "tokenizer.json").read_bytes() == (tiny_base / "tokenizer.json").read_bytes()


def test_large_weights_are_several_files_with_an_index(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_writer, "MODEL_FILE_BYTES", 30_000)
    trainer = make_trainer(tiny_base)
    train(trainer, 1)
    path = checkpoint_writer.save(tmp_path, trainer, base=tiny_base, meta=META)
    assert not (path / "model.safetensors").exists()
    files = sorted(path.glob("model-*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
    ]
    assert len(files) > 2
    loaded = dict(Qwen3VLForConditionalGeneration.from_pretrained(path).named_parameters())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in trainer.named_weights())
    resumed = make_trainer(path)
    checkpoint.load(path, resumed)
    assert same(trainer, resumed)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_state_is_in_the_format_of_distributed_checkpoint(
    tiny_base: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(tiny_base)
    train(trainer, 1)
    path = checkpoint_writer.save(tmp_path, trainer, base=tiny_base, meta=META)
    got = {name: torch.zeros_like(tensor) for name, tensor in trainer.trainer_state().items()}
    dcp.load(got, storage_reader=dcp.HuggingFaceStorageReader(str(path / "trainer")), no_dist=True)
    assert {name.split(".")[0] for name in got} == {"master", "adamw"}
    assert all(torch.equal(got[name], t) for name, t in trainer.trainer_state().items())


class Gate:
    """Holds the writing thread at its first step until it is opened."""

    def __init__(self, begin: Callable[[Path, Path], dict[str, str]]) -> None:
        self._begin = begin
        self.arrived, self.opened = threading.Event(), threading.Event()

    def begin(self, base: Path, building: Path) -> dict[str, str]:
        self.arrived.set()
        assert self.opened.wait(PATIENCE_S)
        return self._begin(base, building)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(checkpoint_writer._begin)
    monkeypatch.setattr(checkpoint_writer, "_begin", made.begin)
    yield made
    made.opened.set()


def test_what_is_trained_during_the_write_is_not_written(
    tiny_base: Path, tmp_path: Path, gate: Gate
) -> None:
    trainer, as_saved = make_trainer(tiny_base), make_trainer(tiny_base)
    train(trainer, 1)
    train(as_saved, 1)
    writer = CheckpointWriter()
    writer.start(trainer, tmp_path, base=tiny_base, meta=META)
    assert gate.arrived.wait(PATIENCE_S)
    train(trainer, 2, 3)
    assert writer.poll() == []
    assert writer.wait(0.0) == []
    assert not list(tmp_path.glob("step-*"))
    gate.opened.set()
    path = tmp_path / "step-00000001"
    assert writer.wait() == [Saved(policy="solver", step=1, path=path, meta=META)]
    assert writer.poll() == [], "each is told once"
    published = load_file(path / "model.safetensors")
    assert all(torch.equal(published[name], t) for name, t in as_saved.named_weights())
    resumed = make_trainer(tiny_base)
    checkpoint.load(path, resumed)
    assert same(resumed, as_saved)
    assert not same(resumed, trainer)


def test_a_second_save_of_a_policy_waits_for_the_first(
    tiny_base: Path, tmp_path: Path, gate: Gate
) -> None:
    solver, coder = make_trainer(tiny_base), make_trainer(tiny_base, policy="coder")
    writer = CheckpointWriter()
    writer.start(solver, tmp_path / "solver", base=tiny_base, meta={"request": 1}, keep=1)
    writer.start(coder, tmp_path / "coder", base=tiny_base, meta={})
    train(solver, 1)
    second = threading.Thread(
        target=writer.start,
        args=(solver, tmp_path / "solver"),
        kwargs={"base": tiny_base, "meta": {"request": 2}, "keep": 1},
    )
    second.start()
    assert gate.arrived.wait(PATIENCE_S)
    assert second.is_alive()
    gate.opened.set()
    second.join(PATIENCE_S)
    results = writer.wait()
    assert [(r.policy, r.step) for r in results if isinstance(r, Saved)] == [
        ("solver", 0), ("coder", 0), ("solver", 1),
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "solver").iterdir()] == ["step-00000001"]


def test_a_save_that_fails_is_reported_and_the_next_one_works(
    tiny_base: Path, tmp_path: Path
) -> None:
    trainer, writer = make_trainer(tiny_base), CheckpointWriter()
    (tmp_path / "blocked").write_text("not a folder")
    writer.start(trainer, tmp_path / "blocked", base=tiny_base, meta={})
    writer.start(trainer, tmp_path / "free", base=tiny_base, meta={})
    failed, saved = writer.wait()
    assert isinstance(failed, CheckpointError)
    assert f"{tmp_path / 'blocked' / 'step-00000000'} not written" in str(failed)
    assert isinstance(saved, Saved)


@pytest.fixture
def two_checkpoints(tiny_base: Path, tmp_path: Path) -> Path:
    trainer = make_trainer(tiny_base)
    for seed in (1, 2):
        train(trainer, seed)
        checkpoint_writer.save(tmp_path, trainer, base=tiny_base, meta=META)
    return tmp_path


@pytest.mark.parametrize("name", ["model.safetensors", SHARDS, "config.json"])
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
    "text", ["", "{", "[]", "{}", '{"format": 3}', '{"format": 3, "files": 3}']
)
def test_a_damaged_record_falls_back_too(two_checkpoints: Path, text: str) -> None:
    (two_checkpoints / "step-00000002" / "trainer.json").write_text(text)
    path, warnings = checkpoint.latest_valid(two_checkpoints)
    assert path == two_checkpoints / "step-00000001"
    assert len(warnings) == 1


def test_a_checkpoint_of_another_release_is_not_passed_over(two_checkpoints: Path) -> None:
    """What is passed over is removed in the end."""
    (two_checkpoints / "step-00000002" / "trainer.json").write_text('{"format": 2}')
    with pytest.raises(FatalError, match=r"format 2, want 3: .* resume with that one"):
        checkpoint.latest_valid(two_checkpoints)


@pytest.mark.parametrize("call", ["sha256", "read_text"])
def test_a_disk_that_does_not_answer_costs_no_checkpoint(
    two_checkpoints: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """By the next attempt it may: what was trained since would then be of another line."""

    def fails(*_: object) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(*((checkpoint, call) if call == "sha256" else (Path, call)), fails)
    with pytest.raises(EngineError, match="can't be read now") as caught:
        checkpoint.latest_valid(two_checkpoints)
    assert not isinstance(caught.value, CheckpointError)


def test_a_checkpoint_that_was_passed_over_never_comes_back(two_checkpoints: Path) -> None:
    file = two_checkpoints / "step-00000002" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    path, _ = checkpoint.latest_valid(two_checkpoints)
    checkpoint.set_aside(two_checkpoints, newer_than=path)
    (two_checkpoints / ".skipped-step-00000002" / "model.safetensors").write_bytes(whole)
    assert checkpoint.latest_valid(two_checkpoints) == (path, [])
    checkpoint.prune(two_checkpoints, 2)
    assert [found.name for found in two_checkpoints.iterdir()] == ["step-00000001"]
    checkpoint.set_aside(two_checkpoints, newer_than=None)
    assert checkpoint.latest_valid(two_checkpoints) == (None, [])


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
    first = checkpoint_writer.save(tmp_path, trainer, base=tiny_base, meta=META)
    train(trainer, 2)
    with file_size_limit(room), pytest.raises(CheckpointError) as caught:
        checkpoint_writer.save(tmp_path, trainer, base=tiny_base, meta=META)
    assert "step-00000002 not written" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert checkpoint.latest_valid(tmp_path) == (first, [])
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    checkpoint_writer.save(tmp_path, trainer, base=tiny_base, meta=META)
    assert checkpoint.latest_valid(tmp_path)[0] == tmp_path / "step-00000002"


def test_an_unfinished_checkpoint_is_not_seen(two_checkpoints: Path) -> None:
    """What a kill -9 in the middle of a save leaves behind."""
    unfinished = two_checkpoints / ".building-step-00000003"
    shutil.copytree(two_checkpoints / "step-00000002", unfinished)
    assert checkpoint.latest_valid(two_checkpoints)[0] == two_checkpoints / "step-00000002"
    checkpoint.prune(two_checkpoints, 5)
    assert not unfinished.exists()


def test_a_shard_that_nobody_recorded_is_no_part_of_a_checkpoint(two_checkpoints: Path) -> None:
    """Its reader takes every file of the folder."""
    shards = two_checkpoints / "step-00000002" / "trainer"
    shutil.copy(two_checkpoints / "step-00000001" / SHARDS, shards / "stray.safetensors")
    path, (warning,) = checkpoint.latest_valid(two_checkpoints)
    assert path == two_checkpoints / "step-00000001"
    assert "stray.safetensors" in warning


def test_saving_a_step_again_replaces_it(two_checkpoints: Path, tiny_base: Path) -> None:
    trainer = make_trainer(tiny_base)
    train(trainer, 7)
    path = checkpoint_writer.save(two_checkpoints, trainer, base=tiny_base, meta={"request": 99})
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


def test_a_checkpoint_of_another_model_is_refused(two_checkpoints: Path, tiny_base: Path) -> None:
    path = two_checkpoints / "step-00000002"
    trainer = make_trainer(tiny_base)
    name = next(iter(trainer._named))
    trainer._named[f"{name}.new"] = trainer._named.pop(name)
    with pytest.raises(CheckpointError, match=f"does not fit this model.*{name}"):
        checkpoint.load(path, trainer)


def left(folder: Path, name: str) -> tuple[dict[str, torch.Tensor], float]:
    """A whole state that ranks loaded, and the loss of the step after it."""
    file = folder / f"{name}.safetensors"
    with safe_open(file, "pt") as opened:
        return load_file(file), float(opened.metadata()["loss"])


@pytest.mark.slow
def test_any_number_of_ranks_loads_what_another_saved_and_a_kill_leaves_the_previous(
    tiny_base: Path, tmp_path: Path
) -> None:
    """1 -> 2, 2 -> 1, 2 -> 2 and 2 -> 3 ranks; a rank whose disk is full; a kill in mid-write."""
    alone = checkpoint_ranks.make_trainer(tiny_base)
    checkpoint_ranks.train(alone, 1, 2)
    checkpoint_writer.save(tmp_path / "one", alone, base=tiny_base, meta={"request": 2})
    assert run_forked(checkpoint_ranks.__name__, tiny_base, tmp_path) == ["[-9, 0]", "[0, 0, 0]"]
    path = tmp_path / "two" / checkpoint_ranks.STEP
    assert checkpoint.latest_valid(tmp_path / "two") == (path, []), "the kill took nothing"
    assert (tmp_path / "two" / ".building-step-00000003").exists(), "and left what is not taken"
    shards = sorted((path / "trainer").iterdir())
    sizes = [shard.stat().st_size for shard in shards]
    assert len(sizes) == 2
    assert max(sizes) < 0.6 * sum(sizes), "each rank writes its half"
    merged = checkpoint_ranks.make_trainer(tiny_base)
    checkpoint.load(path, merged)
    for name, trainer in (("one-on-2", alone), ("two-on-2", merged), ("two-on-3", merged)):
        state, _ = left(tmp_path, name)
        expected = trainer.trainer_state()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state), name
    for names, trainer in ((["one-on-2"], alone), (["two-on-2", "two-on-3"], merged)):
        loss = checkpoint_ranks.train(trainer, 3)
        for name in names:
            assert left(tmp_path, name)[1] == pytest.approx(loss, rel=1e-4, abs=1e-6)
