"""`summary.json`: what became of a run, in the numbers that later checks read.

Games and groups are counts of the durable state; tokens, attempts and wall time add up over
restarts, lost work included. Whoever runs the engine adds to these counters of the buffer:
`generated/<policy>` and `trained/<policy>` (tokens), `wall_s`, and `busy_s/<part>` with
`busy_of_s/<part>` (seconds worked, and seconds that were there to work) of each server and learner.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.conservation import violations
from engine.monitor.snapshot import age_stats
from engine.records import Records

HELDOUT_KEYS = ("before", "after", "delta", "ci95")


def build_summary(
    records: Records,
    *,
    steps: Mapping[str, int],
    max_age: Mapping[str, int],
    heldout: Mapping[str, Any] | None,
    seed: int,
    config_sha256: str,
    versions: Mapping[str, int] | None = None,
    parts: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The summary of a run.

    `steps` and published `versions` of each policy (None: the newest reserved ones), `max_age` of
    each stream, `heldout` as `evals.heldout.compare` gives it (None: not measured), `parts` what
    parts count of their own accord since the run was last resumed. Counts that break the
    conservation law are listed under `violations`, which is empty otherwise.
    """
    counts = records.counts()
    counters = records.counters()
    funnel = records.funnel()
    ages = records.ages()
    judge = age_stats(records.judge_ages())
    # Followers sample, but make no step.
    sampled = [n.removeprefix("generated/") for n in counters if n.startswith("generated/")]
    policies = dict.fromkeys([*steps, *sampled])
    return {
        "games": counts["games"],
        "groups": {stream: counts["groups"].get(stream, _NO_GROUPS) for stream in max_age},
        "funnel": {stream: funnel.get(stream, _NO_FUNNEL) for stream in max_age},
        "steps": dict(steps),
        "version": dict(versions or {policy: records.ledger.newest(policy) for policy in steps}),
        "tokens": {
            policy: {
                kind: int(counters.get(f"{kind}/{policy}", 0)) for kind in ("generated", "trained")
            }
            for policy in policies
        },
        "age": {
            stream: {**age_stats(ages.get(stream, {})), "max_age": bound}
            for stream, bound in max_age.items()
        },
        "judge_age": {"mean": judge["mean"], "max": judge["max"]},
        "attempts": int(counters.get("attempts", 0)),
        "wall_s": counters.get("wall_s", 0.0),
        "busy_fraction": busy_fractions(counters),
        "parts": {name: dict(counted) for name, counted in (parts or {}).items()},
        "heldout": {key: dict((heldout or {}).get(key, {})) for key in HELDOUT_KEYS},
        "seed": seed,
        "config_sha256": config_sha256,
        "violations": violations(counts),
    }


def busy_fractions(counters: Mapping[str, float]) -> dict[str, float]:
    """{part: fraction of its time that it worked} from the counters above."""
    fractions = {}
    for name, available_s in counters.items():
        if name.startswith("busy_of_s/") and available_s > 0:
            part = name.removeprefix("busy_of_s/")
            fractions[part] = min(1.0, counters.get(f"busy_s/{part}", 0.0) / available_s)
    return fractions


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Replace `path` at once: a reader finds the old file or the whole new one."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(summary, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


_NO_GROUPS: Mapping[str, Any] = {
    "submitted": 0,
    "trained": 0,
    "dropped": {},
    "ready": 0,
    "leased": 0,
}
_NO_FUNNEL: Mapping[str, int] = dict.fromkeys(("sampled", "usable", "groups", "kept", "trained"), 0)
