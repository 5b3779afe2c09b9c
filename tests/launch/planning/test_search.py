"""Searching: what fits, in which order, and what more GPUs or memory change."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.layout import check_branches, check_layout, shared_gpus
from engine.learner.memory import GB
from engine.weight_files import KEPT
from launch.config import load_root
from launch.planning.assumptions import WHY, assume
from launch.planning.config_file import deadline_s, layout_of, stop_s, yaml_of
from launch.planning.gains import one_more
from launch.planning.layouts import Group
from launch.planning.plans import VERSIONS, Found, Plan
from launch.planning.printed import distinct, report
from launch.planning.rates import loads, service
from launch.planning.search import _look_at, search
from launch.preflight import check_memory
from tests.launch.planning.cases import case_of

NAMES = st.sampled_from(["Qwen3-VL-2B", "Qwen3-VL-4B", "Qwen3-VL-8B", "Qwen2.5-VL-7B"])


def learners_of(plan: Plan) -> tuple[object, ...]:
    """What servers leave alone: how many each policy has follows from the sizes of their caches."""
    return plan.layout.groups, plan.layout.training, plan.layout.sharing


def test_eight_80_gb_gpus_train_three_8b_policies_as_the_memory_model_s_table_says() -> None:
    found = search(case_of())
    best = found.plans[0]
    assert best.layout.learner_gpus == 4
    assert best.layout.training.checkpointing
    assert best.layout.training.offload
    assert best.device_bytes == pytest.approx(71.3e9, abs=0.1e9)
    assert best.bottleneck == "solver's servers"
    assert "all parameters, optimiser offloaded" in found.refused
    assert "GB too many" in found.refused["all parameters"]


def test_plans_are_in_order_and_divide_all_gpus() -> None:
    plans = search(case_of(memory=141)).plans
    rates = [plan.games_per_hour for plan in plans]
    assert rates == pytest.approx(sorted(rates, reverse=True))
    for plan in plans:
        assert plan.layout.learner_gpus + plan.layout.server_gpus == 8
        assert max(plan.busy.values()) == 1
        assert plan.device_bytes <= 141e9
        assert plan.games_per_hour == pytest.approx(3600 / max(plan.loads.values()))
    ways = distinct(plans)
    assert ways[0] is plans[0]
    assert len({plan.layout.text for plan in ways}) == len(ways)


def test_adapters_come_where_nothing_else_fits() -> None:
    assert all(plan.layout.training.lora for plan in search(case_of(memory=40)).plans)
    assert not any(plan.layout.training.lora for plan in search(case_of(memory=80)).plans)
    assert search(case_of(memory=80), lora=True).plans[0].layout.training.lora


def test_one_gpu_is_shared_by_learner_and_servers() -> None:
    found = search(case_of("Qwen3-VL-2B", gpus=1))
    layout = found.plans[0].layout
    assert layout.sharing == "all"
    assert layout.training.lora
    assert [one.policy for one in layout.servers] == ["proposer", "coder", "solver"]
    total = found.plans[0].device_bytes + sum(one.memory.total for one in layout.servers)
    assert 0.9 * 80e9 < total <= 80e9


def test_weights_in_files_are_in_host_memory() -> None:
    """Two versions of three policies, and one that is being written."""
    (plan, *_) = search(case_of("Qwen3-VL-2B", gpus=1)).plans
    files = 7 * plan.case.model.weight_bytes
    assert VERSIONS == KEPT
    assert plan.folder_bytes == files
    assert plan.host_bytes == pytest.approx(plan.learners[0].host_bytes + files)
    assert search(case_of("Qwen3-VL-2B", gpus=1, host=1.01 * plan.host_bytes / GB)).plans
    assert not search(case_of("Qwen3-VL-2B", gpus=1, host=0.99 * plan.host_bytes / GB)).plans
    (apart, *_) = search(case_of("Qwen3-VL-2B", gpus=2)).plans
    assert apart.folder_bytes == 0
    assert apart.host_bytes == apart.learners[0].host_bytes


@pytest.mark.parametrize("memory", [40, 80])
def test_checkpoints_on_disk_are_those_that_are_kept_and_one_more(memory: float) -> None:
    """By adapters and by all parameters; of nodes that each write their part, all parts."""
    (plan, *_) = search(case_of(memory=memory)).plans
    assert plan.case.config.run.keep_checkpoints == 2
    assert plan.disk_bytes == pytest.approx(3 * plan.checkpoint_bytes)
    nodes = search(case_of(nodes=2, memory=memory), lora=plan.layout.training.lora).plans[0]
    assert nodes.disk_bytes == pytest.approx(plan.disk_bytes)


def test_more_games_per_step_fill_servers_and_lie_ready_in_memory() -> None:
    few, many = (search(case_of(nodes=4, games=games)).plans[0] for games in (18, 72))
    assert few.case.games_in_flight == 90
    assert many.case.games_in_flight == 360
    assert many.games_per_hour > 1.1 * few.games_per_hour
    assert many.steps_per_hour == pytest.approx(many.games_per_hour / 72)
    assert [one.policy for one in few.limiting_servers] == ["solver"]
    tree = yaml.safe_load(yaml_of(many, "plan.py", "a-plan"))
    assert tree["streams"]["games_per_step"] == 72
    assert tree["streams"]["game_deadline_s"] == deadline_s(many)
    assert 3 * 3600 * 360 / many.games_per_hour <= deadline_s(many)
    assert many.case.longest_rows == few.case.longest_rows
    same = Found()
    _look_at(many.case, few.layout, same)
    (held,) = same.plans
    assert held.host_bytes >= few.host_bytes
    assert held.learners[0].device["update"]["batch"] == pytest.approx(
        4 * few.learners[0].device["update"]["batch"]
    )


def test_a_server_may_run_what_its_cache_holds_though_games_offer_less_on_average() -> None:
    plan = search(case_of(nodes=4)).plans[0]
    does = {one.policy: service(plan.case, one) for one in plan.layout.servers}
    assert does["solver"].batch < does["solver"].held
    for host in layout_of(plan).servers:
        held = does[host.policies[0]].held
        assert held <= host.max_running < held + 8


def test_two_gpus_are_one_for_the_learner_and_one_for_all_servers() -> None:
    layout = search(case_of("Qwen3-VL-2B", gpus=2)).plans[0].layout
    assert layout.sharing == "servers"
    assert (layout.learner_gpus, layout.server_gpus) == (1, 1)
    assert sum(one.memory.total for one in layout.servers) <= 80e9


@pytest.mark.parametrize(
    "assumed, expected",
    [
        ([], 960),  # 368 GB at 1 GB/s are .4 of 921 s
        (["checkpoint_gb_s=0.5"], 1860),
        (["checkpoint_gb_s=100"], 240),  # the default
        (["checkpoint_gb_s=100", "train_mfu=0.035"], 600),  # the step under way
    ],
)
def test_a_stop_may_take_as_long_as_it_takes_to_save(assumed: list[str], expected: int) -> None:
    case = case_of()
    some = search(case).plans[0]
    plan = replace(some, case=replace(case, assumed=assume(assumed)))
    assert plan.checkpoint_bytes == pytest.approx(3 * 14 * case.model.shape.params)
    run = yaml.safe_load(yaml_of(plan, "plan.py", "a-plan"))["run"]
    assert stop_s(plan) == RunConfig(**run).stop_s == expected
    assert ("stop_s" in run) == (expected != RunConfig().stop_s)


def test_one_policy_for_all_roles_takes_less() -> None:
    apart = search(case_of("Qwen3-VL-8B", gpus=2))
    shared = search(case_of("Qwen3-VL-8B", gpus=2, one_policy=True))
    assert not apart.plans
    assert shared.plans
    assert dict(layout_of(shared.plans[0]).policies) == {
        "proposer": "shared",
        "coder": "shared",
        "solver": "shared",
    }


def test_a_host_that_is_too_small_is_the_reason() -> None:
    found = search(case_of(host=500), lora=False)
    assert not found.plans
    assert any("host memory" in why for why in found.refused.values())


def test_each_node_holds_its_own_learners() -> None:
    """Eight ranks that load an 8B model take 313 GB; three such groups lie on three nodes."""
    case = case_of(nodes=4)
    some = search(case).plans[0].layout
    loading = 8 * (4 * case.model.shape.params + 4 * GB)

    def found(*ranks: int, host: float = 500) -> Found:
        groups = tuple(
            Group(policies=(p,), ranks=n) for p, n in zip(case.policies, ranks, strict=False)
        )
        training = replace(some.training, checkpointing=True, offload=False)
        found, asked = Found(), case_of(nodes=4, host=host)
        _look_at(asked, replace(some, groups=groups, training=training), found)
        return found

    for groups in ((8, 8, 8), (24,), (16, 8)):
        (plan,) = found(*groups).plans
        assert [one.host_bytes for one in plan.learners] == pytest.approx([loading] * len(groups))
        assert plan.host_bytes == pytest.approx(loading)
    (plan,) = found(8, 8, 8).plans
    assert plan.checkpoint_bytes == pytest.approx(14 * case.model.shape.params)
    # The second and third lie on one node, which is not that of the first.
    (plan,) = found(8, 4, 4).plans
    assert plan.host_bytes == pytest.approx(sum(one.host_bytes for one in plan.learners[1:]))
    assert plan.checkpoint_bytes == pytest.approx(2 * 14 * case.model.shape.params)
    (why,) = found(8, 4, 4, host=300).refused.values()
    assert why == "313 GB of host memory on a node, 13 GB too many"


def test_the_checks_before_the_start_count_a_host_s_memory_as_the_planner_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nodes in (1, 2):
        case = case_of(nodes=nodes)
        monkeypatch.setattr("launch.preflight.model_shape", lambda _, case=case: case.model.shape)
        (tmp_path / "config.json").write_text(json.dumps(case.model.config))
        for i, plan in enumerate(distinct(search(case).plans)[:5]):
            file = tmp_path / f"plan-{i}.yaml"
            file.write_text(yaml_of(plan, "plan.py", "a-plan"))
            for share, fits in ((1.01, True), (0.99, False)):
                host = f"layout.host_memory_gb={share * plan.host_bytes / GB}"
                config = load_root(file, [f"model.base={tmp_path}", host])
                # A server that shares its GPU has a rank of its own, all of them on one node.
                local = None if nodes == 1 else case.cluster.gpus
                with nullcontext() if fits else pytest.raises(ConfigError, match="of their host"):
                    check_memory(config, local)


def test_servers_of_nodes_stay_inside_and_groups_too() -> None:
    for plan in search(case_of(nodes=4)).plans:
        layout = layout_of(plan)
        for host in layout.servers:
            assert host.rank // 8 == (host.rank + host.tp - 1) // 8
        for group in layout.learners:
            nodes = {rank // 8 for rank in group.ranks}
            assert len(nodes) == 1 or len(group.ranks) % 8 == 0
            assert group.shard in (None, 8)


def test_one_more_gpu_goes_where_the_bottleneck_is() -> None:
    plan = search(case_of()).plans[0]
    gains = one_more(plan)
    assert gains[0].where == "server for solver"
    *light, heavy = plan.layout.servers
    servers = (*light, replace(heavy, count=heavy.count + 1))
    rate = 3600 / max(loads(plan.case, replace(plan.layout, servers=servers)).values())
    assert gains[0].games_per_hour == pytest.approx(rate)
    assert gains[0].gain == pytest.approx(rate / plan.games_per_hour - 1)
    assert gains[0].gain > 0.05
    assert all(gain.gain == pytest.approx(0) for gain in gains[1:])


def test_policies_with_little_to_do_share_a_gpu() -> None:
    """The proposer's servers alone would be busy for 6 % of the time."""
    plans = search(case_of()).plans
    light, apart = plans[0], next(plan for plan in plans if plan.layout.sharing == "none")
    assert light.layout.sharing == "light"
    assert light.games_per_hour > 1.4 * apart.games_per_hour
    assert min(apart.busy[f"{policy}'s servers"] for policy in ("proposer", "coder")) < 0.1
    *sharing, heavy = light.layout.servers
    assert heavy.policy == "solver"
    assert sum(one.memory.total for one in sharing) <= 80e9
    layout = layout_of(light)
    assert shared_gpus(layout) == {7: (7, 8)}
    assert [host.policies[0] for host in layout.servers] == [
        *["solver"] * 3,
        "proposer",
        "coder",
    ]
    assert [host.cache_tokens is None for host in layout.servers] == [True] * 3 + [False] * 2


def test_a_slow_learner_is_the_bottleneck_and_wants_a_rank() -> None:
    case = case_of(tokens={"solver": 20, "proposer": 50})
    case = replace(case, assumed=replace(case.assumed, train_mfu=0.01))
    plan = search(case).plans[0]
    slow = {name: load for name, load in plan.loads.items() if name.startswith("learners")}
    assert plan.bottleneck in slow
    assert one_more(plan)[0].where.startswith("learner rank")
    assert loads(case, plan.layout) == plan.loads


@settings(max_examples=15, deadline=None)
@given(NAMES, st.integers(1, 8), st.floats(24, 150), st.floats(0, 60), st.booleans())
def test_more_memory_never_loses_a_layout(
    name: str, gpus: int, memory: float, more: float, lora: bool
) -> None:
    small = search(case_of(name, gpus=gpus, memory=memory), lora=lora).plans
    large = search(case_of(name, gpus=gpus, memory=memory + more), lora=lora).plans
    assert bool(large) >= bool(small)
    # Learners share their GPUs with servers only where nothing else fits.
    if small and (small[0].layout.sharing == "all") == (large[0].layout.sharing == "all"):
        assert {learners_of(plan) for plan in small} <= {learners_of(plan) for plan in large}


@settings(max_examples=15, deadline=None)
@given(NAMES, st.integers(4, 15), st.sampled_from([80, 141]), st.sampled_from(["A100", "H200"]))
def test_more_gpus_never_play_fewer_games(name: str, gpus: int, memory: int, device: str) -> None:
    few, many = (
        search(case_of(name, gpus=n, memory=memory, device=device), lora=False).plans
        for n in (gpus, gpus + 1)
    )
    if few:
        assert many
        assert many[0].games_per_hour >= few[0].games_per_hour * (1 - 1e-9)


@pytest.mark.parametrize("name", WHY)
@pytest.mark.parametrize("value", ["1e-9", "1", "1e9"])
def test_whatever_may_be_assumed_can_be_planned(name: str, value: str) -> None:
    try:
        assumed = assume([f"{name}={value}"])
    except ConfigError:
        assert value == "1e9"  # of a share
        return
    case = replace(case_of("Qwen3-VL-2B", gpus=4), assumed=assumed)
    found = search(case, lora=False)
    assert 0 < found.plans[0].games_per_hour < float("inf")
    report(case, found, "FILE.yaml")


def test_branches_where_one_engine_can_not_ask_all_servers() -> None:
    usual = case_of(nodes=4, tokens={"proposer": 4096, "coder": 4096})
    case = replace(usual, assumed=replace(usual.assumed, engine_requests_s=20.0))
    plan = search(case).plans[0]
    layout = layout_of(plan)
    number = plan.engine_processes
    assert len(layout.branches) == number > 1
    check_layout(layout, case.policies, num_nodes=4)
    check_branches(layout, case.policies)
    assert all(branch.rank in branch.servers for branch in layout.branches)
    assert plan.busy["engine"] <= 1
    alone = search(usual).plans[0]
    assert alone.engine_processes == 1
    assert layout_of(alone).branches == ()
    # Its games share a memory: one process plays them all, and is what limits.
    spy = case_of(nodes=4, recipe="vision_zero", model="Qwen2.5-VL-7B")
    slow = search(replace(spy, assumed=replace(spy.assumed, engine_requests_s=10.0))).plans[0]
    assert slow.engine_processes == 1
    assert slow.bottleneck == "engine"
