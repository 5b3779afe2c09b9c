"""GPUs by their data sheets, and the machines that they are in."""

import difflib
import re
from dataclasses import dataclass

from engine.errors import ConfigError
from engine.learner.costs import peak_flops
from engine.learner.memory import GB

_TB, _GBIT = 10**12, 10**9 / 8
_LEAST_MEMORY, _MOST_MEMORY = GB, 1000 * _TB
"""Of a GPU or a host, bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU. Rates are those of NVIDIA's data sheets, which nothing reaches."""

    name: str
    bandwidth: float
    """Bytes per second of its memory."""
    link: float
    """Bytes per second to the other GPUs of its node, in one direction."""
    network: float
    """Bytes per second to other nodes: one network adapter per GPU, as such nodes have."""

    @property
    def flops(self) -> float:
        """Dense bfloat16 FLOP/s."""
        peak = peak_flops(self.name)
        assert peak is not None, self.name
        return peak


def _device(name: str, bandwidth: float, link: float, gbit: float) -> Device:
    return Device(name=name, bandwidth=bandwidth, link=link, network=gbit * _GBIT)


DEVICES = {
    device.name: device
    for device in (
        _device("B200", 8.0 * _TB, 900 * GB, 400),  # NVLink 5
        _device("H200", 4.8 * _TB, 450 * GB, 400),  # NVLink 4
        _device("H100", 3.35 * _TB, 450 * GB, 400),
        _device("H100 PCIe", 2.0 * _TB, 64 * GB, 200),  # PCIe 5
        _device("H800", 3.35 * _TB, 200 * GB, 400),
        _device("GH200", 4.0 * _TB, 450 * GB, 400),
        _device("A100", 2.04 * _TB, 300 * GB, 200),  # NVLink 3
        _device("A100 40GB", 1.56 * _TB, 300 * GB, 200),
        _device("A800", 2.04 * _TB, 200 * GB, 200),
        _device("L40S", 0.864 * _TB, 32 * GB, 100),  # PCIe 4
        _device("L4", 0.3 * _TB, 32 * GB, 100),
        _device("A10", 0.6 * _TB, 32 * GB, 100),
    )
}
_BY_MEMORY = {24: "A10", 40: "A100 40GB", 48: "L40S", 80: "H100", 96: "GH200", 141: "H200"}
"""The GPU that is meant where only its memory is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Equal nodes of equal GPUs."""

    device: Device
    gpus: int
    """Of a node."""
    nodes: int = 1
    memory: float
    """Bytes of a GPU."""
    host_memory: float
    """Bytes of a node, as far as learners may have them."""

    @property
    def total(self) -> int:
        """GPUs of all nodes."""
        return self.nodes * self.gpus

    @property
    def text(self) -> str:
        """As people say it: 8 x H100 (80 GB)."""
        nodes = f"{self.nodes} nodes of " if self.nodes > 1 else ""
        name = self.device.name.removesuffix(" 40GB")
        return f"{nodes}{self.gpus} x {name} ({self.memory / GB:g} GB)"


def memory_bytes(text: str, option: str) -> float:
    """Bytes of e.g. `80GB` or `1TB`, units of 10^3. Raises ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GB|TB)", text.strip(), re.IGNORECASE)
    if found is None:
        example = f"{text}GB" if re.fullmatch(r"\d+(\.\d+)?", text) else "80GB"
        raise ConfigError(f"{option} {text!r}: want a number with its unit, e.g. {example}")
    value = float(found[1]) * (1000 if found[2].upper() == "TB" else 1) * GB
    if not _LEAST_MEMORY <= value <= _MOST_MEMORY:
        shown = text if len(text) < 30 else f"{text[:24]}..."
        raise ConfigError(f"{option} {shown!r}: want 1GB at least, and 1000TB at most")
    return value


def find_device(name: str | None, memory: float) -> Device:
    """The GPU called `name`, or where it is None, the usual one of that memory. Raises ConfigError
    with what there is."""
    if name is None:
        name = _BY_MEMORY.get(round(memory / GB))
        if name is None:
            raise ConfigError(
                f"--device: which GPU has {memory / GB:g} GB? Name one of {', '.join(DEVICES)}"
            )
    by_key = {key.lower(): key for key in DEVICES}
    key = by_key.get(name.lower())
    if key is None:
        near = difflib.get_close_matches(name.lower(), by_key, n=1, cutoff=0.5)
        hint = f"did you mean {by_key[near[0]]}? " if near else ""
        raise ConfigError(f"--device {name!r} is not known; {hint}There are {', '.join(DEVICES)}")
    return DEVICES[key]
