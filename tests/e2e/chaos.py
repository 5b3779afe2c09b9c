"""A run under fire: `python -m tests.e2e.chaos --minutes 15 --seed 0`.

Three runs of the quickstart on this machine: a short one that measures how fast it is, an
undisturbed one of as many steps as it makes in half of the time, and the same number of steps with
kills, pauses and a failing network (`tests.e2e.blows`), for which it has all of the time: if it
makes them, it has made at least half of the undisturbed steps per second. Says what it does and,
at the end, what held; also in `chaos.json` beside the runs. Exits with 1 where something did not.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.conservation import violations
from engine.errors import ConfigError
from engine.rundir import RunDir, RunLock
from tests.e2e.blows import Hand, plan
from tests.e2e.command import ROOT, SCRIPT, Process, Started, descendants, left_of, started
from tests.e2e.network import Network, free_ports, is_free, network
from tests.e2e.records import (
    POLICIES,
    attempts_of,
    check_books,
    check_conservation,
    check_lineage,
    check_versions,
    events_of,
    rows,
    steps_of,
    summary_of,
)
from tests.e2e.served_versions import ServedVersions

CONFIG = ROOT / "launch" / "configs" / "quickstart.yaml"
CHECKPOINT_EVERY = 4
CALIBRATION_STEPS = 8
LOOK_EVERY_S = 0.2
FAMILY_EVERY_S = 2.0
LONGEST_S = 3600.0
HEADLINES = ("solver_easy_t1", "solver_hard_t1", "coder_render", "proposer_valid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that has to hold, and what was found."""

    name: str
    ok: bool
    found: str


@dataclass(slots=True, kw_only=True)
class Life:
    """One run, and what was seen on its way."""

    dir: RunDir
    steps: int
    heldout_items: int
    output: Path
    port: int = field(default_factory=lambda: free_ports(2 * len(POLICIES)))
    """The servers' first port; as many more, for what stands before them, follow."""
    family: set[Process] = field(default_factory=set)
    status: int | None = None
    played_s: float = 0.0
    """From the first step to the last; of a run under fire, as long as that was."""

    @property
    def ports(self) -> dict[int, int]:
        """{port of a proxy: port of a server}."""
        num = len(POLICIES)
        return {self.port + num + i: self.port + i for i in range(num)}

    def command(self) -> list[str]:
        """The documented torchrun line, with restarts enough."""
        return [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--max-restarts=1000", "--nproc-per-node=2", str(SCRIPT), str(CONFIG)),
            *(f"run.name={self.dir.path.name}", f"run.root={self.dir.path.parent}"),
            *(f"run.steps={self.steps}", f"run.checkpoint_every={CHECKPOINT_EVERY}"),
            *(f"layout.servers.0.port={self.port}", "sampler.stall_s=4"),
            f"layout.servers.0.advertise=127.0.0.1:{self.port + len(POLICIES)}",
            *(f"eval.heldout_items={self.heldout_items}", "eval.majority_items=0"),
            "eval.dev_items=0",
        ]

    @property
    def step(self) -> int:
        """Of the policy that is farthest behind, in weights of now: what a restart has undone
        does not count."""
        query = "SELECT policy, max(step) FROM groups WHERE state = 'trained' GROUP BY policy"
        newest = dict.fromkeys(POLICIES, 0) | dict(rows(self.dir, query))
        return min(newest.values())

    @property
    def has_played(self) -> bool:
        return self.step >= self.steps

    @contextmanager
    def going_on(self) -> Iterator[tuple[Started, Network]]:
        """The run with its network; ends with it."""
        self.dir.path.parent.mkdir(parents=True, exist_ok=True)
        env = {"GLOO_SOCKET_IFNAME": "lo"}
        with network(self.ports) as net, started(self.command(), self.output, env) as front:
            yield front, net

    def see(self, front: Started, look: Callable[[], None], longest_s: float) -> None:
        """Note its processes, and look, until it ends or that time is over."""
        began_s, seen_s = time.monotonic(), 0.0
        while front.process.poll() is None and (now_s := time.monotonic()) < began_s + longest_s:
            if now_s - seen_s > FAMILY_EVERY_S:
                seen_s = now_s
                self.family |= descendants(front.process.pid)
                look()
            time.sleep(LOOK_EVERY_S)
        self.status = front.process.poll()


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def undisturbed(life: Life) -> Life:
    """Play to the end; raises AssertionError where even that fails."""
    with life.going_on() as (front, _):
        life.see(front, look=lambda: None, longest_s=LONGEST_S)
        assert life.status == 0, front.ended(life.status or 0).text[-3000:]
    times = [record["t"] for record in steps_of(life.dir)]
    life.played_s = times[-1] - times[0]
    say(f"{life.dir.path.name}: {life.steps} steps of each policy in {life.played_s:.0f} s")
    return life


def disturbed(life: Life, *, seconds: float, seed: int) -> tuple[float, ServedVersions]:
    """Play under fire for so long, then in peace to the end; (steps when the fire ended, versions
    that its servers served)."""
    with life.going_on() as (front, net):
        versions = ServedVersions(life.dir, tuple(life.ports.values()))
        hand = Hand(run=life.dir, net=net, seed=seed)
        blows = iter(plan(seconds, seed))
        blow = next(blows, None)
        while not steps_of(life.dir) and front.process.poll() is None:  # it is given a start
            time.sleep(LOOK_EVERY_S)
        began_s, seen_s, step = time.monotonic(), 0.0, 0
        say(f"{life.dir.path.name}: under fire for {seconds:.0f} s, or until step {life.steps}")
        while front.process.poll() is None and (now_s := time.monotonic() - began_s) < seconds:
            while blow is not None and blow.at_s <= now_s:
                say(f"step {step}: {hand.strike(blow)}")
                blow = next(blows, None)
            for words in hand.relent():
                say(f"step {step}: {words}")
            if now_s - seen_s > FAMILY_EVERY_S:
                seen_s = now_s
                life.family |= descendants(front.process.pid)
                versions.look()
                step = life.step
                if life.has_played:
                    break
            time.sleep(0.05)
        for words in hand.relent(now=True):
            say(words)
        reached, life.played_s = life.step, time.monotonic() - began_s
        life.see(front, look=versions.look, longest_s=LONGEST_S)
    return reached, versions


def lost_steps(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    """{policy: most steps that one restart undid}."""
    lost, newest = dict.fromkeys(POLICIES, 0), dict.fromkeys(POLICIES, 0)
    for record in records:
        policy, step = record["policy"], record["step"]
        lost[policy] = max(lost[policy], newest[policy] - step + 1)
        newest[policy] = step
    return lost


def checks(life: Life, calm: Life, reached: float, versions: ServedVersions) -> list[Check]:
    """What has to hold after the fire."""
    summary = summary_of(life.dir) if life.dir.summary.exists() else {}
    pace = reached / life.steps * calm.played_s / max(life.played_s, 1e-9)
    found = [
        Check(name="it ends well", ok=life.status == 0, found=f"status {life.status}"),
        Check(
            name="half of the undisturbed steps",
            ok=pace >= 0.5,
            found=f"{pace:.0%}: {reached:.0f} steps in {life.played_s:.0f} s, undisturbed "
            f"{calm.steps} in {calm.played_s:.0f} s",
        ),
        _holds("conservation", lambda: check_conservation(summary)),
        Check(
            name="no violation in the counts",
            ok=bool(summary) and not violations(summary),
            found=f"{violations(summary) if summary else 'no summary'}",
        ),
        _holds("books", lambda: check_books(life.dir, summary)),
        _holds("each step once in the lineage", lambda: check_lineage(life.dir, life.steps)),
        _holds("versions unique and growing", lambda: check_versions(life.dir)),
        Check(name="versions on every server", ok=not versions.falls, found=versions.summary),
        _lost(life),
        _left(life),
    ]
    return [*found, *_heldout(summary, summary_of(calm.dir)), _events(life)]


def _holds(name: str, check: Callable[[], None]) -> Check:
    try:
        check()
    except (AssertionError, KeyError) as error:
        return Check(name=name, ok=False, found=f"{type(error).__name__}: {error}")
    return Check(name=name, ok=True, found="")


def _lost(life: Life) -> Check:
    """A checkpoint is written while training goes on: the steps meanwhile come on top."""
    lost = lost_steps(steps_of(life.dir))
    worst = max(lost.values())
    return Check(
        name=f"a restart undoes at most {CHECKPOINT_EVERY} steps and those during a save",
        ok=worst < 2 * CHECKPOINT_EVERY,
        found=", ".join(f"{policy} {steps}" for policy, steps in lost.items()),
    )


def _left(life: Life) -> Check:
    alive = left_of(life.family)
    taken = [port for port in life.ports.values() if not is_free(port)]
    try:
        RunLock(life.dir).release()
        locked = ""
    except ConfigError as error:
        locked = str(error)
    return Check(
        name="nothing of it is left",
        ok=not (alive or taken or locked),
        found=f"{len(life.family)} processes seen; alive {[p.pid for p in alive]}, "
        f"ports {taken}, {locked or 'no lock'}",
    )


def _heldout(ours: dict[str, Any], calm: dict[str, Any]) -> Iterator[Check]:
    for name in HEADLINES:
        a, b = (s.get("heldout", {}).get("ci95", {}).get(name) for s in (ours, calm))
        ok = bool(a and b) and a[0] <= b[1] and b[0] <= a[1]
        yield Check(name=f"held-out {name}", ok=ok, found=f"change {a}, undisturbed {b}")


def _events(life: Life) -> Check:
    """What was done to it is in its event log."""
    events, attempts = events_of(life.dir), attempts_of(life.dir)
    restarts = sum(" goes on with " in text for text in events)
    gone, back = (sum(word in text for text in events) for word in (" is gone: ", " is back "))
    return Check(
        name="the event log tells it",
        ok=restarts == attempts - 1 and gone > 0 and back > 0,
        found=f"{attempts} attempts, {restarts} restarts told; servers gone {gone}, back {back}",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heldout-items", type=int, default=300)
    parser.add_argument("--root", type=Path, default=Path("runs"))
    options = parser.parse_args()
    root = options.root / f"chaos-{options.seed}-{time.strftime('%m%d-%H%M%S')}"
    os.environ["OMP_NUM_THREADS"] = "1"

    def life(name: str, steps: int, heldout_items: int) -> Life:
        return Life(
            dir=RunDir(root.absolute() / name),
            steps=steps,
            heldout_items=heldout_items,
            output=root.absolute() / f"{name}.output",
        )

    speed = undisturbed(life("speed", CALIBRATION_STEPS, 0))
    seconds = options.minutes * 60
    steps = max(4, round(seconds / 2 * (CALIBRATION_STEPS - 1) / speed.played_s))
    calm = undisturbed(life("calm", steps, options.heldout_items))
    fire = life("fire", steps, options.heldout_items)
    reached, versions = disturbed(fire, seconds=seconds, seed=options.seed)
    found = checks(fire, calm, reached, versions)
    for check in found:
        print(f"{'ok  ' if check.ok else 'NOT '} {check.name}: {check.found}")
    verdict = all(check.ok for check in found)
    (root / "chaos.json").write_text(
        json.dumps(
            {
                "ok": verdict,
                "minutes": options.minutes,
                "seed": options.seed,
                "steps": steps,
                "attempts": attempts_of(fire.dir),
                "checks": [
                    {"name": check.name, "ok": check.ok, "found": check.found} for check in found
                ],
            },
            indent=2,
        )
    )
    print(f"{'everything held' if verdict else 'not everything held'}; see {root / 'chaos.json'}")
    return 0 if verdict else 1


if __name__ == "__main__":
    sys.exit(main())
