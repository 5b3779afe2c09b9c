"""What a run is made to suffer, and when: a plan by a seed, and the hand that carries it out."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.rundir import RunDir, start_time
from tests.e2e.command import Process, descendants, parent_of, recorded
from tests.e2e.network import SIDES, Network, Side

SERVER, ENGINE = "engine.servers.embedded.template", "launch.engine"
"""A server is forked, and has the command line of its template."""
RENDER_TEMPLATE = "render_pool.template"
RENDER_EVERY_S, SERVER_EVERY_S, LIFE_EVERY_S, PAUSE_EVERY_S = 2.0, 30.0, 100.0, 20.0
SHORTEST_S, LONGEST_S = 1.0, 10.0
TEMPLATE_SHARE = 5
"""One in so many kills of a server process is of its template, which takes the server along."""

Who = Literal[
    "render worker", "server", "template", "engine", "rank 0", "rank 1", "sampler", "learner"
]
LIVES: tuple[Who, ...] = ("engine", "rank 0", "rank 1")
SLEEPERS: tuple[Who, ...] = ("server", "rank 0", "engine")


@dataclass(frozen=True, slots=True, order=True)
class Blow:
    """One thing that is done to the run."""

    at_s: float
    what: Literal["kill", "pause", "swallow"]
    who: Who
    """`swallow`: whose connections to the servers."""
    for_s: float = 0.0


def plan(seconds: float, seed: int) -> list[Blow]:
    """All blows of a run, in order. The engine and a rank die in turn."""
    rng = random.Random(seed)
    blows = [Blow(at_s, "kill", "render worker") for at_s in _times(RENDER_EVERY_S, seconds)]
    for i, at_s in enumerate(_times(SERVER_EVERY_S, seconds)):
        last = i % TEMPLATE_SHARE == TEMPLATE_SHARE - 1
        blows.append(Blow(at_s, "kill", "template" if last else "server"))
    for i, at_s in enumerate(_times(LIFE_EVERY_S, seconds)):
        who = "engine" if i % 2 == 0 else rng.choice(LIVES[1:])
        blows.append(Blow(at_s, "kill", who))
    for at_s in _times(PAUSE_EVERY_S, seconds):
        for_s = rng.uniform(SHORTEST_S, LONGEST_S)
        if rng.random() < 0.5:
            blows.append(Blow(at_s - 9.0, "pause", rng.choice(SLEEPERS), for_s))
        else:
            blows.append(Blow(at_s - 9.0, "swallow", rng.choice(SIDES), for_s))
    return sorted(blows)


def _times(every_s: float, until_s: float) -> list[float]:
    return [every_s * (i + 1) for i in range(int(until_s / every_s))]


@dataclass(slots=True, kw_only=True)
class Hand:
    """Carries blows out."""

    run: RunDir
    net: Network
    seed: int
    _rng: random.Random = field(init=False)
    _later: list[tuple[float, str, Callable[[], None]]] = field(default_factory=list)
    """What ends a pause: when, its words, and how."""

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def strike(self, blow: Blow) -> str:
        """Do it; what was done, in words."""
        now_s = time.monotonic()
        if blow.what == "swallow":
            side: Side = "sampler" if blow.who == "sampler" else "learner"
            self.net.swallow(side)
            words = f"{side}s and servers hear each other again"
            self._later.append((now_s + blow.for_s, words, lambda: self.net.let_through(side)))
            return f"nothing passes between {side}s and servers for {blow.for_s:.1f} s"
        process = self.find(blow.who)
        if process is None:
            return f"no {blow.who} to {blow.what}"
        if blow.what == "kill":
            process.kill()
            return f"{blow.who} {process.pid} killed"
        os.kill(process.pid, signal.SIGSTOP)
        words = f"{blow.who} {process.pid} goes on"
        self._later.append((now_s + blow.for_s, words, lambda: _go_on(process)))
        return f"{blow.who} {process.pid} stopped for {blow.for_s:.1f} s"

    def relent(self, *, now: bool = False) -> list[str]:
        """End the pauses whose time is over, or all of them; what was done."""
        due = [entry for entry in self._later if now or entry[0] <= time.monotonic()]
        self._later = [entry for entry in self._later if entry not in due]
        for _, _, end in due:
            end()
        return [words for _, words, _ in due]

    def find(self, who: Who) -> Process | None:
        """The live process of that part; None where it has none now."""
        if who == "render worker":
            return self._render_worker()
        if who in ("server", "engine"):
            return recorded(self.run, SERVER if who == "server" else ENGINE)
        if who == "rank 0":
            return _parent(recorded(self.run, ENGINE))
        template = _parent(recorded(self.run, SERVER))
        return template if who == "template" else _parent(template)

    def _render_worker(self) -> Process | None:
        engine = recorded(self.run, ENGINE)
        if engine is None:
            return None
        templates = [
            p for p in descendants(engine.pid) if RENDER_TEMPLATE.encode() in _words(p.pid)
        ]
        pids = {process.pid for process in templates}
        workers = [process for process in templates if parent_of(process.pid) in pids]
        return self._rng.choice(sorted(workers, key=lambda p: p.pid)) if workers else None


def _parent(child: Process | None) -> Process | None:
    pid = parent_of(child.pid) if child is not None else None
    started = start_time(pid) if pid is not None else None
    return Process(pid, started) if pid is not None and started is not None else None


def _go_on(process: Process) -> None:
    if process.is_alive:
        os.kill(process.pid, signal.SIGCONT)


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
