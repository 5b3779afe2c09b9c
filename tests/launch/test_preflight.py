"""What the front door knows of a run that is to be resumed."""

import importlib.util
import json
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest

from engine.config import LayoutConfig
from engine.errors import ConfigError
from engine.learner.costs import model_shape
from engine.monitor import sinks
from engine.nodes import Node
from engine.rundir import RunDir
from launch.async_selfplay import CONFIGS
from launch.config import RootConfig, load_root
from launch.planning.models import find_model
from launch.preflight import (
    changes,
    check_before_start,
    check_disk,
    check_evals,
    check_gpus,
    check_machine,
    check_memory,
    finished,
    free_name,
    write_config,
)
from tests.engine.learner.eight_b import EIGHT


@pytest.fixture
def config(tmp_path: Path) -> RootConfig:
    return load_root(CONFIGS / "quickstart.yaml", [f"run.root={tmp_path}", "run.steps=5"])


@pytest.fixture
def run(config: RootConfig) -> RunDir:
    run = RunDir(config.run.root / config.run.name)
    run.create()
    write_config(config, run)
    return run


def summary(**changed: Any) -> str:
    steps = {"proposer": 5, "coder": 5, "solver": 5}
    return json.dumps({"steps": steps, "heldout": {"delta": {"coder_render": 0.1}}, **changed})


def test_a_pinned_judge_without_a_server_is_refused_before_anything_starts(tmp_path: Path) -> None:
    wanted = [f"run.root={tmp_path}", "recipe.judge=pinned"]
    with pytest.raises(ConfigError, match="'judge', which holds older weights of 'solver'") as said:
        check_before_start(load_root(CONFIGS / "quickstart.yaml", wanted), resume=False)
    fix = str(said.value).rpartition("; set ")[2]  # does what it says
    check_before_start(load_root(CONFIGS / "quickstart.yaml", [*wanted, fix]), resume=False)


def test_a_run_that_has_made_its_steps_is_finished(config: RootConfig, run: RunDir) -> None:
    assert finished(config, run) is None
    run.summary.write_text(summary())
    found = finished(config, run)
    assert found is not None
    assert found["steps"]["solver"] == 5


@pytest.mark.parametrize(
    "text",
    [
        summary(steps={"proposer": 5, "coder": 4, "solver": 5}),
        summary(steps={}),
        summary(heldout={"delta": {}}),
        "{}",
        "[]",
        "torn {",
    ],
)
def test_any_other_run_is_not(config: RootConfig, run: RunDir, text: str) -> None:
    run.summary.write_text(text)
    assert finished(config, run) is None


def test_changed_settings_are_named_one_by_one(config: RootConfig, run: RunDir) -> None:
    assert changes(config, run) == []
    other = load_root(
        CONFIGS / "quickstart.yaml",
        [f"run.root={config.run.root}", "run.steps=5", "learner.lr=1e-3", "run.seed=7"],
    )
    assert changes(other, run) == [
        "learner.lr is 0.001, was 1e-05",
        "run.seed is 7, was 0",
    ]


def test_a_disk_without_room_for_the_checkpoints_is_refused(
    config: RootConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are kept and one is written of each policy."""
    free = [0]
    monkeypatch.setattr(
        "launch.preflight.shutil.disk_usage", lambda place: SimpleNamespace(free=free[0])
    )
    with pytest.raises(ConfigError, match=r"has 0\.0 GB free, and checkpoints take") as said:
        check_disk(config)
    assert "\n" not in str(said.value)
    parameters = model_shape(config.model.base).params
    each = 3 * (12 + 4) * parameters  # masters, moments, and the model in float32
    free[0] = int(1.01 * 3 * each)
    check_disk(config)
    free[0] = int(0.99 * 3 * each)
    with pytest.raises(ConfigError, match=r"run\.keep_checkpoints 2"):
        check_disk(config)


def test_learners_that_this_machine_has_no_memory_for_are_refused(
    monkeypatch: pytest.MonkeyPatch, config: RootConfig
) -> None:
    """Whatever the layout says: it was written for another one."""
    monkeypatch.setattr("launch.preflight.memory_bytes", lambda: 10**9)
    check_machine(config)  # on a CPU the same memory is the servers', and nothing is known of it
    layout = config.layout.model_copy(update={"device": "cuda"})
    with pytest.raises(ConfigError, match=r"the memory of this node: the learners need"):
        check_machine(config.model_copy(update={"layout": layout}))
    monkeypatch.setattr("launch.preflight.memory_bytes", lambda: 10**12)
    check_machine(config.model_copy(update={"layout": layout}))


def test_the_first_free_name_is_taken(tmp_path: Path) -> None:
    assert free_name(tmp_path, "quickstart") == "quickstart"
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart-2").mkdir()
    assert free_name(tmp_path, "quickstart") == "quickstart-3"


def test_a_bound_of_the_kl_needs_somebody_who_measures_it() -> None:
    bound = ["recipe.gate.max_kl=0.5"]
    with pytest.raises(ConfigError, match=r"gate.max_kl: no learner .* learner.objective.kl_beta"):
        load_root(CONFIGS / "vision_zero.yaml", bound)
    load_root(CONFIGS / "vision_zero.yaml", [*bound, "learner.objective.kl_beta=0.001"])
    with pytest.raises(ConfigError, match=r"gate.max_kl: .* gate.switch=off"):
        load_root(CONFIGS / "vision_zero.yaml", [*bound, "recipe.gate.switch=off"])


def test_a_bound_of_the_kl_needs_a_policy_that_goes_on_without_clues() -> None:
    """Else it would never be measured again, and clues stay stopped."""
    bound = ["recipe.gate.max_kl=0.5", "learner.objective.kl_beta=0.001"]
    apart = "layout.policies={civilian: talker, spy: talker, voter: voter}"
    with pytest.raises(ConfigError, match=r"gate.max_kl: talker trains on clues alone"):
        load_root(CONFIGS / "vision_zero.yaml", [*bound, apart])
    load_root(CONFIGS / "vision_zero.yaml", [apart])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (["streams.schedule=sequential"], r"the games of a phase share .*schedule=streaming"),
        (["elastic.enabled=true"], r"a branch keeps its servers; set elastic.enabled=false"),
        (["recipe.judge=pinned", "recipe.pin_every=6"], r"none of them serves judge"),
    ],
)
def test_games_that_one_process_has_to_play_have_no_branches(bad: list[str], words: str) -> None:
    branches = "layout.branches=[{rank: 1, servers: [1]}]"
    load_root(CONFIGS / "quickstart.yaml", [branches])
    with pytest.raises(ConfigError, match=r"layout\.branches.*" + words):
        load_root(CONFIGS / "quickstart.yaml", [branches, *bad])


def test_a_bound_on_judges_must_leave_room_for_a_pinned_one() -> None:
    pinned = ["recipe.judge=pinned", "recipe.pin_every=6", "streams.max_age=4"]
    load_root(CONFIGS / "quickstart.yaml", [*pinned, "streams.max_judge_age=10"])
    with pytest.raises(ConfigError, match=r"streams.max_judge_age: 9 .* judge .* need 10"):
        load_root(CONFIGS / "quickstart.yaml", [*pinned, "streams.max_judge_age=9"])


def test_learners_that_do_not_fit_are_refused_before_anything_starts(tmp_path: Path) -> None:
    small = [f"run.root={tmp_path}", "layout.device_memory_gb=2.5"]
    with pytest.raises(ConfigError, match=r"layout.learners.0: 3 x .* GB more than there are: "):
        check_before_start(load_root(CONFIGS / "quickstart.yaml", small), resume=False)
    check_memory(load_root(CONFIGS / "quickstart.yaml", ["layout.device_memory_gb=24"]))
    host = ["layout.device_memory_gb=24", "layout.host_memory_gb=1"]
    with pytest.raises(ConfigError, match=r"layout.host_memory_gb: the learners need \d+ GB"):
        check_memory(load_root(CONFIGS / "quickstart.yaml", host))


def test_three_8b_policies_fit_on_the_layout_for_eight_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's config.json and the headers of its weights are all that is read."""
    monkeypatch.setattr("launch.preflight.model_shape", lambda _: EIGHT)
    (tmp_path / "config.json").write_text(json.dumps(find_model("Qwen3-VL-8B").config))
    layout = CONFIGS / "mm_zero_8gpu.yaml"
    wanted = [f"model.base={tmp_path}"]
    check_memory(load_root(layout, wanted))
    with pytest.raises(ConfigError, match=r"learner.offload_optimizer=true needs 71.3 GB$"):
        check_memory(load_root(layout, [*wanted, "learner.offload_optimizer=false"]))
    with pytest.raises(ConfigError, match=r"learner.activation_checkpointing=true needs 71.3 GB$"):
        check_memory(load_root(layout, [*wanted, "learner.activation_checkpointing=false"]))


def test_room_for_the_longest_reply_is_asked_for_however_small_micro_batches_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.preflight.model_shape", lambda _: EIGHT)
    (tmp_path / "config.json").write_text(json.dumps(find_model("Qwen3-VL-8B").config))
    small = [f"model.base={tmp_path}", "learner.tokens_per_micro_batch=2048"]
    small += ["learner.activation_checkpointing=false"]
    with pytest.raises(ConfigError, match=r"prompt of 9126 tokens.*checkpointing=true needs") as no:
        check_memory(load_root(CONFIGS / "mm_zero_8gpu.yaml", small))
    assert "tokens_per_micro_batch" not in str(no.value), "a smaller one is of no use"
    short = [f"recipe.{role}.max_new_tokens=512" for role in ("proposer", "coder", "solver")]
    check_memory(load_root(CONFIGS / "mm_zero_8gpu.yaml", [*small, *short]))
    short = [f"layout.servers.{i}.context_length=2048" for i in range(4)]
    check_memory(load_root(CONFIGS / "mm_zero_8gpu.yaml", [*small, *short]))


def test_a_prompt_set_that_does_not_exist_is_named_before_the_start() -> None:
    config = load_root(CONFIGS / "quickstart.yaml", ["recipe.prompts=tinny"])
    with pytest.raises(ConfigError, match="no prompt set 'tinny'"):
        check_before_start(config, resume=False)


@pytest.mark.parametrize("is_offline", [True, False])
def test_benchmarks_from_the_hub_need_it(
    is_offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", is_offline)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    wanted = [f"run.root={tmp_path}", "evals.benchmarks=[chartqa]"]
    with pytest.raises(ConfigError) if is_offline else nullcontext() as said:
        check_evals(load_root(CONFIGS / "quickstart.yaml", wanted))
    assert said is None or "start with HF_HUB_OFFLINE=0" in str(said.value)


def test_layers_that_adapters_can_not_have_are_named_before_the_start(tmp_path: Path) -> None:
    wrong = ["learner.lora={rank: 2, targets: [mlp, q_proj]}", f"run.root={tmp_path}"]
    with pytest.raises(ConfigError, match=r"lora.targets: no linear layer is called mlp; there"):
        check_before_start(load_root(CONFIGS / "quickstart.yaml", wrong), resume=False)
    right = ["learner.lora={rank: 2, targets: [q_proj]}", f"run.root={tmp_path}"]
    check_before_start(load_root(CONFIGS / "quickstart.yaml", right), resume=False)


def test_a_run_whose_last_weights_were_not_evaluated_is_not_finished(tmp_path: Path) -> None:
    """Stopped in the middle of that: to resume it is to evaluate them."""
    wanted = [f"run.root={tmp_path}", "run.steps=5", "evals.benchmarks=[chartqa]"]
    config = load_root(CONFIGS / "quickstart.yaml", wanted)
    run = RunDir(config.run.root / config.run.name)
    run.create()
    run.summary.write_text(summary())
    assert finished(config, run) is None
    folder = run.evals / "step-00000005" / "official"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text('{"model": "m", "benchmarks": {}, "overall": {}}')
    assert finished(config, run) is not None


@pytest.mark.parametrize(
    "setting, field, extra",
    [
        ("tensorboard: true", "monitor.sinks.tensorboard", "tensorboard"),
        ("wandb: offline", "monitor.sinks.wandb", "wandb"),
    ],
)
def test_a_sink_without_its_library_is_refused_before_the_start(
    setting: str, field: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == extra]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, extra, None)
    wanted = [f"run.root={tmp_path}", f"monitor.sinks={{{setting}}}"]
    with pytest.raises(ConfigError) as said:
        check_before_start(load_root(CONFIGS / "quickstart.yaml", wanted), resume=False)
    assert str(said.value).startswith(f"{field} needs {extra}")
    assert str(said.value).endswith(f"pip install -e '.[{extra}]'")


def test_a_folder_of_a_library_s_name_is_not_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no_such_library").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not sinks._is_installed("no_such_library")
    assert sinks._is_installed("json")


def node(rank: int, local_ranks: int = 1) -> Node:
    return Node(
        rank=rank, count=2, local_ranks=local_ranks, address=f"127.0.0.{rank + 1}", machine="m"
    )


def test_a_prompt_needs_room_beside_the_longest_reply(tmp_path: Path) -> None:
    def check(name: str, *overrides: str) -> None:
        check_before_start(
            load_root(CONFIGS / name, [f"run.root={tmp_path}", *overrides]), resume=False
        )

    long = "recipe.coder.max_new_tokens=512"
    words = r"layout.servers.0.context_length: 512 .* reply of coder \(512 in mm_zero\); raise it"
    with pytest.raises(ConfigError, match=words):
        check("quickstart.yaml", long)
    check("quickstart.yaml", long, "layout.servers.0.context_length=1024")
    check("quickstart.yaml", long, "layout.servers.0.extra_args=[--context-length, '900']")
    # A follower is sampled as its role is.
    servers = "[{rank: 1, policies: [proposer, coder, solver], context_length: 900}, "
    servers += "{rank: 2, policies: [judge], context_length: 64}]"
    pinned = ("recipe.judge=pinned", "recipe.pin_every=6", f"layout.servers={servers}")
    words = r"layout.servers.1.context_length: 64 .* reply of judge \(64 in mm_zero\)"
    with pytest.raises(ConfigError, match=words):
        check("quickstart.yaml", *pinned)
    with pytest.raises(
        ConfigError, match=r"layout.servers.0.* reply of voter \(600 in vision_zero"
    ):
        check("vision_zero.yaml", "recipe.vote.max_new_tokens=600")


def cuda(**changes: Any) -> LayoutConfig:
    """Learners on ranks 0 and 1, servers on 2 and, with a neighbour, on 3."""
    config = load_root(CONFIGS / "quickstart.yaml", [])
    learner, host = config.layout.learners[0], config.layout.servers[0]
    return config.layout.model_copy(
        update={
            "device": "cuda",
            "learners": [learner.model_copy(update={"ranks": [0, 1]})],
            "servers": [
                host.model_copy(update={"rank": 2}),
                host.model_copy(update={"rank": 3, "tp": 2}),
            ],
            **changes,
        }
    )


def test_a_cpu_build_of_torch_is_refused_where_gpus_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.preflight.metadata.version", lambda _: "2.13.0+cpu")
    wanted = [f"run.root={tmp_path}", "layout.device=cuda", "layout.backend=nccl"]
    with pytest.raises(ConfigError, match=r"layout.device: .*CPU build \(2.13.0\+cpu\).*venv-gpu"):
        check_before_start(load_root(CONFIGS / "quickstart.yaml", wanted), resume=False)
    check_gpus(cuda(device="cpu"))


def test_gpus_that_are_not_visible_are_missed_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("launch.preflight.metadata.version", lambda _: "2.13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    with pytest.raises(ConfigError, match="it needs 5 GPUs on this node, and 4 are visible"):
        check_gpus(cuda())
    check_gpus(cuda(gpu_of={3: 0, 4: 1}))
    # Of several nodes only this one's ranks count, and each begins with its first GPU.
    check_gpus(cuda(), node(0, local_ranks=3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with pytest.raises(ConfigError, match="it needs 2 GPUs on this node, and 1 is visible"):
        check_gpus(cuda(), node(1, local_ranks=3))
    check_gpus(cuda(), node(1, local_ranks=4))


def test_only_the_ports_of_the_own_node_are_looked_at(tmp_path: Path) -> None:
    """The server is on rank 1; on another node its port may well be taken."""
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        wanted = [f"run.root={tmp_path}", f"layout.servers.0.port={port}"]
        wanted += ["layout.servers.0.policies=[proposer, coder, solver]"]
        config = load_root(CONFIGS / "quickstart.yaml", wanted)
        check_before_start(config, resume=False, world=2, node=node(0))
        with pytest.raises(ConfigError, match=f"layout.servers.0.port: port {port} is in use"):
            check_before_start(config, resume=False, world=2, node=node(1))


def test_the_memory_of_a_node_is_that_of_the_learners_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two groups that do not fit on one host, each on a node of its own."""
    monkeypatch.setattr("launch.preflight.model_shape", lambda _: EIGHT)
    (tmp_path / "config.json").write_text(json.dumps(find_model("Qwen3-VL-8B").config))
    groups = "[{ranks: [0], policies: [proposer, coder]}, {ranks: [1], policies: [solver]}]"
    wanted = [f"model.base={tmp_path}", f"layout.learners={groups}"]
    wanted += ["layout.servers.0.rank=2", "learner.offload_optimizer=true"]
    wanted += ["layout.host_memory_gb=500"]
    config = load_root(CONFIGS / "quickstart.yaml", wanted)
    check_memory(config, local_ranks=1)
    for together in (None, 2):
        with pytest.raises(ConfigError, match=r"layout.host_memory_gb: the learners need \d+ GB"):
            check_memory(config, local_ranks=together)


def test_the_memory_of_a_node_counts_the_ranks_of_a_group_that_are_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty-two ranks that load an 8B model at a time: 39 GB each, 313 GB for the eight of a
    node, whether they share one copy of the weights or two have one."""
    monkeypatch.setattr("launch.preflight.model_shape", lambda _: EIGHT)
    (tmp_path / "config.json").write_text(json.dumps(find_model("Qwen3-VL-8B").config))
    ranks = list(range(32))
    for shard in ("", ", shard: 2"):
        group = f"[{{ranks: {ranks}, policies: [proposer, coder, solver]{shard}}}]"
        wanted = [f"model.base={tmp_path}", f"layout.learners={group}"]
        wanted += ["layout.servers.0.rank=32"]
        config = load_root(CONFIGS / "quickstart.yaml", [*wanted, "layout.host_memory_gb=450"])
        check_memory(config, local_ranks=8)
        small = load_root(CONFIGS / "quickstart.yaml", [*wanted, "layout.host_memory_gb=300"])
        with pytest.raises(ConfigError, match=r"the learners need \d+ GB of their host"):
            check_memory(small, local_ranks=8)
        with pytest.raises(ConfigError, match="need 1250 GB of their host"):
            check_memory(config)
