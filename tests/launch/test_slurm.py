"""The batch script of Slurm, executed where there is no Slurm: `srun` and `scontrol` are stand-ins
that start its tasks on this machine, forward signals as srun does, and write down what is asked."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.nodes import ADDRESS, RUNTIME_DIR
from engine.rundir import RunDir
from launch.saved import newest_checkpoint
from launch.slurm import job
from tests.e2e.command import ROOT, WITHOUT_MEASURING, descendants, left_of, run, started
from tests.e2e.network import free_ports
from tests.e2e.records import (
    POLICIES,
    attempts_of,
    check_books,
    check_conservation,
    check_lineage,
    steps_of,
    summary_of,
)

SCRIPT = ROOT / "launch/slurm/selfplay.sbatch"
START_S = 600.0

SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
options = [word for word in sys.argv[1:] if word.startswith("--")][:1]
assert options == ["--kill-on-bad-exit=1"], options
tasks = []
for rank, host in enumerate(os.environ["FAKE_HOSTS"].split()):
    env = dict(os.environ, SLURM_NODEID=str(rank), SLURMD_NODENAME=host)
    env["{RUNTIME_DIR}"] = os.environ["FAKE_RUNTIME"] + str(rank)
    if "FAKE_NO_ADDRESS" not in env:
        env["{ADDRESS}"] = host
    tasks.append(subprocess.Popen(sys.argv[2:], env=env, start_new_session=True))
for number in (signal.SIGUSR1,):
    signal.signal(number, lambda number, _: [task.send_signal(number) for task in tasks])
left, bad = set(tasks), 0
while left:
    pid, status = os.wait()
    task = next(task for task in left if task.pid == pid)
    left.remove(task)
    bad = bad or abs(os.waitstatus_to_exitcode(status))
    if bad:  # what --kill-on-bad-exit does
        for other in left:
            os.killpg(other.pid, signal.SIGKILL)
sys.exit(bad)
"""
SCONTROL = """#!/bin/bash
echo "$*" >> "$FAKE_ASKED"
if [ "$1 $2" = "show hostnames" ]; then printf '%s\\n' $FAKE_HOSTS; fi
"""
PYTHON = f"""#!/bin/bash
if [ "$2" = needs ]; then echo "2 500 3"; exit; fi
if [ "$2" = address ]; then
    if [ "$3" = bare ]; then echo 10.0.0.7; fi
    echo "$*" >> "$FAKE_ASKED"
    exit
fi
echo "agent $SLURM_NODEID at ${{{ADDRESS}-its own}} in $SHUTDOWN_S s" >> "$FAKE_ASKED"
exit $FAKE_STATUS
"""
"""Stands in for the interpreter: answers for `job.py`, and is an agent that ends at once."""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two nodes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "REPO": str(ROOT),
        "PORT": str(free_ports(1)),
        "RANKS_PER_NODE": "1",
        "JOIN_S": "120",
        "SLURM_JOB_ID": "77",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "127.0.0.[1-2]",
        "FAKE_HOSTS": "127.0.0.1 127.0.0.2",
        "FAKE_ASKED": str(tmp_path / "asked"),
        "FAKE_RUNTIME": str(tmp_path / "runtime"),
    }


def asked(env: Mapping[str, str]) -> list[str]:
    return Path(env["FAKE_ASKED"]).read_text().splitlines()


@pytest.mark.slow
def test_before_the_time_limit_it_saves_and_queued_again_it_resumes(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    folder = RunDir(tmp_path / "runs" / "job")
    command = [
        *("bash", str(SCRIPT), str(ROOT / "launch/configs/quickstart.yaml")),
        *("run.name=job", f"run.root={tmp_path / 'runs'}"),
        *("run.checkpoint_every=100", "monitor.port=0", *WITHOUT_MEASURING),
    ]
    with started([*command, "run.steps=1000"], tmp_path / "output", slurm) as job:
        job.until(lambda: bool(steps_of(folder)), "a first step", timeout_s=START_S)
        family = descendants(job.process.pid)
        job.process.send_signal(signal.SIGUSR1)  # what #SBATCH --signal=B:USR1 does
        ended = job.wait(200.0)
    assert ended.status == 0, ended
    assert asked(slurm)[-1] == "requeue 77"
    assert not left_of(family)
    before = summary_of(folder)["steps"]
    assert before == {policy: newest_checkpoint(folder, policy) for policy in POLICIES}, "all saved"
    assert max(before.values()) > 0

    steps = max(before.values()) + 2
    again = run(
        [*command, f"run.steps={steps}"],
        tmp_path / "output",
        env={**slurm, "SLURM_RESTART_COUNT": "1"},
    )
    assert again.status == 0, again
    assert asked(slurm)[-1] == "show hostnames 127.0.0.[1-2]", "not queued again when it is done"
    summary = summary_of(folder)
    assert summary["steps"] == dict.fromkeys(POLICIES, steps)
    assert attempts_of(folder) == summary["attempts"] == 2
    check_conservation(summary)
    check_books(folder, summary)
    check_lineage(folder, steps)


@pytest.fixture
def canned(tmp_path: Path, slurm: dict[str, str]) -> dict[str, str]:
    """The same job, whose interpreter is a stand-in."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    return {**slurm, "PYTHON": str(python), "FAKE_STATUS": "0"}


def agents(env: Mapping[str, str]) -> list[str]:
    return sorted(line for line in asked(env) if line.startswith("agent "))


def test_a_job_that_fails_is_not_queued_again(tmp_path: Path, canned: dict[str, str]) -> None:
    """Its first task ends badly at once; so does the job, with the same status."""
    ended = run(
        ["bash", str(SCRIPT), "x.yaml"], tmp_path / "output", env={**canned, "FAKE_STATUS": "3"}
    )
    assert ended.status == 3
    assert agents(canned)
    assert not any("requeue" in line for line in asked(canned))


@pytest.mark.parametrize("given, seconds", [({}, 530), ({"SHUTDOWN_S": "900"}, 900)])
def test_agents_wait_for_as_long_as_the_config_lets_a_stop_take(
    given: dict[str, str], seconds: int, tmp_path: Path, canned: dict[str, str]
) -> None:
    ended = run(["bash", str(SCRIPT), "x.yaml"], tmp_path / "output", env=canned | given)
    assert ended.status == 0
    assert agents(canned) == [f"agent {i} at 127.0.0.{i + 1} in {seconds} s" for i in range(2)]


def test_the_environment_is_the_one_that_is_activated(
    tmp_path: Path, canned: dict[str, str]
) -> None:
    python = Path(canned.pop("PYTHON"))
    env = {**canned, "VIRTUAL_ENV": str(python.parents[1])}
    # What runs the tests may have activated one, and `run` adds to its environment.
    assert run(["bash", str(SCRIPT), "x.yaml"], tmp_path / "output", env=env).status == 0
    assert len(agents(canned)) == 2
    gpu = tmp_path / "repo" / ".venv-gpu"
    gpu.parent.mkdir()
    gpu.symlink_to(python.parents[1])
    env |= {"VIRTUAL_ENV": "", "REPO": str(gpu.parent)}
    assert run(["bash", str(SCRIPT), "x.yaml"], tmp_path / "again", env=env).status == 0
    assert len(agents(canned)) == 4


def test_only_a_node_whose_own_name_is_no_address_is_given_one(
    tmp_path: Path, canned: dict[str, str]
) -> None:
    env = {**canned, "FAKE_HOSTS": "bare other", "FAKE_NO_ADDRESS": "yes"}
    assert run(["bash", str(SCRIPT), "x.yaml"], tmp_path / "output", env=env).status == 0
    assert agents(env) == ["agent 0 at 10.0.0.7 in 530 s", "agent 1 at its own in 530 s"]
    questions = {line.partition("job.py ")[2] for line in asked(env) if "job.py" in line}
    assert questions == {"address bare bare other", "address other bare other"}


@pytest.mark.parametrize(
    "ways, expected",
    [
        ({"a": "10.0.0.1", "b": "10.0.0.1"}, ""),  # its own name is an address already
        ({"a": "127.0.1.1", "b": "10.0.0.1"}, "10.0.0.1"),
        ({"a": "127.0.1.1", "c": "10.0.0.9"}, "10.0.0.9"),  # nobody knows b
        ({"a": "127.0.1.1", "b": "127.0.0.1"}, ""),  # all of them here
        ({"b": "10.0.0.1"}, ""),
    ],
)
def test_an_address_is_that_of_the_way_to_another_node(
    ways: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def address_towards(host: str) -> str:
        if host not in ways:
            raise ConfigError(host)
        return ways[host]

    monkeypatch.setattr(job, "address_towards", address_towards)
    assert job.address("a", ["a", "b", "c"]) == expected


def test_a_layout_that_the_nodes_do_not_have_is_refused_before_they_start(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    command = ["bash", str(SCRIPT), "launch/configs/mm_zero_qwen3_vl_8b_4x8x80gb.yaml"]
    env = {**slurm, "RANKS_PER_NODE": "8"}
    ended = run(command, tmp_path / "output", env=env)
    assert ended.status == 2
    assert ended.lines == [
        f"streamzero: the layout of {command[2]} has 32 ranks, and 2 nodes of 8 have 16: "
        "set --nodes or RANKS_PER_NODE"
    ]
    assert not Path(env["FAKE_ASKED"]).exists(), "no node was looked for"


def test_a_config_that_can_not_be_read_is_said_in_one_line(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    ended = run(["bash", str(SCRIPT), "nowhere.yaml"], tmp_path / "output", env=slurm)
    assert ended.status == 2
    assert ended.lines == ["streamzero: nowhere.yaml: no such config file"]


def test_what_it_names_fits_and_ends_before_the_time_limit() -> None:
    """Its own example, and the least time that its directive leaves for a stop."""
    text = SCRIPT.read_text()
    example = re.search(r"--nodes=(\d+) .*\\\n#\s+(\S+\.yaml)", text)
    signal_s = re.search(r"--signal=B:USR1@(\d+)", text)
    assert example is not None
    assert signal_s is not None
    ranks, stop_s, restarts = job.needs([str(ROOT / example[2]), "run.name=mine"])
    assert ranks == 8 * int(example[1])
    assert stop_s + 60 <= int(signal_s[1])
    assert restarts == 3


def test_without_a_config_it_says_how_it_is_used(tmp_path: Path, slurm: dict[str, str]) -> None:
    ended = run(["bash", str(SCRIPT)], tmp_path / "output", env=slurm)
    assert (ended.status, ended.lines) == (
        2,
        ["usage: sbatch selfplay.sbatch CONFIG [section.key=value ...]"],
    )


def test_it_is_a_script_that_slurm_reads() -> None:
    """Slurm takes directives only up to the first command."""
    assert subprocess.run(["bash", "-n", str(SCRIPT)], timeout=300).returncode == 0
    lines = SCRIPT.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [i for i, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert directives
    assert max(directives) < first
    options = {
        match[1] for i in directives if (match := re.match(r"#SBATCH (--[a-z-]+)", lines[i]))
    }
    assert {"--requeue", "--signal", "--ntasks-per-node", "--open-mode", "--mem"} <= options
