"""A plan as a configuration: that of the recipe's template, with the plan's model, layout and what
saves memory."""

import math
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import yaml

from engine.config import SAVE_SHARE, LayoutConfig, RunConfig
from engine.layout import killed_after_s
from engine.learner.memory import GB
from launch.planning.case import TEMPLATES
from launch.planning.layouts import LORA_RANK, Group, Layout, Servers, placed
from launch.planning.plans import Plan
from launch.planning.rates import service, train_s
from launch.planning.server_memory import mem_fraction

FIRST_PORT = 30000
_WINDOWS = 3
_ROUND_S = 600
_MINUTE_S = 60
_SUMMARY_S = 20
"""What the engine takes to write its summary, at most."""
WEIGHTS_FOLDER = Path("/dev/shm/streamzero")
"""In memory, where files are as fast as `disk_gb_s` assumes; each run has its own below it."""
_NOT_RUN = "Its authors have not run it on GPUs."


def yaml_of(plan: Plan, command: str, name: str) -> str:
    """The whole configuration, as YAML with a comment that says what it is."""
    tree: dict[str, Any] = yaml.safe_load(TEMPLATES[plan.case.recipe].read_text())
    training, case = plan.layout.training, plan.case
    tree["run"]["name"] = name
    tree["run"].pop("stop_s", None)
    if stop_s(plan) > RunConfig().stop_s:
        tree["run"]["stop_s"] = stop_s(plan)
    tree["model"]["base"] = str(case.model.folder)
    layout = layout_of(plan)
    tree["layout"] = layout.model_dump(mode="json", exclude_defaults=True)
    if layout.gpu_of:
        tree["layout"]["gpu_of"] = dict(layout.gpu_of)  # JSON has no whole numbers for keys
    learner = tree["learner"]
    for key in ("activation_checkpointing", "offload_optimizer"):
        learner.pop(key, None)
    applied = training.applied(case.config.learner)
    learner |= {"lr": applied.lr, "tokens_per_micro_batch": training.tokens}
    if training.checkpointing:
        learner["activation_checkpointing"] = True
    if training.offload:
        learner["offload_optimizer"] = True
    if training.lora:
        learner["lora"] = {"rank": LORA_RANK}
    if plan.via_disk:
        tree["weights"] |= {"via": "disk", "folder": str(WEIGHTS_FOLDER)}
    tree["render"]["workers"] = plan.render_workers
    # The engine asks no server for more at a time, whatever that runs.
    running = max(server["max_running"] for server in tree["layout"]["servers"])
    if running > case.config.sampler.max_concurrency:
        tree["sampler"]["max_concurrency"] = running
    tree["streams"]["games_per_step"] = case.games_per_step
    tree["streams"]["game_deadline_s"] = deadline_s(plan)
    tree["sampler"]["request_timeout_s"] = deadline_s(plan) // 2
    body = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=98)
    return _comment(plan, command) + body


def deadline_s(plan: Plan) -> int:
    """Of a game: the template's, or three times what a whole window of games takes, which all begin
    at once. A slow plan needs more: its last request waits for the servers nearly as long."""
    streams = plan.case.config.streams
    window = (streams.age_bound + 1) * streams.games_per_step
    longest_s = _WINDOWS * 3600 * window / plan.games_per_hour
    return max(int(streams.game_deadline_s), _ROUND_S * math.ceil(longest_s / _ROUND_S))


def stop_s(plan: Plan) -> int:
    """`run.stop_s`: at least the default. A stop waits for the step under way, for all checkpoints
    if they are just being written, for the last ones, and for the summary; for checkpoints no more
    than `SAVE_SHARE` of it each time."""
    case, training = plan.case, plan.layout.training
    written_s = plan.checkpoint_bytes / (case.assumed.checkpoint_gb_s * GB)
    step_s = max(
        train_s(case, policy, group, training)
        for group in plan.layout.groups
        for policy in group.policies
    )
    wanted_s = max(written_s / SAVE_SHARE, step_s + 2 * written_s + _SUMMARY_S)
    return max(int(RunConfig().stop_s), _MINUTE_S * math.ceil(wanted_s / _MINUTE_S))


def run_name(stem: str, default: str) -> str:
    """The name of a run whose file is called `stem`: letters, digits, dots and dashes, as
    `run.name` wants it; `default` where nothing of it is left."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", stem).strip("-.") or default


def needs(plan: Plan) -> str:
    """What a plan takes of hosts, beside cores."""
    cluster = plan.case.cluster
    node = "" if cluster.nodes == 1 else " on the fullest node"
    files = f" ({plan.folder_bytes / GB:.0f} GB: weights in /dev/shm)" if plan.via_disk else ""
    return (
        f"Learners take {plan.host_bytes / GB:.0f} of {cluster.host_memory / GB:.0f} GB of host "
        f"memory{node}{files}; checkpoints {plan.disk_bytes / (1000 * GB):.2g} TB of disk: of each "
        f"policy {plan.num_checkpoints}, with the one that is being written"
    )


def layout_of(plan: Plan) -> LayoutConfig:
    """Learners from rank 0 on, servers up to the last rank; GPUs in between idle."""
    case, layout = plan.case, plan.layout
    learners = [_group(group, start) for group, start in placed(layout.groups)]
    start = layout.learner_gpus
    servers: list[dict[str, Any]]
    gpu_of: dict[int, int] = {}
    if layout.sharing == "none":
        servers = _own_servers(plan)
    elif layout.sharing == "light":
        servers, gpu_of = _light_servers(plan, start)
    else:
        servers, gpu_of = _shared_servers(plan, start)
    tree: dict[str, Any] = {
        "device": "cuda",
        "backend": "nccl",
        "device_memory_gb": case.cluster.memory / GB,
        "host_memory_gb": case.cluster.host_memory / GB,
        "policies": dict(case.config.layout.policies),
        "learners": learners,
        "servers": servers,
        "gpu_of": gpu_of,
        "branches": _branches(plan, servers),
    }
    return LayoutConfig.model_validate(tree)


def _branches(plan: Plan, servers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each with its share of every policy's servers, on the rank of the first of them."""
    number = plan.engine_processes
    if number == 1:
        return []
    of: dict[str, list[int]] = {}
    for server in servers:
        of.setdefault(server["policies"][0], []).append(server["rank"])
    # In a row, not every so manieth: a branch is near its servers.
    parts = [
        sorted(rank for own in of.values() for rank in _slice(own, part, number))
        for part in range(number)
    ]
    return [{"rank": ranks[0], "servers": ranks} for ranks in parts]


def _slice(ranks: list[int], part: int, number: int) -> list[int]:
    return ranks[len(ranks) * part // number : len(ranks) * (part + 1) // number]


def start_line(plan: Plan, file: Path | str) -> str:
    """What starts it, on each node (`launch/README.md` says why so)."""
    script = f"launch/async_selfplay.py {shlex.quote(str(file))}"
    nodes = plan.case.cluster.nodes
    if nodes == 1:
        return f"python {script}"
    return (
        f"TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --nnodes={nodes} "
        f"--nproc-per-node={plan.case.cluster.gpus} --rdzv-backend=c10d "
        "--rdzv-endpoint=HOST:29500 --rdzv-conf=join_timeout=1800 --max-restarts=3 "
        f"--shutdown-timeout={killed_after_s(RunConfig(stop_s=stop_s(plan)))} {script}"
    )


def start_words(plan: Plan) -> str:
    ranks, nodes = world(plan.layout, plan.case.cluster.total), plan.case.cluster.nodes
    return f"Start its {ranks} ranks by" if nodes == 1 else f"Start it on each of {nodes} nodes by"


def world(layout: Layout, gpus: int) -> int:
    """Ranks, of which a server that shares its GPU takes one of its own."""
    if layout.sharing == "none":
        return gpus
    return layout.learner_gpus + sum(one.count for one in layout.servers)


def _group(group: Group, start: int) -> dict[str, Any]:
    ranks = list(range(start, start + group.ranks))
    return {"ranks": ranks, "policies": list(group.policies), "shard": group.shard}


def _own_servers(plan: Plan) -> list[dict[str, Any]]:
    """From the last rank down, so that those of `tp` GPUs lie in one node."""
    case = plan.case
    rank, found = case.cluster.total, []
    for one in reversed(plan.layout.servers):
        for _ in range(one.count):
            rank -= one.tp
            share = mem_fraction(
                case.model.shape, case.model.compute_bytes, case.cluster.memory, one.tp
            )
            found.append(_server(plan, one.policy, rank, tp=one.tp) | {"mem_fraction": share})
    return found[::-1]


def _shared_servers(plan: Plan, start: int) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """One of each policy on each of the servers' GPUs; they take what is free, up to their caches'
    size, whoever starts first."""
    layout = plan.layout
    first = 0 if layout.sharing == "all" else layout.learner_gpus
    rank, found, gpu_of = start, [], dict[int, int]()
    for gpu in range(first, first + layout.servers[0].count):
        for one in layout.servers:
            found.append(_server(plan, one.policy, rank) | _shared_size(one))
            if gpu != rank:
                gpu_of[rank] = gpu
            rank += 1
    return found, gpu_of


def _light_servers(plan: Plan, start: int) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The busiest policy's servers on GPUs of their own, then all others on the last GPU."""
    case = plan.case
    *light, heavy = plan.layout.servers
    share = mem_fraction(case.model.shape, case.model.compute_bytes, case.cluster.memory)
    last = start + heavy.count
    found = [
        _server(plan, heavy.policy, rank) | {"mem_fraction": share} for rank in range(start, last)
    ]
    found += [
        _server(plan, one.policy, last + i) | _shared_size(one) for i, one in enumerate(light)
    ]
    return found, {last + i: last for i in range(1, len(light))}


def _shared_size(one: Servers) -> dict[str, Any]:
    """What is free when it starts depends on the others; its cache's size does not."""
    return {"mem_fraction": 0.9, "cache_tokens": one.memory.tokens}


def _server(plan: Plan, policy: str, rank: int, *, tp: int = 1) -> dict[str, Any]:
    servers = next(one for one in plan.layout.servers if one.policy == policy)
    # What its cache holds: games begin together, and then offer more than on average.
    running = max(8, service(plan.case, servers).held)
    longest = plan.case.config.layout.servers[0].context_length
    return {
        "rank": rank,
        "policies": [policy],
        "kind": "sglang",
        "port": FIRST_PORT + rank,
        "tp": tp,
        "context_length": longest,
        "max_running": -(-running // 8) * 8,
    }


def _comment(plan: Plan, command: str) -> str:
    case = plan.case
    lines = [
        f"{case.recipe} with {case.model.name} on {case.cluster.text}. Written by",
        f"  {command}",
        f"{_NOT_RUN} Expected by the assumptions that this command prints, none measured on a GPU: "
        f"{plan.games_per_hour:.0f} games and {plan.steps_per_hour:.1f} steps an hour; bottleneck: "
        f"{plan.bottleneck}.",
        f"{plan.layout.text}; {plan.layout.training.text}.",
        f"{needs(plan)}.",
        *([_folder_words()] if plan.via_disk else []),
        *([f"It fits, but {case.model.caveat}."] if case.model.caveat else []),
        *(["LoRA needs pip install -e '.[lora]'."] if plan.layout.training.lora else []),
        start_words(plan),
        f"  {start_line(plan, 'THIS_FILE')}",
    ]
    return "".join(
        f"# {part}\n"
        for line in lines
        for part in ([line] if line.startswith("  ") else textwrap.wrap(line, 96))
    )


def _folder_words() -> str:
    return f"Weights go through {WEIGHTS_FOLDER}: a container's /dev/shm has to have that size."
