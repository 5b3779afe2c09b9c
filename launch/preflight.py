"""What is checked before anything starts. Every failure is one ConfigError line with its fix."""

import importlib.util
import json
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import yaml

from engine.config import LayoutConfig
from engine.errors import ConfigError
from engine.layout import (
    Follower,
    check_layout,
    gpu_of,
    gpu_ranks,
    job_of,
    shared_gpus,
    world_size,
)
from engine.learner.base_model import check_base_model, check_lora, read_json
from engine.learner.costs import ModelShape, model_shape
from engine.learner.memory import CHECKPOINTS, GB, MemoryEstimate, Setup, learner_memory
from engine.learner.memory_check import check_device, check_host, compute_bytes, setup_of
from engine.monitor.sinks import check_sinks
from engine.nodes import LOOPBACK, VISIBLE_GPUS, Node, memory_bytes, visible_gpus
from engine.rundir import RunDir, RunLock
from engine.servers.spec import check_server_host
from evals.data import HUB
from launch.config import RootConfig, followers, policies_of, recipes_of, settings_of, streams_of
from launch.live_evals import is_evaluated
from launch.planning.longest import OF_LENGTH, longest_row_of
from launch.planning.server_memory import beside_bytes, cache_bytes
from render_pool.pool import check_system


def free_name(root: Path, name: str) -> str:
    """The first of name, name-2, name-3, ... that is not a folder of `root`."""
    candidate, number = name, 1
    while (root / candidate).exists():
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def check_before_start(
    config: RootConfig, *, resume: bool, world: int | None = None, node: Node | None = None
) -> None:
    """Raise ConfigError for what would fail later: libraries, model, layout, memory, folder,
    ports. `node`: of the rank that asks; None: there is one node. Ranks on other nodes look for
    themselves."""
    num_nodes = 1 if node is None else node.count
    check_layout(
        config.layout,
        policies_of(config),
        world,
        followers(config),
        num_nodes=num_nodes,
        run=config.run,
    )
    check_gpus(config.layout, node)
    check_sharing(config)
    check_lengths(config)
    for name, recipe in recipes_of(config).items():
        is_measured = config.eval.heldout_items > 0 or config.eval.dev_items > 0
        recipe.check(settings_of(config)[name], is_measured)
    check_system(config.render.backend)
    check_base_model(config.model.base)
    if config.learner.lora is not None:
        check_lora(config.model.base, config.learner.lora)
    check_evals(config)
    check_sinks(config.monitor.sinks)
    check_memory(config, None if node is None else node.local_ranks)
    check_machine(config, node)
    check_run_dir(config, resume=resume)
    if not resume:  # a disk that is full by now costs a checkpoint, not the run
        check_disk(config)
    for i, host in enumerate(config.layout.servers):
        if node is not None and host.rank // node.local_ranks != node.rank:
            continue
        check_server_host(host, config.layout.device, f"layout.servers.{i}")
        for offset in range(len(host.policies) if host.port else 0):
            address = LOOPBACK if node is None else node.address
            _check_port(address, host.port + offset, f"layout.servers.{i}.port")


def check_gpus(layout: LayoutConfig, node: Node | None = None) -> None:
    """Refuse device=cuda without torch's CUDA build, or with fewer GPUs on this node than its
    ranks use. `node`: this one; None: there is one."""
    if layout.device != "cuda":
        return
    torch = metadata.version("torch")  # importing it would take seconds
    if torch.endswith("+cpu"):
        raise ConfigError(
            f"layout.device: cuda, but the torch of {sys.executable} is a CPU build ({torch}); use "
            "the python of .venv-gpu (make venv-gpu makes it)"
        )
    local_ranks = world_size(layout) if node is None else node.local_ranks
    first = 0 if node is None else node.rank * local_ranks
    own = [rank for rank in gpu_ranks(layout) if first <= rank < first + local_ranks]
    needed = max((gpu_of(layout, rank, rank - first) + 1 for rank in own), default=0)
    found = len(visible_gpus())
    if found < needed:
        raise ConfigError(
            f"layout: it needs {needed} GPU{'s' * (needed > 1)} on this node, and {found} "
            f"{'is' if found == 1 else 'are'} visible (by {VISIBLE_GPUS}, or else /dev/nvidia*); "
            "make more visible, or take a layout for what is there (launch/plan.py --gpus)"
        )


def check_lengths(config: RootConfig) -> None:
    """Refuse servers that have no room for a prompt beside the longest reply of their roles."""
    cast = streams_of(config)
    for cfg in settings_of(config).values():
        for role in (*cfg.policies(), *cfg.followers()):
            most = cfg.params(role).max_new_tokens
            for i, host in enumerate(config.layout.servers):
                is_told_else = any(arg.startswith(OF_LENGTH) for arg in host.extra_args)
                if cast.get(role, role) not in host.policies or is_told_else:
                    continue
                if host.context_length <= most:
                    raise ConfigError(
                        f"layout.servers.{i}.context_length: {host.context_length} tokens hold no "
                        f"prompt beside a reply of {role} ({most} in {cfg.name}); raise it, or "
                        "lower that role's max_new_tokens"
                    )


def check_evals(config: RootConfig) -> None:
    """Refuse benchmarks beside play that would find no policy, or no rows."""
    cfg = config.evals
    if not cfg.benchmarks:
        return
    policies = policies_of(config)
    if cfg.policy not in policies:
        raise ConfigError(f"evals.policy: {cfg.policy!r} is none of {', '.join(policies)}")
    if cfg.data == HUB:
        if importlib.util.find_spec("datasets") is None:
            raise ConfigError(
                "evals.data: hub needs a library: pip install -e '.[evals]', or name a folder"
            )
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise ConfigError(
                "evals.data: hub is not reached with HF_HUB_OFFLINE=1, which make and the Slurm "
                "script set: start with HF_HUB_OFFLINE=0, or name a folder"
            )
    elif not Path(cfg.data).is_dir():
        raise ConfigError(f"evals.data: {cfg.data} is no folder of rows, nor hub")


def check_memory(config: RootConfig, local_ranks: int | None = None) -> None:
    """Refuse learners that don't fit into the memory that the layout says there is. `local_ranks`:
    of each node; None: there is one."""
    layout = config.layout
    if layout.device_memory_gb is not None:
        shape = model_shape(config.model.base)
        every: dict[str, MemoryEstimate] = {}
        for where, setup in _setups(config).items():
            check_device(where, shape, setup, layout.device_memory_gb * GB)
            every[where] = learner_memory(shape, setup)
        _check_shared(config, shape, every, layout.device_memory_gb * GB)
    if layout.host_memory_gb is not None:
        for estimates in _estimates(config, local_ranks).values():
            check_host("layout.host_memory_gb", estimates, layout.host_memory_gb * GB)


def check_machine(config: RootConfig, node: Node | None = None) -> None:
    """Refuse learners on CUDA that this node's own memory does not hold, whatever the layout says.
    `node`: this one; None: there is one."""
    if config.layout.device != "cuda":
        return
    local_ranks, here = (None, 0) if node is None else (node.local_ranks, node.rank)
    estimates = _estimates(config, local_ranks).get(here, {})
    if estimates:
        check_host("the memory of this node", estimates, memory_bytes())


def check_disk(config: RootConfig) -> None:
    """Refuse a folder of runs on a disk without room for the checkpoints: those that are kept, and
    one of each policy that is being written."""
    hosts = _estimates(config, None)
    each = sum(one.host["training"][CHECKPOINTS] for one in hosts[0].values())
    needed = each * (config.run.keep_checkpoints + 1)
    place = config.run.root.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ConfigError(
            f"run.root: {place} has {free / GB:.1f} GB free, and checkpoints take "
            f"{needed / GB:.1f} GB ({each / GB:.1f} GB for all policies, run.keep_checkpoints "
            f"{config.run.keep_checkpoints} of each and one being written); make room, choose "
            "another folder, or keep fewer"
        )


def _setups(config: RootConfig) -> dict[str, Setup]:
    """{learner group: what decides about its memory}."""
    pinned = [follower.policy for follower in followers(config).values()]
    return {
        f"layout.learners.{i}": setup_of(
            config.model.base,
            config.learner,
            policies=len(group.policies),
            ranks=len(group.ranks),
            shard=group.shard,
            longest_row=longest_row_of(config, group.policies),
            followers=sum(policy in group.policies for policy in pinned),
            bucket_mb=config.weights.bucket_mb,
            overlap=config.weights.overlap,
        )
        for i, group in enumerate(config.layout.learners)
    }


def _estimates(config: RootConfig, local_ranks: int | None) -> dict[int, dict[str, MemoryEstimate]]:
    """{node: {learner group with ranks there: what they hold}}."""
    shape, hosts = model_shape(config.model.base), dict[int, dict[str, MemoryEstimate]]()
    for group, (where, setup) in zip(config.layout.learners, _setups(config).items(), strict=True):
        for host, here in _by_host(group.ranks, local_ranks).items():
            hosts.setdefault(host, {})[where] = learner_memory(shape, replace(setup, here=here))
    return hosts


def _by_host(ranks: Sequence[int], local_ranks: int | None) -> dict[int, tuple[int, ...]]:
    """{node: the places in a group of those of its `ranks` that are there}."""
    found: dict[int, tuple[int, ...]] = {}
    for place, rank in enumerate(ranks):
        host = 0 if local_ranks is None else rank // local_ranks
        found[host] = (*found.get(host, ()), place)
    return found


def check_sharing(config: RootConfig) -> None:
    """Refuse a learner and its servers on one GPU where weights would go through NCCL."""
    if config.weights.via == "disk":
        return
    named: dict[str, Follower] = followers(config)
    for gpu, ranks in shared_gpus(config.layout).items():
        jobs = [job_of(config.layout, rank) for rank in ranks]
        taught = {policy for job in jobs if job.learner for policy in job.learner.policies}
        taught |= {name for name, follower in named.items() if follower.policy in taught}
        served = {policy for job in jobs if job.server for policy in job.server.policies}
        if served and config.elastic.enabled:
            served |= taught  # the server may be moved to any of them
        if both := sorted(taught & served):
            raise ConfigError(
                f"layout.gpu_of: learner and server of {both[0]!r} share GPU {gpu}, and NCCL "
                "refuses two of its ranks on one GPU; set weights.via=disk"
            )


def _check_shared(
    config: RootConfig, shape: ModelShape, learners: Mapping[str, MemoryEstimate], available: float
) -> None:
    """Refuse GPUs whose learners and SGLang servers do not fit side by side."""
    layout = config.layout
    number = compute_bytes(read_json(config.model.base / "config.json"))
    for gpu, ranks in shared_gpus(layout).items():
        parts: dict[str, float] = {}
        for rank in ranks:
            job = job_of(layout, rank)
            if job.learner is not None:
                where = f"layout.learners.{layout.learners.index(job.learner)}"
                parts[where] = learners[where].device_bytes
            elif job.server is not None:
                cache = cache_bytes(shape, number) * (job.server.cache_tokens or 0)
                size = number * shape.params + beside_bytes(shape, number) + cache
                parts[f"layout.servers.{layout.servers.index(job.server)}"] = size
        if (needed := sum(parts.values())) > available:
            each = ", ".join(f"{where} {size / GB:.1f}" for where, size in parts.items())
            raise ConfigError(
                f"layout.gpu_of: GPU {gpu} would hold {needed / GB:.1f} GB of "
                f"{available / GB:.1f}: {each}; lower cache_tokens, or share less"
            )


def check_run_dir(config: RootConfig, *, resume: bool) -> None:
    """Refuse a folder in use, one that exists where none is resumed, and none where one is."""
    run = RunDir(config.run.root / config.run.name)
    if not run.path.exists():
        if resume:
            raise ConfigError(
                f"run.name: there is no run {run.path} to resume; start it without --resume"
            )
        return
    if not run.path.is_dir():
        raise ConfigError(f"run.name: {run.path} is not a folder; choose another run.name")
    RunLock(run).release()
    if not resume and run.config.exists():
        raise ConfigError(
            f"run.name: {run.path} exists; continue it with --resume or choose another run.name"
        )


def finished(config: RootConfig, run: RunDir) -> dict[str, Any] | None:
    """The summary of a run that has made all the steps that are asked for; else None."""
    try:
        summary: dict[str, Any] = json.loads(run.summary.read_text())
        is_done = all(step >= config.run.steps for step in summary["steps"].values())
        is_measured = bool(summary["heldout"]["delta"]) or config.eval.heldout_items == 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    is_whole = is_done and is_measured and is_evaluated(config.evals, run, config.run.steps)
    return summary if is_whole and summary["steps"] else None


def changes(config: RootConfig, run: RunDir) -> list[str]:
    """Settings in which `config` differs from the one saved with the run, one line each."""
    try:
        saved = yaml.safe_load(run.config.read_text())
    except (OSError, yaml.YAMLError):
        return []
    old, new = _leaves(saved), _leaves(config.model_dump(mode="json"))
    return [
        f"{key} is {new.get(key)!r}, was {old.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _leaves(value, f"{path}.{key}" if path else str(key))
    return found


def write_config(config: RootConfig, run: RunDir) -> None:
    """Save the resolved configuration with the run."""
    temporary = run.config.with_suffix(".tmp")
    temporary.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    temporary.replace(run.config)


def _check_port(address: str, port: int, where: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            raise ConfigError(
                f"{where}: port {port} is in use; choose another, or 0 for a free one"
            ) from None
