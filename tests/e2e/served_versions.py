"""Which weight versions the servers of a run say that they serve, asked again and again."""

from dataclasses import dataclass, field
from itertools import pairwise

from engine.rundir import RunDir
from engine.server_calls import served_version
from tests.e2e.blows import SERVER
from tests.e2e.command import Process, recorded

_TIMEOUT_S = 0.5


@dataclass(slots=True)
class ServedVersions:
    """By server process and port, in the order in which they were seen."""

    run: RunDir
    ports: tuple[int, ...]
    seen: dict[tuple[Process, int], list[int]] = field(default_factory=dict)

    def look(self) -> None:
        """Ask all ports once; a server that is not there, or stopped, says nothing."""
        process = recorded(self.run, SERVER)
        if process is None:
            return
        for port in self.ports:
            version = served_by(port, self.run)
            # Asked before and after: what a successor says is not this process's.
            if version is not None and recorded(self.run, SERVER) == process:
                self.seen.setdefault((process, port), []).append(version)

    @property
    def falls(self) -> list[str]:
        """Where a server went back to an older version."""
        return [
            f"process {process.pid}, port {port}: {before} -> {after}"
            for (process, port), versions in self.seen.items()
            for before, after in pairwise(versions)
            if after < before
        ]

    @property
    def summary(self) -> str:
        asked = sum(map(len, self.seen.values()))
        processes = len({process for process, _ in self.seen})
        return f"{asked} answers of {processes} server processes; falls: {self.falls}"


def served_by(port: int, run: RunDir) -> int | None:
    """The version behind a port; None where it does not answer, or has none of ours."""
    try:
        key = run.key.read_text()
    except FileNotFoundError:  # an attempt is just beginning
        return None
    version = served_version(f"http://127.0.0.1:{port}", timeout_s=_TIMEOUT_S, key=key)
    return int(version) if version and version.isdecimal() else None
