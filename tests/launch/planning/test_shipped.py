"""The configurations that the planner wrote: as it would write them now, loadable, and accepted by
the checks before the start."""

import json
import re
from pathlib import Path

import pytest

from engine.config import SAVE_SHARE, RunConfig
from engine.errors import ConfigError
from engine.layout import check_layout, job_of, shared_gpus, world_size
from launch.config import RootConfig, followers, load_root, policies_of, settings_of
from launch.planning.case import CONFIGS, TEMPLATES
from launch.planning.models import find_model
from launch.planning.shipped import (
    SHIPPED,
    SIMULATION,
    TIMES,
    shipped,
    shipped_times,
    write_shipped,
)
from launch.preflight import check_memory, check_sharing
from launch.simulation.service_times import read_service_times
from launch.simulation.world import check

names = pytest.mark.parametrize("name", SHIPPED)


def with_sizes(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str
) -> RootConfig:
    """The configuration, its model known by size alone: nobody has the weights here."""
    model = find_model(SHIPPED[name].split()[0])
    (folder / "config.json").write_text(json.dumps(model.config))
    monkeypatch.setattr("launch.preflight.model_shape", lambda _: model.shape)
    return load_root(CONFIGS / f"{name}.yaml", [f"model.base={folder}", *overrides])


@names
def test_it_is_what_the_planner_writes(name: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert text == shipped(name).yaml, "run: python launch/plan.py --shipped"
    head = "".join(line for line in text.splitlines() if line.startswith("#"))
    assert "authors have not run it on GPUs" in head


def test_all_of_them_are_written(tmp_path: Path) -> None:
    written = {path.name for path in write_shipped(tmp_path, tmp_path)}
    assert written == {f"{name}.yaml" for name in (*SHIPPED, *TIMES)}
    ours = {path.name for path in (*CONFIGS.glob("*gb.yaml"), *SIMULATION.glob("times_*.yaml"))}
    assert ours == written


@pytest.mark.parametrize("name", TIMES)
def test_shipped_times_are_the_planner_s_and_fit_their_configuration(name: str) -> None:
    path = SIMULATION / f"{name}.yaml"
    assert path.read_text() == shipped_times(name).times_yaml, "run: launch/plan.py --shipped"
    check(load_root(CONFIGS / f"{TIMES[name]}.yaml"), read_service_times(path))


@names
def test_it_passes_the_checks_of_layout_and_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_sizes(name, tmp_path, monkeypatch)
    asked = shipped(name).case.cluster
    world = world_size(config.layout)
    if shipped(name).found.plans[0].layout.sharing == "none":
        assert world == asked.total
    check_layout(config.layout, policies_of(config), world, followers(config))
    check_sharing(config)
    check_memory(config, asked.gpus if asked.nodes > 1 else None)
    assert config.layout.device_memory_gb == asked.memory / 1e9
    assert list(settings_of(config)) == [shipped(name).case.recipe]


@names
def test_a_window_of_games_that_begin_at_once_ends_before_their_deadline(name: str) -> None:
    config, plan = load_root(CONFIGS / f"{name}.yaml"), shipped(name).found.plans[0]
    window = (config.streams.max_age + 1) * config.streams.games_per_step
    window_s = window / plan.games_per_hour * 3600
    assert 3 * window_s <= config.streams.game_deadline_s < 3 * window_s + 3600
    assert config.sampler.request_timeout_s == config.streams.game_deadline_s / 2 > window_s


@names
def test_a_stop_has_the_time_to_save_twice(name: str) -> None:
    config, plan = load_root(CONFIGS / f"{name}.yaml"), shipped(name).found.plans[0]
    written_s = plan.checkpoint_bytes / 1e9
    assert config.run.stop_s >= RunConfig().stop_s
    assert SAVE_SHARE * config.run.stop_s >= written_s
    assert 2 * written_s + 20 < config.run.stop_s


@pytest.mark.parametrize(
    "recipe, model", [("mm_zero", "Qwen3-VL-8B"), ("vision_zero", "Qwen2.5-VL-7B")]
)
def test_configs_written_by_hand_leave_a_stop_that_time_too(recipe: str, model: str) -> None:
    config = load_root(TEMPLATES[recipe])
    assert find_model(model).name == config.model.base.name
    size = 14 * find_model(model).shape.params * len(policies_of(config))
    assert SAVE_SHARE * config.run.stop_s >= size / 1e9


@names
def test_it_changes_only_what_a_plan_is_about(name: str) -> None:
    ours = load_root(CONFIGS / f"{name}.yaml").model_dump()
    template = load_root(TEMPLATES[shipped(name).case.recipe]).model_dump()
    for tree in (ours, template):
        for section, keys in {
            "run": ["name", "stop_s"],
            "weights": ["via", "folder"],
            "render": ["workers"],
            "streams": ["game_deadline_s"],
            "sampler": ["max_concurrency", "request_timeout_s"],
            "learner": ["lr", "tokens_per_micro_batch", "activation_checkpointing",
                        "offload_optimizer", "lora"],
        }.items():  # fmt: skip
            for key in keys:
                del tree[section][key]
        del tree["model"], tree["layout"]
    assert ours == template


@names
def test_servers_are_as_many_as_the_plan_says(name: str) -> None:
    layout = load_root(CONFIGS / f"{name}.yaml").layout
    for one in shipped(name).found.plans[0].layout.servers:
        hosts = [host for host in layout.servers if host.policies == (one.policy,)]
        assert len(hosts) == one.count
        assert {host.tp for host in hosts} == {one.tp}
    ports = [host.port for host in layout.servers]
    assert len(set(ports)) == len(ports)


def test_on_one_gpu_everything_is_there_and_weights_are_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "mm_zero_qwen3_vl_2b_1x80gb"
    config = with_sizes(name, tmp_path, monkeypatch)
    assert shared_gpus(config.layout) == {0: (0, 1, 2, 3)}
    assert job_of(config.layout, 0).learner is not None
    assert config.weights.via == "disk"
    assert config.weights.folder == Path("/dev/shm/streamzero")
    with pytest.raises(ConfigError, match=r"share GPU 0, and NCCL refuses.*set weights.via=disk"):
        check_sharing(with_sizes(name, tmp_path, monkeypatch, "weights.via=broadcast"))


def test_a_server_that_may_be_moved_to_the_learner_on_its_gpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = """{
        learners: [{ranks: [0], policies: [coder, solver]}, {ranks: [1], policies: [proposer]}],
        servers: [
            {rank: 2, policies: [proposer]}, {rank: 3, policies: [coder]},
            {rank: 4, policies: [solver]}],
        gpu_of: {0: 0, 1: 1, 2: 0, 3: 2, 4: 3}, device: cuda, backend: nccl}"""
    overrides = (f"layout={layout}", "weights.via=broadcast")
    name = "mm_zero_qwen3_vl_2b_1x80gb"
    check_sharing(with_sizes(name, tmp_path, monkeypatch, *overrides))
    with pytest.raises(ConfigError, match=r"learner and server of 'coder' share GPU 0"):
        check_sharing(with_sizes(name, tmp_path, monkeypatch, *overrides, "elastic.enabled=true"))


def test_servers_that_leave_their_gpu_no_room_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = "layout.servers.2.cache_tokens=300000"
    for name, gpu in (("mm_zero_qwen3_vl_2b_1x80gb", 0), ("mm_zero_qwen3_vl_2b_2x80gb", 1)):
        config = with_sizes(name, tmp_path, monkeypatch, large)
        with pytest.raises(ConfigError, match=rf"GPU {gpu} would hold .*lower cache_tokens") as no:
            check_memory(config)
        needed, available = map(float, re.findall(r"([\d.]+) GB of ([\d.]+)", str(no.value))[0])
        assert needed > available == 80
        parts = re.findall(r"layout\.[a-z]+\.\d ([\d.]+)", str(no.value))
        assert sum(map(float, parts)) == pytest.approx(needed, abs=0.3)


def test_what_cannot_be_played_yet_says_so_in_its_comment() -> None:
    text = (CONFIGS / "vision_zero_internvl3_8b_8x80gb.yaml").read_text()
    assert "It fits, but no server plays it yet" in text.replace("\n# ", " ")
