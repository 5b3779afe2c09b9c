"""Two nodes on one machine: two agents of torchrun, each with an address and a run-time directory
of its own. All of 127/8 is loopback on Linux, so they differ as two machines do."""

import os
import signal
import socket
import struct
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from engine.nodes import ADDRESS, RUNTIME_DIR
from tests.e2e.command import SCRIPT, Process, Started, descendants, started

JOIN_S = 600
_LISTENS = "0A"
"""TCP's state in /proc/net/tcp."""


@dataclass(slots=True, kw_only=True)
class Agent:
    """torchrun on one of two nodes, as it can be started again and again."""

    rank: int
    port: int
    """Of the rendezvous."""
    root: Path
    num_ranks: int = 1
    num_nodes: int = 2
    family: set[Process] = field(default_factory=set)
    """Every process of this node that was ever seen."""

    @property
    def address(self) -> str:
        return f"127.0.0.{self.rank + 1}"

    @property
    def runtime(self) -> Path:
        return self.root / f"node{self.rank}"

    def start(self, *arguments: str) -> AbstractContextManager[Started]:
        is_host = f"is_host={int(self.rank == 0)}"
        # An agent that stood still for longer than the product of these is given up by torchrun,
        # never learns it, and would not begin anew with a node that comes back.
        alive = "keep_alive_interval=1,keep_alive_max_attempt=15"
        command = [
            *(sys.executable, "-m", "torch.distributed.run"),
            *(f"--nnodes={self.num_nodes}", f"--node-rank={self.rank}"),
            f"--nproc-per-node={self.num_ranks}",
            *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self.port}"),
            f"--rdzv-conf={is_host},join_timeout={JOIN_S},{alive}",
            f"--local-addr={self.address}",
            *("--max-restarts=3", "--monitor-interval=0.1"),
            *(str(SCRIPT), *arguments),
        ]
        env = {
            ADDRESS: self.address,
            RUNTIME_DIR: str(self.runtime),
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        return started(command, self.root / f"output{self.rank}", env)

    def look(self, agent: Started) -> None:
        self.family |= descendants(agent.process.pid)

    def alive(self) -> set[Process]:
        return {process for process in self.family if process.is_alive}


def kill(agent: Started) -> None:
    """The whole process group of the agent, without a word."""
    os.killpg(agent.process.pid, signal.SIGKILL)
    agent.process.wait()


def listening(processes: Iterable[Process]) -> dict[str, set[int]]:
    """{address: pids that listen there for TCP}, IPv4 and IPv6 alike."""
    owners: dict[str, int] = {}
    for process in processes:
        for entry in Path(f"/proc/{process.pid}/fd").glob("*"):
            try:
                target = os.readlink(entry)
            except OSError:
                continue
            if target.startswith("socket:["):
                owners[target[8:-1]] = process.pid
    found: dict[str, set[int]] = {}
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _LISTENS and rest[5] in owners:
                address = _address(local.partition(":")[0], family)
                found.setdefault(address, set()).add(owners[rest[5]])
    return found


def _address(text: str, family: socket.AddressFamily) -> str:
    """An address as the kernel prints it: words in the machine's own byte order."""
    words = (int(text[i : i + 8], 16) for i in range(0, len(text), 8))
    return socket.inet_ntop(family, b"".join(struct.pack("=I", word) for word in words))
