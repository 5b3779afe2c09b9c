"""What the simulator is told of a plan, against what rates say of it."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from engine.errors import ConfigError
from launch.config import load_root
from launch.planning.config_file import yaml_of
from launch.planning.layouts import Group, Servers, Training
from launch.planning.plans import Plan
from launch.planning.rates import decode_step_s, publication_s, server_s, service, step_times
from launch.planning.search import search
from launch.planning.shipped import shipped
from launch.planning.times import times_of
from launch.simulation.service_times import read_service_times, write_service_times
from launch.simulation.world import check
from roles.mm_zero.config import MMZeroConfig
from tests.launch.planning.cases import case_of

plans = pytest.mark.parametrize(
    "name",
    [
        "mm_zero_qwen3_vl_8b_8x80gb",  # a GPU for two policies' servers
        "mm_zero_qwen3_vl_8b_4x8x80gb",  # nodes
        "mm_zero_qwen3_vl_2b_1x80gb",  # weights in files, adapters
    ],
)


def plan_of(name: str) -> Plan:
    return shipped(name).found.plans[0]


def busiest(plan: Plan) -> Servers:
    return max(plan.layout.servers, key=lambda one: server_s(plan.case, one))


@plans
def test_a_step_takes_a_learner_what_rates_say(name: str) -> None:
    plan = plan_of(name)
    case, times = plan.case, times_of(plan)
    assert set(times.learners) == set(case.policies)
    for group in plan.layout.groups:
        for policy in group.policies:
            sampled = sum(role.trained * role.answer_tokens for role in case.roles(policy))
            own = times.learners[policy]
            took = step_times(case, policy, group, plan.layout.training)
            tokens_s = own.token_s * case.games_per_step * sampled
            assert tokens_s + own.step_s + own.state_s == pytest.approx(took.total_s)
            assert own.state_s == took.state_s
            assert times.made_for is not None
            assert times.made_for.ranks[policy] == group.ranks


def test_what_a_step_costs_whatever_its_tokens_is_said_apart() -> None:
    """Sixteen ranks, two copies of the weights, one game: gradients are summed over the network,
    and gathering the weights of one micro-batch takes longer than to compute it."""
    case = case_of(nodes=2, games=1)
    group = Group(policies=("proposer",), ranks=16, shard=8)
    took = step_times(case, "proposer", group, Training(tokens=16384, offload=True))
    params, half = case.model.shape.params, 0.5
    assert took.fixed_s == pytest.approx(8 * params / 8 / (half * 50e9))
    assert took.tokens_s == pytest.approx((2 * 2 + 4) * params * 7 / 8 / (half * 450e9))
    assert took.state_s == pytest.approx(16 * params / 8 / 25e9)
    # Of many games it computes for longer than all of that takes, which is hidden behind.
    many, more = (
        step_times(case_of(nodes=2, games=games), "proposer", group, Training(tokens=16384))
        for games in (1000, 2000)
    )
    assert many.fixed_s == many.state_s == 0
    assert more.tokens_s == pytest.approx(2 * many.tokens_s)


@plans
def test_a_decode_step_takes_what_rates_say_for_one_reply_and_for_the_plan_s_batch(
    name: str,
) -> None:
    plan = plan_of(name)
    times, one = times_of(plan).servers, busiest(plan)
    does = service(plan.case, one)
    assert does.batch > 1
    full_s = times.step_s + times.row_s * does.batch
    assert full_s == pytest.approx(does.batch / does.tokens_per_s)
    assert times.step_s + times.row_s == pytest.approx(decode_step_s(plan.case, one, 1))


@plans
def test_a_game_s_prompts_take_servers_what_rates_say(name: str) -> None:
    """A simulated server keeps one prompt of the proposer, one of each card and each picture."""
    plan = plan_of(name)
    proposer, coder, solver = plan.case.work
    kept = proposer.prompts + coder.prompts + solver.pictures
    read_s = sum(service(plan.case, one).prefill_s for one in plan.layout.servers)
    assert times_of(plan).servers.prompt_s * kept == pytest.approx(read_s)


@plans
def test_a_publication_takes_what_rates_say(name: str) -> None:
    plan = plan_of(name)
    times, via_disk = times_of(plan), plan.layout.sharing == "all"
    for policy, own in times.learners.items():
        copies = plan.layout.copies(policy)
        took_s = own.publish_s + own.copy_s * copies + times.servers.update_s
        assert took_s == pytest.approx(publication_s(plan.case, copies, via_disk=via_disk))
        assert (own.copy_s == 0) == (own.publish_s > 0) == (times.servers.update_s > 0) == via_disk


@pytest.mark.parametrize("kept", [0.1, 0.41, 0.7])
def test_about_as_many_of_the_solver_s_groups_train_as_rates_take(kept: float) -> None:
    case = case_of()
    plan = search(replace(case, assumed=replace(case.assumed, solver_kept=kept))).plans[0]
    play, settings = times_of(plan).play, plan.case.settings
    assert isinstance(settings, MMZeroConfig)
    filters = settings.filters
    low, high = filters.hard_band
    divided = fmean(low <= share <= high for share in play.hard)
    assert divided * fmean(share >= filters.min_easy_share for share in play.easy) == pytest.approx(
        kept, abs=0.04
    )


@plans
def test_what_roles_say_is_as_long_as_rates_take_it(name: str) -> None:
    plan = plan_of(name)
    play = times_of(plan).play
    for role in plan.case.work:
        lengths = play.tokens[role.stream]
        assert fmean(lengths) == pytest.approx(role.answer_tokens, rel=1e-3)
        assert max(lengths) <= plan.case.settings.params(role.stream).max_new_tokens
    assert (play.parsed, play.rendered) == (plan.case.assumed.parsed, plan.case.assumed.rendered)


@plans
def test_the_simulator_takes_them_for_the_plan_s_own_configuration(
    name: str, tmp_path: Path
) -> None:
    plan = plan_of(name)
    times, file, config = times_of(plan), tmp_path / "times.yaml", tmp_path / "plan.yaml"
    write_service_times(times, file)
    assert read_service_times(file) == times
    config.write_text(yaml_of(plan, "plan.py", "a-plan"))
    check(load_root(config), times)


def test_times_are_of_policies_whoever_they_are_and_of_mm_zero_alone() -> None:
    shared = search(case_of(gpus=2, one_policy=True)).plans[0]
    assert set(times_of(shared).learners) == {"shared"}
    spy = shipped("vision_zero_qwen2_5_vl_7b_8x80gb").found.plans[0]
    with pytest.raises(ConfigError, match="plays mm_zero alone, not vision_zero"):
        times_of(spy)
