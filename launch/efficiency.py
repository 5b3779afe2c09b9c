"""What a run gets out of its tokens, its devices and their energy; and where one more would help.

In `summary.json` as `efficiency`, and as lines of the dashboard and the terminal.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from engine.config import LayoutConfig
from engine.layout import gpu_of, world_size
from engine.monitor.config import CostsConfig
from engine.monitor.one_more import OneMore, Units, one_more
from engine.summary import busy_fractions
from launch.config import RootConfig
from launch.parts import learner_parts


def efficiency(config: RootConfig, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Of a finished attempt's summary: {generated_per_trained: {policy, "all"}, devices,
    device_hours, energy_kwh, cost, one_more}; None for what is not known."""
    tokens = summary["tokens"]
    ratios = {name: _ratio(row["generated"], row["trained"]) for name, row in tokens.items()}
    ratios["all"] = _ratio(
        sum(row["generated"] for row in tokens.values()),
        sum(row["trained"] for row in tokens.values()),
    )
    found = _one_more(config, summary["busy_fraction"])
    return {
        "generated_per_trained": ratios,
        **device_costs(config.layout, config.monitor.costs, summary["wall_s"]),
        "one_more": None if found is None else asdict(found),
    }


def lines(config: RootConfig, totals: Mapping[str, float], wall_s: float) -> list[str]:
    """The same while a run goes on, from this attempt's counters (`engine.summary`) and the seconds
    of all attempts."""
    generated, trained = (
        sum(value for name, value in totals.items() if name.startswith(f"{kind}/"))
        for kind in ("generated", "trained")
    )
    found: list[str] = []
    if (ratio := _ratio(generated, trained)) is not None:
        found.append(f"{ratio:.1f} tokens generated for each one trained")
    advice = _one_more(config, busy_fractions(totals))
    if advice is not None:
        found.append(advice.sentence)
    costs = device_costs(config.layout, config.monitor.costs, wall_s)
    if costs["energy_kwh"] is not None:
        found.append(f"{costs['energy_kwh']:.2f} kWh so far")
    if costs["cost"] is not None:
        found.append(f"{costs['cost']:.2f} spent so far")
    return found


def _one_more(config: RootConfig, busy: Mapping[str, float]) -> OneMore | None:
    # With max_age 0 a step waits for its games, and games for the step before.
    return one_more(units(config.layout, busy), in_turn=config.streams.age_bound == 0)


def units(layout: LayoutConfig, busy: Mapping[str, float]) -> list[Units]:
    """The kinds of devices of a layout, as far as they told how busy they are.

    A host that serves several policies from one process works for one at a time: their shares add
    up. `busy`: {part: share of the time that its units worked}.
    """
    found: dict[str, Units] = {}
    hosts: dict[tuple[str, ...], int] = {}
    for host in layout.servers:
        hosts[host.policies] = hosts.get(host.policies, 0) + 1
    for policies, number in hosts.items():
        shares = [busy[f"server/{p}"] for p in policies if f"server/{p}" in busy]
        if shares:
            name = f"a server of {' + '.join(policies)}"
            found[name] = Units(name, number, min(1.0, sum(shares)))
    parts = learner_parts(layout)
    for group in layout.learners:
        part = parts[group.policies[0]]
        if part in busy:
            name = f"a rank of the {part}"
            found[name] = Units(name, len(group.ranks), busy[part])
    return list(found.values())


def device_costs(layout: LayoutConfig, cfg: CostsConfig, wall_s: float) -> dict[str, Any]:
    """{devices, device_hours, energy_kwh, cost}, over all attempts."""
    # Only ranks of one node share devices.
    devices = len({gpu_of(layout, rank, rank) for rank in range(world_size(layout))})
    hours = devices * wall_s / 3600
    return {
        "devices": devices,
        "device_hours": hours,
        "energy_kwh": None if cfg.device_watts is None else hours * cfg.device_watts / 1000,
        "cost": None if cfg.device_hour_price is None else hours * cfg.device_hour_price,
    }


def _ratio(generated: float, trained: float) -> float | None:
    return generated / trained if trained else None
