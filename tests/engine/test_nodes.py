"""Where a node is reached, and what it keeps for itself."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine import nodes
from engine.errors import ConfigError, EngineError
from engine.nodes import (
    ADDRESS,
    RUNTIME_DIR,
    address_towards,
    free_ports,
    interface_of,
    machine_id,
    make_runtime_dir,
    memory_bytes,
    runtime_dir,
    this_node,
    visible_gpus,
)
from tests.e2e import network

TWO = {"GROUP_WORLD_SIZE": "2", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "::1"}
_IFF_LOOPBACK = 0x8


@pytest.mark.parametrize("environ", [{}, {"GROUP_WORLD_SIZE": "1", ADDRESS: "10.0.0.1"}])
def test_one_node_stays_on_loopback(environ: dict[str, str]) -> None:
    assert this_node(environ).address == "127.0.0.1"


def test_a_node_is_told_its_address() -> None:
    node = this_node({**TWO, ADDRESS: "10.1.2.3"})
    assert (node.rank, node.count, node.local_ranks, node.address) == (1, 2, 8, "10.1.2.3")


@pytest.mark.parametrize("address", ["node7", "10.0.0", "::1", "", "0.0.0.0"])
def test_what_is_no_address_of_one_node_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=f"{ADDRESS}: .*one"):
        this_node({**TWO, ADDRESS: address})


def test_by_default_it_is_the_address_that_leads_to_the_store() -> None:
    assert this_node({**TWO, "MASTER_ADDR": "127.0.0.1"}).address == "127.0.0.1"
    for address in subprocess.run(
        ["hostname", "-I"], capture_output=True, text=True
    ).stdout.split():
        if ":" not in address:  # a store on this machine is reached from its own address
            assert address_towards(address) == address


def test_without_a_way_to_the_store_the_fix_is_named() -> None:
    with pytest.raises(ConfigError, match=f"{ADDRESS}: no IPv4 way to torchrun's store at ::1"):
        this_node(TWO)


def test_the_interface_of_loopback_is_found() -> None:
    """Against the kernel's own flags of interfaces."""
    name = interface_of("127.0.0.2")
    assert name is not None
    flags = int(Path(f"/sys/class/net/{name}/flags").read_text(), 16)
    assert flags & _IFF_LOOPBACK
    assert interface_of("203.0.113.9") is None


@pytest.mark.parametrize(
    "named, gpus",
    [
        ("4, 5,6", ("4", "5", "6")),
        ("GPU-8a2b,MIG-1f/3/0", ("GPU-8a2b", "MIG-1f/3/0")),
        ("", ()),
        ("NoDevFiles", ()),
        ("0,-1,2", ("0",)),
    ],
)
def test_gpus_are_called_as_cuda_is_told(named: str, gpus: tuple[str, ...]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": named}) == gpus


@pytest.mark.parametrize(
    "group, limits, memory",
    [
        ("0::/", {}, 8),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": str(4 << 30)}, 4),
        ("0::/a/b", {"memory.max": str(2 << 30), "a/b/memory.max": str(16 << 30)}, 2),
        ("4:cpu:/a\n7:memory,x:/a", {"memory/a/memory.limit_in_bytes": str(1 << 30)}, 1),
        ("7:memory:/a", {"memory/memory.limit_in_bytes": str((1 << 63) - 4096)}, 8),
        (None, {}, 8),
    ],
)
def test_memory_is_what_the_machine_or_the_control_group_has(
    tmp_path: Path, group: str | None, limits: dict[str, str], memory: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemFree: 1 kB\nMemTotal:   {8 << 20} kB\n")
    if group is not None:
        (tmp_path / "proc/self/cgroup").write_text(f"{group}\n")
    for name, text in limits.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    assert memory_bytes(tmp_path) == memory << 30


def test_the_machine_is_the_same_for_all_its_processes() -> None:
    code = "from engine.nodes import machine_id; print(machine_id())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == machine_id()


def test_each_run_and_each_machine_has_a_run_time_directory_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUNTIME_DIR, str(tmp_path / "a"))
    found = {make_runtime_dir(tmp_path / name) for name in ("one", "two")}
    assert len(found) == 2
    monkeypatch.chdir(tmp_path)
    assert runtime_dir(Path("one")) in found, "the same run under a relative path"
    monkeypatch.setattr(nodes, "machine_id", lambda: "after a reboot")
    assert runtime_dir(tmp_path / "one") not in found
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_a_run_time_directory_that_others_can_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Whoever writes there says which of our processes are swept."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    monkeypatch.setenv(RUNTIME_DIR, str(tmp_path / "open"))
    with pytest.raises(ConfigError, match=f"{RUNTIME_DIR}: .* can be written by others"):
        make_runtime_dir(tmp_path / "run")


def test_one_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNTIME_DIR, str(tmp_path / "theirs"))
    make_runtime_dir(tmp_path / "run")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ConfigError, match="choose a folder of your own"):
        make_runtime_dir(tmp_path / "run")


def test_one_that_can_not_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(RUNTIME_DIR, str(tmp_path / "file" / "below"))
    with pytest.raises(ConfigError, match=f"{RUNTIME_DIR}: .*below cannot be made"):
        make_runtime_dir(tmp_path / "run")


def test_free_ports_are_free_and_never_those_of_the_shipped_configs() -> None:
    first, second = free_ports(2)
    with socket.create_server(("127.0.0.1", first)), socket.create_server(("127.0.0.1", second)):
        assert first != second
        assert max(first, second) < 20_000, "from there on configs and jobs have theirs"
    with pytest.raises(EngineError, match=r"192\.0\.2\.1 is no address of this node"):
        free_ports(1, "192.0.2.1")


def test_a_port_that_somebody_uses_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    port = network.free_ports(1)
    monkeypatch.setattr("engine.nodes._PORTS", range(port, port + 1))
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(EngineError, match="not 1 of this node's ports"),
    ):
        free_ports(1)
    assert free_ports(1) == [port]


CHOOSES = """
from engine import nodes
nodes._PORTS = range({first}, {first} + 4)
print(nodes.free_ports(3), flush=True)
input()
"""


def test_a_port_is_its_process_s_before_anybody_listens_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two runs begin at the same time: their servers listen seconds after the choice."""
    first = network.free_ports(5) + 1  # the one before was claimed above, by this process
    monkeypatch.setattr("engine.nodes._PORTS", range(first, first + 4))
    with subprocess.Popen(
        [sys.executable, "-c", CHOOSES.format(first=first)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        theirs = set(json.loads(other.stdout.readline()))
        assert len(theirs) == 3
        assert theirs.isdisjoint(free_ports(1))
        with pytest.raises(EngineError, match="not 1 of this node's ports"):
            free_ports(1)
        other.communicate("\n")
    assert set(free_ports(3)) == theirs, "it has ended"
