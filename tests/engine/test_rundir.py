"""One process per run directory; what a dead attempt left is swept, and nothing else."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import children
from engine.errors import ConfigError
from engine.nodes import RUNTIME_DIR
from engine.rundir import (
    RunDir,
    RunLock,
    key_digest,
    make_key,
    record_pid,
    start_time,
    sweep_pids,
)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "r")
    run.create()
    return run


def test_a_second_process_is_refused_by_name(run: RunDir) -> None:
    lock = RunLock(run)
    code = (
        "import sys; from pathlib import Path\n"
        "from engine.rundir import RunDir, RunLock\n"
        "from engine.errors import ConfigError\n"
        "try: RunLock(RunDir(Path(sys.argv[1])))\n"
        "except ConfigError as e: print(e); sys.exit(2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert str(os.getpid()) in done.stdout
    lock.release()
    RunLock(run).release()


def test_a_child_does_not_keep_the_lock(run: RunDir) -> None:
    lock = RunLock(run)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        lock.release()
        RunLock(run).release()
    finally:
        child.kill()
        child.wait()


def test_the_sweep_kills_only_what_was_recorded(run: RunDir) -> None:
    orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        record_pid(run, orphan.pid)
        (run.pids / str(bystander.pid)).write_text("1")  # a recycled pid: other start time
        assert start_time(bystander.pid) != "1"
        assert sweep_pids(run) == [orphan.pid]
        assert orphan.wait(300) == -9
        assert bystander.poll() is None
        assert not list(run.pids.iterdir())
    finally:
        for process in (orphan, bystander):
            process.kill()
            process.wait()


def test_processes_of_another_node_are_left_alone(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's folder is shared, and process ids are not: here the same number on two nodes."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        monkeypatch.setenv(RUNTIME_DIR, str(tmp_path / "node0"))
        record_pid(run, process.pid)
        monkeypatch.setenv(RUNTIME_DIR, str(tmp_path / "node1"))
        assert sweep_pids(run) == []
        assert process.poll() is None
        monkeypatch.setenv(RUNTIME_DIR, str(tmp_path / "node0"))
        assert sweep_pids(run) == [process.pid]
    finally:
        process.kill()
        process.wait()


def test_a_run_that_ended_well_leaves_nothing_on_the_machine(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUNTIME_DIR, str(tmp_path / "node"))
    record_pid(run, os.getpid())
    assert run.pids.is_dir()
    run.forget_here()
    run.forget_here()
    assert not [path for path in (tmp_path / "node").rglob("*") if path.is_file()]
    assert sweep_pids(run) == []
    assert run.path.is_dir()


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_where_the_file_system_has_no_locks_the_machine_has(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    shared, flock = run.path / "lock", fcntl.flock

    def flock_of_some(descriptor: int, operation: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")) == shared.resolve():
            raise OSError(error, os.strerror(error))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_of_some)
    lock = RunLock(run)
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} of "):
        RunLock(run)
    lock.release()
    RunLock(run).release()


def test_two_nodes_can_compare_keys_without_telling_them(run: RunDir) -> None:
    assert key_digest(run) is None
    make_key(run)
    first, key = key_digest(run), run.key.read_text()
    assert first == key_digest(RunDir(run.path))
    assert key not in (first or "")
    make_key(run)
    assert key_digest(run) != first


def test_children_die_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import sys, os\nfrom pathlib import Path\nfrom engine import children\n"
        "c = children.spawn([sys.executable, '-c', 'import time; time.sleep(600)'], log=None)\n"
        "print(c.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    pid = int(done.stdout)
    deadline = time.monotonic() + 60
    while start_time(pid) is not None and not _is_zombie(pid):
        assert time.monotonic() < deadline, f"child {pid} survived its parent"
        os.sched_yield()


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_last_lines_of_a_log_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    child = children.spawn(
        [sys.executable, "-c", "print('one'); print('two'); raise SystemExit(3)"], log=log
    )
    assert child.wait(300) == 3
    assert children.last_lines(log, 1) == "two"
    assert children.last_lines(tmp_path / "none") == "(no log)"


def test_config_error_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)
