"""What a user can get wrong: one clear line, a non-zero exit, no traceback."""

import hashlib
import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.rundir import RunDir, RunLock
from tests.e2e.command import ROOT, SCRIPT, WITHOUT_MEASURING, Ended, run, selfplay
from tests.e2e.conftest import QUICK_OVERRIDES, QUICK_STEPS, QuickRun
from tests.e2e.records import (
    POLICIES,
    attempts_of,
    check_books,
    check_conservation,
    check_lineage,
    check_versions,
    checkpoints_of,
    events_of,
    rows,
    summary_of,
)

Arguments = Callable[..., list[str]]
BASE = ROOT / "launch" / "tiny_base_model"
REFUSAL_S = 60.0


def refusal(ended: Ended) -> str:
    """The one line of a refused command."""
    assert ended.status not in (0, None), ended
    assert len(ended.lines) == 1, ended.text
    (line,) = ended.lines
    assert line.startswith("streamzero: "), line
    return line


def copy_of_base(folder: Path) -> Path:
    target = folder / "base"
    shutil.copytree(BASE, target)
    return target


def missing_base(folder: Path) -> Path:
    return folder / "nowhere"


def truncated_base(folder: Path) -> Path:
    base = copy_of_base(folder)
    weights = base / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size - 1000)
    return base


def base_without_tokenizer(folder: Path) -> Path:
    base = copy_of_base(folder)
    (base / "tokenizer.json").unlink()
    return base


def other_architecture(folder: Path) -> Path:
    base = copy_of_base(folder)
    config = json.loads((base / "config.json").read_text())
    config["architectures"] = ["LlamaForCausalLM"]
    (base / "config.json").write_text(json.dumps(config))
    return base


@pytest.mark.parametrize(
    "make, words",
    [
        (missing_base, ("no such folder", "nowhere")),
        (truncated_base, ("model.safetensors", "copy it again")),
        (base_without_tokenizer, ("tokenizer.json is missing", "copy")),
        (other_architecture, ("LlamaForCausalLM", "Qwen3VLForConditionalGeneration")),
    ],
)
def test_an_unusable_base_model(
    make: Callable[[Path], Path], words: tuple[str, ...], arguments: Arguments, tmp_path: Path
) -> None:
    base = make(tmp_path)
    line = refusal(run(arguments(f"model.base={base}"), tmp_path, timeout_s=REFUSAL_S))
    assert all(word in line for word in (str(base), *words)), line


@pytest.mark.parametrize(
    "override, words",
    [
        (
            "learner.lerning_rate=1",
            ("learner.lerning_rate", "unknown key", "learner has objective, lr,"),
        ),
        ("run.steps=many", ("run.steps", "'many'")),
        ("run.name=../elsewhere", ("run.name", "pattern")),
        ("layout.servers.0.rank=0", ("layout.servers.0", "rank 0", "layout.learners.0")),
    ],
)
def test_a_config_that_makes_no_sense(
    override: str, words: tuple[str, ...], arguments: Arguments, tmp_path: Path
) -> None:
    line = refusal(run(arguments(override), tmp_path, timeout_s=REFUSAL_S))
    assert all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()


def test_an_override_without_a_value(arguments: Arguments, tmp_path: Path) -> None:
    line = refusal(run(arguments("run.steps"), tmp_path, timeout_s=REFUSAL_S))
    assert "'run.steps'" in line
    assert "section.key=value" in line


def test_an_override_with_a_path_may_come_first(tmp_path: Path) -> None:
    command = selfplay(f"run.root={tmp_path / 'runs'}", "run.step=4")
    assert "'run.step'" in refusal(run(command, tmp_path, timeout_s=REFUSAL_S))


def test_overrides_may_follow_a_flag(tmp_path: Path) -> None:
    """As in the line that a stopped run prints: `--resume run.name=...`."""
    config = str(ROOT / "launch" / "configs" / "quickstart.yaml")
    command = selfplay(config, "run.seed=1", "--resume", f"run.root={tmp_path}", "run.name=none")
    assert str(tmp_path / "none") in refusal(run(command, tmp_path, timeout_s=REFUSAL_S))


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "no such config file"),
        ("run: [unclosed", "cannot be read"),
        ("- a\n- list\n", "mapping of sections"),
    ],
)
def test_an_unusable_config_file(text: str | None, words: str, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    if text is not None:
        config.write_text(text)
    line = refusal(run(selfplay(str(config)), tmp_path, timeout_s=REFUSAL_S))
    assert str(config) in line
    assert words in line


def test_a_port_in_use(arguments: Arguments, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = arguments(f"layout.servers.0.port={port}")
        line = refusal(run(command, tmp_path, timeout_s=REFUSAL_S))
    assert f"port {port} is in use" in line
    assert "layout.servers.0.port" in line


def test_nothing_to_resume(arguments: Arguments, tmp_path: Path) -> None:
    line = refusal(run(arguments("--resume"), tmp_path, timeout_s=REFUSAL_S))
    assert str(tmp_path / "runs" / "own") in line
    assert "without --resume" in line
    assert not (tmp_path / "runs").exists()


def test_a_run_dir_in_use(arguments: Arguments, tmp_path: Path) -> None:
    own = RunDir(tmp_path / "runs" / "own")
    own.create()
    lock = RunLock(own)
    try:
        for more in ((), ("--resume",)):
            line = refusal(run(arguments(*more), tmp_path, timeout_s=REFUSAL_S))
            assert f"{own.path} is in use" in line
    finally:
        lock.release()


def test_a_run_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    command = selfplay("run.name=own", f"run.root={tmp_path / 'file'}")
    assert str(tmp_path / "file") in refusal(run(command, tmp_path, timeout_s=REFUSAL_S))


def test_missing_libcairo(arguments: Arguments, tmp_path: Path) -> None:
    (tmp_path / "cairosvg").mkdir()
    broken = "raise OSError('no library called \"cairo-2\" was found')"
    (tmp_path / "cairosvg" / "__init__.py").write_text(broken)
    env = {"PYTHONPATH": str(tmp_path)}
    line = refusal(run(arguments(), tmp_path, env=env, timeout_s=REFUSAL_S))
    assert "libcairo" in line
    assert "apt-get install" in line


@pytest.mark.slow
def test_a_wrong_number_of_ranks(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [str(SCRIPT), "run.name=own", f"run.root={tmp_path / 'runs'}"]
    command = [*torchrun, "--nproc-per-node=1", *script]
    ended = run(command, tmp_path, timeout_s=300)
    assert ended.status != 0
    ours = [line for line in ended.lines if line.startswith("streamzero: ")]
    assert len(ours) == 1, ended.text
    assert "it needs 2 ranks, torchrun started 1" in ours[0]
    assert "--nproc-per-node=2 launch/async_selfplay.py" in ours[0]
    before, _, _ = ended.text.partition(ours[0])
    assert "Traceback" not in before, "torchrun's own words must not hide ours"
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_an_existing_run_is_not_overwritten(quick_run: QuickRun, tmp_path: Path) -> None:
    config = quick_run.dir.config.read_bytes()
    command = selfplay("run.name=quick", f"run.root={quick_run.dir.path.parent}")
    line = refusal(run(command, tmp_path, timeout_s=REFUSAL_S))
    assert f"{quick_run.dir.path} exists" in line
    assert "--resume" in line
    assert quick_run.dir.config.read_bytes() == config


@pytest.mark.slow
def test_corrupt_checkpoints(quick_run: QuickRun, tmp_path: Path) -> None:
    """The one before is taken, or the base where none is left, and the run completes."""
    own = RunDir(tmp_path / "runs" / "quick")
    shutil.copytree(quick_run.dir.path, own.path)
    own.summary.unlink()  # as if it had died before its end: a finished run is not resumed
    # The solver loses its newest, the coder both, the proposer none.
    lost = [*checkpoints_of(own, "solver")[1:], *checkpoints_of(own, "coder")]
    for path in lost:
        (shards,) = (path / "trainer").iterdir()
        corrupt(shards if path.name.endswith("2") else path / "model.safetensors")
    where = ("run.name=quick", f"run.root={own.path.parent}")
    command = selfplay(*where, *QUICK_OVERRIDES, *WITHOUT_MEASURING, "--resume")
    ended = run(command, tmp_path)
    assert ended.status == 0, ended
    assert "Traceback" not in ended.text
    said = "\n".join([*events_of(own), *(path.read_text() for path in own.logs.glob("*.log"))])
    for path in lost:
        assert f"checkpoint {path} is corrupt" in said
    assert said.count("falling back to the one before") >= len(lost)
    restores = rows(own, "SELECT policy, step FROM restores WHERE attempt = 2")
    assert dict(restores) == {"proposer": QUICK_STEPS, "coder": 0, "solver": 2}
    check_the_end(own)


def check_the_end(own: RunDir) -> None:
    """A resumed run whose books balance, and whose newest checkpoints are whole again."""
    summary = summary_of(own)
    assert summary["steps"] == dict.fromkeys(POLICIES, QUICK_STEPS)
    assert summary["attempts"] == 2
    check_conservation(summary)
    check_books(own, summary)
    check_versions(own)
    check_lineage(own, QUICK_STEPS)
    for policy in POLICIES:
        newest = checkpoints_of(own, policy)[-1]
        assert newest.name == f"step-{QUICK_STEPS:08d}"
        record = json.loads((newest / "trainer.json").read_text())
        for name, digest in record["files"].items():
            assert hashlib.sha256((newest / name).read_bytes()).hexdigest() == digest, name


def corrupt(path: Path) -> None:
    """Flip one bit in the middle: size and header stay right."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.slow
def test_bad_batches_end_the_run_at_once_and_say_why(tmp_path: Path) -> None:
    """torchrun would start such a run anew three times."""
    ended = run(
        selfplay(
            "run.name=bad", f"run.root={tmp_path}", "learner.max_gap=1.0e-9",
            "learner.max_bad_batches=1", *WITHOUT_MEASURING,
        ),
        tmp_path / "output",
    )  # fmt: skip
    assert ended.status == 1
    assert "1 bad batches in a row, the last because the rollouts can't come" in ended.stderr
    assert ended.stderr.count("bad batches in a row") == 1
    folder = RunDir(tmp_path / "bad")
    assert list(folder.bad_batches.iterdir())
    assert attempts_of(folder) == 1
