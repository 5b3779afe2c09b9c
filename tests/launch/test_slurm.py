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

from engine.nodes import ADDRESS, RUNTIME_DIR
from engine.rundir import RunDir
from launch.saved import newest_checkpoint
from tests.e2e.command import ROOT, WITHOUT_MEASURING, descendants, run, started
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
STEPS = 5
START_S = 150.0

SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
options = [word for word in sys.argv[1:] if word.startswith("--")][:1]
assert options == ["--kill-on-bad-exit=1"], options
tasks = []
for rank, host in enumerate(os.environ["FAKE_HOSTS"].split()):
    env = dict(os.environ, SLURM_NODEID=str(rank), SLURMD_NODENAME=host)
    env["{ADDRESS}"], env["{RUNTIME_DIR}"] = host, os.environ["FAKE_RUNTIME"] + str(rank)
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
        *("run.name=job", f"run.root={tmp_path / 'runs'}", f"run.steps={STEPS}"),
        *("run.checkpoint_every=100", "monitor.port=0", *WITHOUT_MEASURING),
    ]
    with started(command, tmp_path / "output", slurm) as job:
        job.until(lambda: bool(steps_of(folder)), "a first step", timeout_s=START_S)
        family = descendants(job.process.pid)
        job.process.send_signal(signal.SIGUSR1)  # what #SBATCH --signal=B:USR1 does
        ended = job.wait(90.0)
    assert ended.status == 0, ended
    assert asked(slurm)[-1] == "requeue 77"
    assert not any(process.is_alive for process in family)
    before = summary_of(folder)["steps"]
    assert before == {policy: newest_checkpoint(folder, policy) for policy in POLICIES}, "all saved"
    assert 0 < max(before.values()) < STEPS

    again = run(command, tmp_path / "output", env={**slurm, "SLURM_RESTART_COUNT": "1"})
    assert again.status == 0, again
    assert asked(slurm)[-1] == "show hostnames 127.0.0.[1-2]", "not queued again when it is done"
    summary = summary_of(folder)
    assert summary["steps"] == dict.fromkeys(POLICIES, STEPS)
    assert attempts_of(folder) == summary["attempts"] == 2
    check_conservation(summary)
    check_books(folder, summary)
    check_lineage(folder, STEPS)


def test_a_job_that_fails_is_not_queued_again(tmp_path: Path, slurm: dict[str, str]) -> None:
    """Its first task ends badly at once; so does the job, with the same status."""
    bad = tmp_path / "python"
    bad.write_text("#!/bin/bash\nexit 3\n")
    bad.chmod(0o755)
    ended = run(
        ["bash", str(SCRIPT), "x.yaml"], tmp_path / "output", env={**slurm, "PYTHON": str(bad)}
    )
    assert ended.status == 3
    assert not any("requeue" in line for line in asked(slurm))


def test_without_a_config_it_says_how_it_is_used(tmp_path: Path, slurm: dict[str, str]) -> None:
    ended = run(["bash", str(SCRIPT)], tmp_path / "output", env=slurm)
    assert (ended.status, ended.lines) == (
        2,
        ["usage: sbatch selfplay.sbatch CONFIG [section.key=value ...]"],
    )


def test_it_is_a_script_that_slurm_reads() -> None:
    """Slurm takes directives only up to the first command."""
    assert subprocess.run(["bash", "-n", str(SCRIPT)], timeout=60).returncode == 0
    lines = SCRIPT.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [i for i, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert directives
    assert max(directives) < first
    options = {
        match[1] for i in directives if (match := re.match(r"#SBATCH (--[a-z-]+)", lines[i]))
    }
    assert {"--requeue", "--signal", "--ntasks-per-node", "--open-mode"} <= options
