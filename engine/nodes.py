"""The machines of a run: which one this is, where the others reach it, and what stays on it.

torchrun starts one agent per node and tells its ranks how many there are. With one node nothing
leaves loopback. The run's folder is shared by all nodes; what only means something on one machine
(process ids) lies in the run-time directory of that machine.
"""

import contextlib
import errno
import fcntl
import hashlib
import ipaddress
import os
import random
import re
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from engine.errors import ConfigError, EngineError

LOOPBACK = "127.0.0.1"
ADDRESS = "STREAMZERO_NODE_ADDRESS"
"""Environment: the IPv4 address under which other nodes reach this one."""
RUNTIME_DIR = "STREAMZERO_RUNTIME_DIR"
"""Environment: a folder of this machine and user alone; default: below the temporary folder."""
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
"""Environment: the GPUs that CUDA lets a process see, in the order of their indices there."""
_PORTS = range(10_000, 20_000)
"""Seconds pass between a choice and a server that listens there: they are below those that Linux by
default gives to whoever asks for none, and those of the shipped configs and jobs."""
_GPU = re.compile(r"\d+$|GPU-|MIG-")
_SIOCGIFADDR = 0x8915


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the run, as one of its ranks sees it."""

    rank: int
    """Of its agent among all agents."""
    count: int
    local_ranks: int
    """Ranks that its agent started."""
    address: str
    """IPv4 address under which others reach it."""
    machine: str
    """Differs between machines, and between two starts of one."""


def this_node(environ: Mapping[str, str] = os.environ) -> Node:
    """The node of this rank. Raises ConfigError for an address that can't be one.

    By default the address is the one from which this machine talks to the agent that keeps the
    store (MASTER_ADDR): the network that torchrun itself uses.
    """
    count = int(environ.get("GROUP_WORLD_SIZE", "1"))
    given = environ.get(ADDRESS)
    if count == 1:
        address = LOOPBACK
    elif given is not None:
        address = _checked(given)
    else:
        address = address_towards(environ["MASTER_ADDR"])
    return Node(
        rank=int(environ.get("GROUP_RANK", "0")),
        count=count,
        local_ranks=int(environ.get("LOCAL_WORLD_SIZE", environ.get("WORLD_SIZE", "1"))),
        address=address,
        machine=machine_id(),
    )


def free_ports(num: int, address: str = LOOPBACK) -> list[int]:
    """Ports of this machine that nobody uses now; until this process ends no other caller has them.
    Raises EngineError where it hasn't this address, or not so many."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise EngineError(
                        f"{ADDRESS}: {address} is no address of this node ({error.strerror}); set "
                        "it to one"
                    ) from None
                continue
        if _claim(port):
            found.append(port)
        if len(found) == num:
            return found
    raise EngineError(f"not {num} of this node's ports {_PORTS.start} to {_PORTS[-1]} are free")


def _claim(port: int) -> bool:
    """Take it until this process ends, before anybody listens there; False: it was taken already.
    By a name that the kernel keeps for all who share its ports; only Linux has such names."""
    if sys.platform != "linux":
        return True
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0streamzero-port-{port}")
    except OSError as error:
        claim.close()
        return error.errno != errno.EADDRINUSE
    claim.detach()  # nobody closes it
    return True


def is_loopback(address: str) -> bool:
    return ipaddress.IPv4Address(address).is_loopback


def address_towards(host: str) -> str:
    """This machine's own IPv4 address on the way to `host`. Raises ConfigError without a way."""
    try:
        # A UDP socket that is connected sends nothing; it only asks for the route.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(
            f"{ADDRESS}: no IPv4 way to torchrun's store at {host} ({error.strerror or error}); "
            "set it to the address under which other nodes reach this one"
        ) from None


def interface_of(address: str) -> str | None:
    """The network interface that has `address`; None where it is not known (an alias, say)."""
    wanted = LOOPBACK if is_loopback(address) else address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[20:24]) == wanted:
                    return name
    return None


def visible_gpus(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What CUDA calls the GPUs of this machine that this process may use: numbers or UUIDs. Asks
    neither CUDA nor torch."""
    named = environ.get(VISIBLE_GPUS)
    if named is None:
        return tuple(str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*")))))
    # CUDA, too, sees nothing from the first one on that it can't read.
    return tuple(takewhile(_GPU.match, (name.strip() for name in named.split(","))))


def memory_bytes(root: Path = Path("/")) -> int:
    """That the processes of this node may have: the machine's, or less where their control group
    has a limit. `root`: of the file system that tells it."""
    told = re.search(r"^MemTotal:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    assert told is not None, "every Linux has it"
    return min(int(told[1]) * 1024, *_group_limits(root), sys.maxsize)


def _group_limits(root: Path) -> Iterator[int]:
    """Of memory, of the control group of this process and those above it; both kinds of groups."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        own = top / path.lstrip("/")
        for place in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError):  # not to be seen from here; "max"
                yield int((place / name).read_text())
            if place == top:
                break


@cache
def machine_id() -> str:
    """This boot of this machine, and this container on it: where a process id means something."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    for space in ("pid", "net"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(f"/proc/self/ns/{space}"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def runtime_dir(run: Path) -> Path:
    """What belongs to the run `run` on this machine alone; its parents are not made here.

    Below the temporary folder, not $XDG_RUNTIME_DIR, which is removed when its user logs out, while
    a run may go on.
    """
    name = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
    return _own_runtime_dir() / machine_id() / name


def make_runtime_dir(run: Path) -> Path:
    """Make it. Raises ConfigError where another user could write into it."""
    base, path = _own_runtime_dir(), runtime_dir(run)
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = base.stat(follow_symlinks=False)
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise ConfigError(
                f"{RUNTIME_DIR}: {base} can be written by others; choose a folder of your own"
            )
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{RUNTIME_DIR}: {base} cannot be made: {error.strerror}; choose a folder of this "
            "machine that can be written"
        ) from None
    return path


def _own_runtime_dir() -> Path:
    given = os.environ.get(RUNTIME_DIR)
    return Path(given) if given else Path(tempfile.gettempdir()) / f"streamzero-{os.getuid()}"


def _checked(address: str) -> str:
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:
        raise ConfigError(
            f"{ADDRESS}: {address!r} is no IPv4 address; want one of this node"
        ) from None
    if parsed.is_unspecified:
        raise ConfigError(f"{ADDRESS}: {address} is every interface; want one address of this node")
    return address
