"""Whole simulations: closed forms of schedules, bounds, and what must never happen."""

from pathlib import Path
from typing import Any

import pytest

from engine.conservation import violations
from engine.elastic import Elastic
from engine.errors import ConfigError
from engine.layout import shared_gpus
from launch.config import RootConfig, load_root
from launch.simulation.learner import SimulatedLearner
from launch.simulation.outcome import Look, Outcome, steady
from launch.simulation.run import simulate
from launch.simulation.scaling import SCHEDULES, num_gpus, scaled, scheduled, why_fixed
from launch.simulation.server import Server
from launch.simulation.service_times import ServiceTimes
from launch.simulation.world import check
from tests.processor_time import cheaply

CONFIGS = Path(__file__).resolve().parents[3] / "launch" / "configs"
SMALL = (
    "recipe.num_proposals=2",
    "recipe.num_svgs=2",
    "recipe.num_easy_votes=2",
    "recipe.num_hard_votes=8",
    "recipe.proposer.max_new_tokens=500",
    "recipe.coder.max_new_tokens=500",
    "recipe.solver.max_new_tokens=500",
)
REQUESTS = 2 + 4 + 4 * 10
POLICIES = "[proposer, coder, solver]"
TOKENS = 2 * 100 + 4 * 200 + 4 * 10 * 50
"""Of a game in which all is parsed and rendered."""


ONE_EACH = [
    f"{{rank: {rank}, policies: [{policy}], kind: sglang}}"
    for rank, policy in enumerate(("proposer", "proposer", "proposer", "coder", "solver"), 1)
]
"""Servers of one policy each, which can move."""


def config(*overrides: str) -> RootConfig:
    return load_root(CONFIGS / "quickstart.yaml", [*SMALL, *overrides])


def times(
    *,
    server: dict[str, float],
    learners: dict[str, dict[str, float]] | None = None,
    play: dict[str, Any] | None = None,
    **other: Any,
) -> ServiceTimes:
    """Everything takes no time but what is said; all lengths are fixed; the solver's votes are so
    split that its groups always train."""
    free = {"step_s": 0.0, "token_s": 0.0}
    policies = ("proposer", "coder", "solver")
    said = {
        "tokens": {"proposer": [100], "coder": [200], "solver": [50]},
        "easy": [1.0],
        "hard": [0.375, 0.5],  # two, else no two drawings earn different rewards
    }
    return ServiceTimes.model_validate(
        {
            "servers": {"step_s": 0.0, "row_s": 0.0} | server,
            "learners": {p: free | (learners or {}).get(p, {}) for p in policies},
            "play": said | (play or {}),
            **other,
        }
    )


def test_a_synchronous_step_is_the_sum_of_its_stages() -> None:
    costs = times(
        server={"step_s": 0.02},
        learners={"solver": {"step_s": 3.0, "publish_s": 0.5}},
        picture_s=[0.25],
        engine={"request_s": 0.01},
    )
    one = config("streams.max_age=0", "streams.games_per_step=1", "run.steps=120")
    outcome = simulate(one, costs, warm_up=5)
    # The engine's process sends 2 requests, then 4, then 40, in their order.
    engine_s = (2 + 4 + 40) * 0.01
    stages_s = (100 + 200 + 50) * 0.02 + 2 * 0.25 + 3.0 + 0.5
    assert stages_s < 3600 / outcome.games_per_h < stages_s + engine_s + 0.25
    assert outcome.busy_of("learner") == pytest.approx(3.5 * outcome.games_per_h / 3600, rel=0.02)
    assert outcome.ages["solver"].keys() == {0}


def test_ranks_share_the_copies_of_a_publication_and_all_servers_wait_for_the_last() -> None:
    costs = times(server={"step_s": 0.02}, learners={"solver": {"step_s": 3.0, "copy_s": 0.5}})
    for number, ranks, copies, weights in (
        (1, 1, 1, "overlap=false"),
        (2, 1, 2, "overlap=false"),
        (4, 1, 4, "overlap=false"),
        (4, 2, 2, "overlap=false"),
        (4, 3, 2, "overlap=false"),
        (4, 2, 4, "overlap=true"),  # rank 0 sends them all
        (4, 2, 1, "via=disk"),  # all read one folder at once
    ):
        hosts = ", ".join(
            f"{{rank: {rank}, policies: {POLICIES}}}" for rank in range(ranks, ranks + number)
        )
        one = config(
            "streams.max_age=0", "streams.games_per_step=1", "run.steps=60",
            f"layout.servers=[{hosts}]",
            f"layout.learners=[{{ranks: {list(range(ranks))}, policies: {POLICIES}}}]",
            f"weights.{weights}",
        )  # fmt: skip
        outcome = simulate(one, costs, warm_up=5)
        step_s = (100 + 200 + 50) * 0.02 + 3.0 + 0.5 * copies
        assert 3600 / outcome.games_per_h == pytest.approx(step_s, rel=0.02)
        # Of three policies, two publish in no time.
        assert outcome.publish_s == pytest.approx(0.5 * copies / 3, rel=0.02)


def test_with_overlap_a_learner_trains_while_its_weights_are_sent() -> None:
    """It is limited by the learner: 3 s of a step, .5 s of a copy, and 1 s in which the server gets
    it; two policies train and publish in no time, in turns with the solver: no batch ahead, whose
    publication would have to wait for that of the one before."""
    solver = {"step_s": 2.0, "state_s": 1.0, "publish_s": 0.5, "copy_s": 1.0}
    costs = times(server={"row_s": 0.0001}, learners={"solver": solver})
    for overlap, cycle_s in (("false", 4.5), ("true", 3.5)):
        one = config("run.steps=60", "learner.prefetch=0", f"weights.overlap={overlap}")
        outcome = simulate(one, costs)
        assert 3600 / outcome.steps_per_h == pytest.approx(cycle_s, rel=0.03)
        assert outcome.busy_of("learner") == pytest.approx(3.5 / cycle_s, rel=0.03)
        assert outcome.publish_s == pytest.approx((1.0 if overlap == "true" else 1.5) / 3, rel=0.03)
        assert violations(outcome.counts) == []


def test_the_next_publication_waits_for_the_one_before() -> None:
    """What is sent takes longer than a step: no copy is overwritten while it is read."""
    solver = {"step_s": 1.0, "publish_s": 0.5, "copy_s": 4.0}
    costs = times(server={"row_s": 0.0001}, learners={"solver": solver})
    one = config("run.steps=60", "learner.prefetch=0", "weights.overlap=true")
    assert 3600 / simulate(one, costs).steps_per_h == pytest.approx(0.5 + 4.0, rel=0.05)


@pytest.mark.parametrize("overlap", ["false", "true"])
def test_versions_at_servers_only_grow(overlap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[tuple[int, str], list[int]] = {}
    resume = Server.resume

    def noted(self: Server, policy: str, version: int) -> None:
        got.setdefault((id(self), policy), []).append(version)
        resume(self, policy, version)

    monkeypatch.setattr(Server, "resume", noted)
    costs = times(
        server={"row_s": 0.0005, "update_s": 0.2},
        learners={"coder": {"step_s": 0.5, "copy_s": 1.0}, "solver": {"step_s": 1.0, "copy_s": 3}},
    )
    simulate(config("run.steps=40", "streams.max_age=2", f"weights.overlap={overlap}"), costs)
    assert len(got) == 3
    for versions in got.values():
        assert versions == sorted(set(versions)), "each once, and none after a newer one"
        assert len(versions) == 1 + 40, "of every step"
    got.clear()
    layout = f"layout.servers=[{', '.join(ONE_EACH)}]"
    moves = ("elastic.enabled=true", "elastic.patience_s=2", "elastic.cooldown_s=0")
    simulate(config("run.steps=40", layout, *moves, f"weights.overlap={overlap}"), costs)
    assert len(got) > len(ONE_EACH), "servers moved"
    assert all(versions == sorted(versions) for versions in got.values())


def test_what_goes_wrong_beside_training_ends_the_simulation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails(self: SimulatedLearner, name: str, *_: object) -> None:
        raise OSError(f"no way to {name}")

    monkeypatch.setattr(SimulatedLearner, "_send", fails)
    with pytest.raises(OSError, match="no way to"):
        simulate(config("weights.overlap=true"), times(server={"row_s": 0.0001}))


def test_a_saturated_server_limits_the_games() -> None:
    costs = times(server={"row_s": 0.001})  # tokens per second: one over that, whatever the batch
    outcome = simulate(config("run.steps=60"), costs)
    assert outcome.games_per_h == pytest.approx(3600 / (0.001 * TOKENS), rel=0.05)
    assert outcome.busy_of("server") == pytest.approx(1.0, abs=0.01)


def test_a_slow_learner_limits_the_steps() -> None:
    costs = times(server={"row_s": 0.0001}, learners={"solver": {"step_s": 4.0, "publish_s": 1.0}})
    outcome = simulate(config("run.steps=60"), costs)
    assert outcome.steps_per_h == pytest.approx(3600 / 5, rel=0.03)
    assert outcome.games_per_h == pytest.approx(3 * 3600 / 5, rel=0.03)
    assert outcome.busy_of("learner") == pytest.approx(1.0, abs=0.01)
    # Work per second: what the games bring, at what it costs.
    wanted = 0.0001 * TOKENS * outcome.games_per_h / 3600
    assert outcome.busy_of("server") == pytest.approx(wanted, rel=0.05)


def test_shared_cores_limit_all_work_together() -> None:
    costs = times(
        server={"row_s": 0.001},
        learners={"solver": {"step_s": 3.0}},
        engine={"request_s": 0.01},
        cores=1,
    )
    outcome = simulate(config("run.steps=60"), costs)
    game_s = 0.001 * TOKENS + 3.0 / 3 + 0.01 * REQUESTS
    assert outcome.games_per_h == pytest.approx(3600 / game_s, rel=0.03)


def test_a_shared_gpu_limits_all_work_on_it_together() -> None:
    costs = times(server={"row_s": 0.001}, learners={"solver": {"step_s": 3.0}})
    overrides = [*SMALL, "run.steps=30", "streams.games_per_step=3"]
    own = load_root(CONFIGS / "mm_zero_qwen3_vl_2b_1x80gb.yaml", overrides)
    outcome = simulate(own, costs)
    assert outcome.games_per_h == pytest.approx(3600 / (0.001 * TOKENS + 3.0 / 3), rel=0.03)
    # The same ranks with a GPU each: the solver's server limits.
    apart = load_root(CONFIGS / "mm_zero_qwen3_vl_2b_1x80gb.yaml", [*overrides, "layout.gpu_of={}"])
    assert simulate(apart, costs).games_per_h == pytest.approx(3600 / (0.001 * 40 * 50), rel=0.05)


@pytest.mark.parametrize("max_age", [0, 1, 3])
def test_ages_are_bounded_and_nothing_vanishes(max_age: int) -> None:
    costs = times(
        server={"step_s": 0.01, "row_s": 0.0005, "update_s": 0.3},
        learners={"solver": {"step_s": 1.0}, "coder": {"step_s": 2.0}},
        play={
            "tokens": {"proposer": [20, 300], "coder": [50, 400], "solver": [5, 200]},
            "parsed": 0.8,
            "drawn": 0.9,
            "rendered": 0.8,
            "boxed": 0.9,
            "easy": [0.5, 1.0],
            "hard": [0.3, 0.6, 1.0],
        },
    )
    outcome = simulate(config(f"streams.max_age={max_age}", "run.steps=30"), costs, warm_up=5)
    assert outcome.max_age == max_age
    assert violations(outcome.counts) == []
    assert outcome.counts["games"]["in_flight"] == 0
    assert all(row["ready"] == row["leased"] == 0 for row in outcome.counts["groups"].values())


def test_stopped_at_a_time_it_accounts_for_the_games_in_flight() -> None:
    costs = times(server={"row_s": 0.0001})
    outcome = simulate(config("run.steps=100000"), costs, seconds=60)
    assert outcome.seconds < 60
    assert violations(outcome.counts) == []
    assert outcome.counts["games"]["dropped"].keys() == {"stopped"}


def test_the_same_seed_gives_the_same_outcome() -> None:
    costs = times(
        server={"step_s": 0.01, "row_s": 0.0005},
        play={
            "tokens": {"proposer": [20, 300], "coder": [9, 400], "solver": [5, 99]},
            "parsed": 0.7,
        },
    )

    def once(seed: int) -> Outcome:
        return simulate(config("run.steps=20"), costs, seed=seed)

    assert once(1) == once(1)
    assert once(1) != once(2)


def test_more_servers_are_never_slower() -> None:
    costs = times(server={"step_s": 0.01, "row_s": 0.001}, learners={"solver": {"step_s": 1.0}})
    rates = []
    for number in (1, 2, 4):
        hosts = ", ".join(
            f"{{rank: {rank}, policies: {POLICIES}}}" for rank in range(1, number + 1)
        )
        layout = f"layout.servers=[{hosts}]"
        rates.append(simulate(config("run.steps=40", layout), costs).games_per_h)
    assert rates[1] > 1.5 * rates[0]  # it was the server that limited it
    assert rates[2] > 0.99 * rates[1]


def test_elastic_servers_go_where_the_work_is() -> None:
    layout = f"layout.servers=[{', '.join(ONE_EACH)}]"
    costs = times(server={"row_s": 0.001, "update_s": 0.5})
    fixed = simulate(config("run.steps=60", layout), costs)
    elastic = ("elastic.enabled=true", "elastic.patience_s=2", "elastic.cooldown_s=4")
    moved = simulate(config("run.steps=60", layout, *elastic), costs, warm_up=20)
    assert moved.games_per_h > 1.4 * fixed.games_per_h
    assert violations(moved.counts) == []


def test_1024_gpus_are_simulated_in_bounded_time() -> None:
    base = load_root(CONFIGS / "mm_zero_8gpu.yaml", [*SMALL[:4], "run.steps=12"])
    costs = times(server={"step_s": 0.01, "row_s": 0.0001}, learners={"solver": {"step_s": 1.0}})
    large, costs = scaled(base, costs, 1024)
    outcome = cheaply(lambda: simulate(large, costs, warm_up=3), 60)
    assert len([part for part in outcome.busy if part.startswith("server")]) == 512
    assert outcome.games_per_h > 0


def test_scaling_multiplies_what_there_is() -> None:
    base = load_root(CONFIGS / "mm_zero_8gpu.yaml")
    solver = {"step_s": 2.0, "state_s": 1.0, "token_s": 0.4, "copy_s": 0.2}
    ranks = dict.fromkeys(("proposer", "coder", "solver"), 4)
    made_for = {"model": "Qwen3-VL-8B-Instruct", "device": "H100", "ranks": ranks}
    costs = times(server={}, learners={"solver": solver}, made_for=made_for)
    check(base, costs)
    large, faster = scaled(base, costs, 32, games_too=True)
    assert len(large.layout.learners[0].ranks) == 16
    check(large, faster)
    all_ranks = [*large.layout.learners[0].ranks, *(host.rank for host in large.layout.servers)]
    assert sorted(all_ranks) == list(range(32))
    assert large.streams.games_per_step == 4 * base.streams.games_per_step
    assert (faster.learners["solver"].step_s, faster.learners["solver"].token_s) == (2.0, 0.1)
    assert (faster.learners["solver"].state_s, faster.learners["solver"].copy_s) == (0.25, 0.2)
    with pytest.raises(ConfigError, match="--gpus 12: the layout has 8"):
        scaled(base, costs, 12)
    with pytest.raises(ConfigError, match=r"planned for 2: launch/plan\.py MODEL --gpus 2"):
        scaled(base, costs, 2)


def test_times_of_another_model_or_layout_are_refused() -> None:
    base = load_root(CONFIGS / "mm_zero_8gpu.yaml")
    ranks = {"proposer": 4, "coder": 4, "solver": 4}

    def made_for(model: str = "Qwen/qwen3-vl-8b-instruct", **other: int) -> ServiceTimes:
        told = {"model": model, "device": "H100", "ranks": ranks | other}
        return times(server={}, made_for=told)

    check(base, made_for())
    check(base, times(server={}))
    with pytest.raises(ConfigError, match=r"made_for\.model: .*/Qwen3-VL-2B on H100, and model"):
        check(base, made_for("models/Qwen3-VL-2B"))
    with pytest.raises(ConfigError, match=r"made_for\.ranks: .* coder's .* 2 ranks .* gives it 4"):
        check(base, made_for(coder=2))
    without = made_for()
    assert without.made_for is not None
    less = without.made_for.model_copy(update={"ranks": {"proposer": 4, "coder": 4}})
    with pytest.raises(ConfigError, match=r"made_for\.ranks: .* solver's .* of no ranks"):
        check(base, without.model_copy(update={"made_for": less}))
    large, _ = scaled(base, times(server={}), 16)
    with pytest.raises(ConfigError, match=r"proposer's .* 4 ranks on H100, .* gives it 8"):
        check(large, made_for())


def test_shared_gpus_count_once_and_each_copy_shares_its_own() -> None:
    costs = times(server={})
    one = load_root(CONFIGS / "mm_zero_qwen3_vl_2b_1x80gb.yaml")
    assert num_gpus(one.layout) == 1
    three, _ = scaled(one, costs, 3)
    assert shared_gpus(three.layout) == {0: (0, 1, 2, 3), 1: (4, 5, 6, 7), 2: (8, 9, 10, 11)}
    assert three.layout.learners[0].ranks == (0, 4, 8)
    # Rank 8 is a second server on the GPU of rank 7; the others have that of their number.
    eight = load_root(CONFIGS / "mm_zero_qwen3_vl_8b_8x80gb.yaml")
    sixteen, _ = scaled(eight, costs, 16)
    assert num_gpus(sixteen.layout) == 16
    assert shared_gpus(sixteen.layout) == {7: (7, 8), 15: (16, 17)}
    with pytest.raises(ConfigError, match="--gpus 9: the layout has 8"):
        scaled(eight, costs, 9)


def test_schedules_change_the_window_only() -> None:
    base = config("streams.max_age=3")
    assert scheduled(base, "streaming") == base
    phases = config("streams.max_age=3", "streams.schedule=sequential")
    assert {name: scheduled(phases, name) for name in SCHEDULES} == {
        name: scheduled(base, name) for name in SCHEDULES
    }, "of a configuration of phases, too, each schedule is what it is called"
    assert all(scheduled(base, name).elastic == base.elastic for name in SCHEDULES)
    assert scheduled(base, "one-step-off").streams.max_age == 1
    assert scheduled(base, "synchronous").streams.max_age == 0
    with pytest.raises(ConfigError, match="schedule 'lazy'"):
        scheduled(base, "lazy")


def test_what_cannot_be_simulated_is_named() -> None:
    costs = times(server={"row_s": 0.001}, learners={"proposer": {"step_s": 3.0}})
    with pytest.raises(ConfigError, match="only mm_zero"):
        simulate(load_root(CONFIGS / "vision_zero.yaml"), costs)
    with pytest.raises(ConfigError, match=r"weights\.pause: 'abort' .* set it to retract"):
        simulate(config("weights.pause=abort"), costs)
    without = costs.model_copy(update={"learners": {}})
    with pytest.raises(ConfigError, match="no service times of coder, proposer, solver"):
        simulate(config(), without)
    with pytest.raises(ConfigError, match=r"run\.steps 3: too short .* want 12 or more"):
        simulate(config("run.steps=3"), costs)
    simulate(config("run.steps=12"), costs)
    phases = "streams.schedule=sequential", "streams.phase_steps=3"
    with pytest.raises(ConfigError, match=r"first 3 and last 3 steps .* want 9 or more"):
        simulate(config("run.steps=8", *phases), costs)
    simulate(config("run.steps=9", *phases), costs)
    with pytest.raises(ValueError, match="too short to tell"):
        simulate(config("run.steps=20"), costs, seconds=0.1)


def test_phases_play_the_game_for_each_role_anew() -> None:
    """By the same rates: a step of each role costs a whole game in its own phase, but for what is
    gathered; the solver's answers come on top of the votes for their labels."""
    costs = times(server={"step_s": 0.01}, learners={"solver": {"step_s": 1.0}})
    shared = simulate(config("streams.max_age=0", "run.steps=60"), costs, warm_up=5)
    phases = simulate(
        config("streams.schedule=sequential", "streams.phase_steps=20", "run.steps=60"), costs
    )
    assert not violations(phases.counts)
    assert {age for ages in phases.ages.values() for age in ages} == {0}
    for stream, row in phases.counts["groups"].items():
        same = shared.counts["groups"][stream]["trained"]
        assert row["trained"] == pytest.approx(same, rel=0.1), "the same training"
    in_phases = 3 * TOKENS + 4 * 8 * 50
    ratio = phases.generated_per_trained / shared.generated_per_trained
    assert ratio == pytest.approx(in_phases / TOKENS, rel=0.1)
    assert phases.steps_per_h < shared.steps_per_h / 1.5


def test_servers_follow_the_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 9, three of each policy, one stays with each, and the others go where a phase has its
    work. Where that is more than the places there, it takes less time than with servers that stay.
    """
    policies = ("proposer", "coder", "solver") * 3
    hosts = [
        f"{{rank: {rank}, policies: [{policy}], kind: sglang}}"
        for rank, policy in enumerate(policies, 1)
    ]
    base = config(
        f"layout.servers=[{', '.join(hosts)}]", "streams.phase_steps=2", "run.steps=6",
        "streams.games_per_step=24", "streams.game_deadline_s=36000",
        "sampler.request_timeout_s=36000", "sampler.max_concurrency=8",
    )  # fmt: skip
    # Each place has its own speed: a batch takes no longer than one request.
    costs = times(server={"step_s": 0.1, "update_s": 0.3}, learners={"solver": {"step_s": 2.0}})
    phases = scheduled(base, "sequential")
    assert phases.elastic.enabled
    fixed = simulate(phases.model_copy(update={"elastic": base.elastic}), costs)
    seen: list[dict[str, int]] = []
    observe = Elastic.observe

    def noted(self: Elastic, now_s: float, demand: Any, servers: Any) -> Any:
        seen.append({policy: len(urls) for policy, urls in servers.items()})
        return observe(self, now_s, demand, servers)

    monkeypatch.setattr(Elastic, "observe", noted)
    moved = simulate(phases, costs)
    begun = [numbers for numbers in seen if sum(numbers.values()) == len(hosts)]
    assert all(min(numbers.values()) >= 1 for numbers in begun)
    assert max(numbers["solver"] for numbers in begun) == 7
    assert moved.steps_per_h > 1.3 * fixed.steps_per_h
    assert violations(moved.counts) == []


def test_where_servers_cannot_follow_phases_it_is_said() -> None:
    for name, reason in (
        ("quickstart", "they have several policies each, whichever is asked"),
        ("mm_zero_qwen3_vl_2b_1x80gb", "each policy has one server, which it keeps"),
        ("mm_zero_8gpu", None),
        ("mm_zero_qwen3_vl_8b_8x80gb", None),
    ):
        one = load_root(CONFIGS / f"{name}.yaml")
        assert why_fixed(one) == reason
        assert scheduled(one, "sequential").elastic.enabled is (reason is None)
    one, _ = scaled(load_root(CONFIGS / "mm_zero_qwen3_vl_2b_1x80gb.yaml"), times(server={}), 2)
    assert why_fixed(one) is None, "then each policy has two"


def test_rates_of_phases_are_those_of_a_whole_round() -> None:
    """Two policies take turns of 20 steps; the second makes 18 of its games only."""
    moves = [("a", 20), ("b", 18)] * 3
    steps, looks = {"a": 0, "b": 0}, []
    for policy, number in moves:
        for _ in range(number):
            steps[policy] += 1
            at = float(len(looks) + 1)
            looks.append(Look(at, dict(steps), len(looks), 0, 0, 0, {}))
    first, last = steady(looks, warm_up=20, last=40, in_rounds=True)
    assert first.steps == {"a": 21, "b": 18}, "the first step of the second round"
    assert last.steps == {"a": 40, "b": 36}, "the last one before the third"
    assert last.at_s - first.at_s == 38 - 1
    with pytest.raises(ValueError, match="too short to tell"):
        steady(looks[:20], warm_up=20, last=40, in_rounds=True)
