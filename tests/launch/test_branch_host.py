"""A branch that fails takes its rank with it, whatever the rank's job is."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.errors import EngineError
from engine.rundir import RunDir
from launch import branch_host
from launch.config import RootConfig, load_root

QUICKSTART = Path(__file__).resolve().parents[2] / "launch/configs/quickstart.yaml"
POLICIES = "[proposer, coder, solver]"
LAYOUT = (
    f"layout.learners=[{{ranks: [0, 1], policies: {POLICIES}}}]",
    f"layout.servers=[{{rank: 2, policies: {POLICIES}, kind: embedded}}]",
)
FOLLOWER = """
import sys, threading, time
from pathlib import Path
from engine.rundir import RunDir
from launch import branch_host
from launch.config import load_root

config = load_root(Path(sys.argv[1]), sys.argv[2:])
branch_host._run = lambda *_: "status 1: no renderer"
with branch_host.branch_beside(config, RunDir(Path("run")), None, 1, threading.Event()):
    time.sleep(3600)  # in a collective, where no stop is heard
"""


def branch_on(rank: int) -> RootConfig:
    return load_root(QUICKSTART, overrides(rank))


def overrides(rank: int) -> list[str]:
    return [*LAYOUT, f"layout.branches=[{{rank: {rank}, servers: [2]}}]"]


def test_a_server_host_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(branch_host, "_run", lambda *_: "status 1: no renderer")
    stop, run = threading.Event(), RunDir(tmp_path)
    with (
        pytest.raises(EngineError, match="branch of rank 2 ended with status 1: no renderer"),
        branch_host.branch_beside(branch_on(2), run, None, 2, stop),  # type: ignore[arg-type]
    ):
        assert stop.wait(300)
    assert "branch of rank 2 ended with status 1: no renderer" in capfd.readouterr().err


def test_why_is_said_where_the_job_ends_with_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(branch_host, "_run", lambda *_: "status 1: no renderer")
    stop, run = threading.Event(), RunDir(tmp_path)
    with (
        pytest.raises(SystemExit),
        branch_host.branch_beside(branch_on(2), run, None, 2, stop),  # type: ignore[arg-type]
    ):
        sys.exit(int(stop.wait(300)))  # as `attempt.heard` does
    assert "branch of rank 2 ended with status 1: no renderer" in capfd.readouterr().err


def test_a_learner_in_a_collective_ends_too() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FOLLOWER, str(QUICKSTART), *overrides(1)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1, ended.stderr
    assert "branch of rank 1 ended with status 1: no renderer" in ended.stderr


def test_a_rank_without_a_branch_goes_its_way(tmp_path: Path) -> None:
    stop = threading.Event()
    with branch_host.branch_beside(branch_on(2), RunDir(tmp_path), None, 0, stop):  # type: ignore[arg-type]
        pass
    assert not stop.is_set()
