"""The learners' gloo groups: what torch's own do not survive.

    python -m tests.engine.learner.test_gloo

gathers as `DTensor.full_tensor` does, many at a time, and prints what it has seen.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from engine.learner import gloo
from engine.learner.control import Control

ROUNDS = 15_000
AT_ONCE = 20


def gather_often(interface: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: what goes wrong here ends it."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "GLOO_SOCKET_IFNAME": interface, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def test_collectives_that_end_at_once_harm_nothing() -> None:
    done = gather_often("lo")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {
        "backends": [gloo.NAME, gloo.NAME],
        "workers": 1 + 2 + 1,  # the control group, in between, is torch's own
        "right": ROUNDS * AT_ONCE,
    }


def test_the_interface_is_the_one_that_was_named() -> None:
    failed = gather_often("nosuch0")
    assert failed.returncode == 1
    assert "nosuch0" in failed.stderr


def num_workers() -> int:
    """Threads that execute gloo's collectives here; they name themselves as they begin."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return names.count("pt_gloo_runloop")


def main() -> None:
    Control("learners", dist.HashStore(), rank=0, world=1, backend="gloo", is_needed=True)
    backends = [dist.get_backend(), dist.get_backend(dist.new_group())]
    c10d, right = torch.ops._c10d_functional, 0
    for number in range(ROUNDS):
        part = torch.full((8,), float(number))
        gathered = [c10d.all_gather_into_tensor(part, 1, "0") for _ in range(AT_ONCE)]
        right += sum(torch.equal(c10d.wait_tensor(whole), part) for whole in gathered)
    seen = {"backends": backends, "workers": num_workers(), "right": right}
    print(json.dumps(seen), flush=True)
    os._exit(0)  # groups that nobody destroys


if __name__ == "__main__":
    main()
