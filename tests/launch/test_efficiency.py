"""Tokens, devices, energy: worked out by hand from a layout and counters."""

from pathlib import Path

import pytest

from launch.config import load_root
from launch.efficiency import device_costs, efficiency, lines, units

CONFIGS = Path(__file__).resolve().parents[2] / "launch/configs"


def test_a_host_of_three_policies_works_for_one_at_a_time() -> None:
    layout = load_root(CONFIGS / "quickstart.yaml").layout
    busy = {"server/proposer": 0.1, "server/coder": 0.2, "server/solver": 0.5, "learner": 0.7}
    server, rank = units(layout, busy)
    assert (server.name, server.number) == ("a server of proposer + coder + solver", 1)
    assert server.busy == pytest.approx(0.8)
    assert (rank.name, rank.number, rank.busy) == ("a rank of the learner", 1, 0.7)
    assert units(layout, {}) == []


def test_servers_and_ranks_are_counted_by_kind() -> None:
    layout = load_root(CONFIGS / "vision_zero_8gpu.yaml").layout
    found = {kind.name: kind for kind in units(layout, {"server/player": 0.9, "learner": 0.5})}
    assert found["a server of player"].number == 4
    assert found["a rank of the learner"].number == 4


def test_energy_and_cost_are_told_where_they_are_known() -> None:
    config = load_root(
        CONFIGS / "quickstart.yaml",
        ["monitor.costs.device_watts=500", "monitor.costs.device_hour_price=3"],
    )
    known = device_costs(config.layout, config.monitor.costs, wall_s=7200.0)
    assert known == {"devices": 2, "device_hours": 4.0, "energy_kwh": 2.0, "cost": 12.0}
    unknown = load_root(CONFIGS / "quickstart.yaml")
    found = device_costs(unknown.layout, unknown.monitor.costs, wall_s=7200.0)
    assert (found["energy_kwh"], found["cost"]) == (None, None)

    totals = {"wall_s": 3600.0, "generated/solver": 900.0, "generated/coder": 100.0,
              "trained/solver": 400.0, "busy_s/learner": 90.0, "busy_of_s/learner": 100.0,
              "busy_s/server/solver": 30.0, "busy_of_s/server/solver": 100.0}  # fmt: skip
    told = lines(config, totals, 7200.0)
    assert told[0] == "2.5 tokens generated for each one trained"
    assert "One more device would help most as a rank of the learner" in told[1]
    assert told[2:] == ["2.00 kWh so far", "12.00 spent so far"]
    assert lines(unknown, {}, 0.0) == []


def test_ranks_that_share_a_gpu_are_one_device() -> None:
    config = load_root(CONFIGS / "mm_zero_qwen3_vl_8b_8x80gb.yaml")
    found = device_costs(config.layout, config.monitor.costs, wall_s=3600.0)
    assert (found["devices"], found["device_hours"]) == (8, 8.0), "of nine ranks"


def test_of_a_summary() -> None:
    config = load_root(CONFIGS / "quickstart.yaml")
    found = efficiency(
        config,
        {
            "tokens": {
                "solver": {"generated": 900, "trained": 300},
                "coder": {"generated": 100, "trained": 0},
            },
            "wall_s": 3600.0,
            "busy_fraction": {"learner": 0.9, "server/solver": 0.3},
        },
    )
    assert found["generated_per_trained"] == {
        "solver": 3.0, "coder": None, "all": pytest.approx(1000 / 300),
    }  # fmt: skip
    assert found["device_hours"] == 2.0
    assert found["one_more"]["name"] == "a rank of the learner"
