"""YAML plus `a.b=value` overrides -> frozen pydantic models; and the engine's own sections.

Nothing is mutated after loading, and no validator writes into another section. Unknown keys are
refused with the nearest valid key named. No torch here: `--help` is instant.
"""

import difflib
import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.errors import ConfigError

C = TypeVar("C", bound=BaseModel)

SAVE_SHARE = 0.4
"""Of `run.stop_s`: waiting for checkpoints that are being written, and once more for the last ones,
before the engine is told that a learner group stops."""


def stopped_s(stop_s: float) -> float:
    """How long learner groups may take to stop, of `run.stop_s`; the rest is for the step under
    way, and for the engine's summary."""
    return 2 * SAVE_SHARE * stop_s


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunConfig(Section):
    name: str = Field("quickstart", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Folder below `root`."""
    root: Path = Path("runs")
    seed: int = Field(0, ge=0)
    steps: int = Field(120, ge=1)
    """Optimiser steps of every policy; the run ends when all have made them."""
    checkpoint_every: int = Field(20, ge=1)
    """Steps of a policy between two of its checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    max_restarts: int = Field(3, ge=0)
    """How often all ranks begin again, in the life of one command, after one or the engine has
    died; then it ends, and --resume goes on. Servers and render workers are not counted."""
    stop_s: float = Field(240.0, gt=0)
    """What an interrupt may take: the step under way, checkpoints, the summary; no longer than they
    need. torchrun by hand kills after 30 s, unless its `--shutdown-timeout` says more than this."""


class ModelConfig(Section):
    base: Path
    """A Hugging Face model folder: the weights that every policy starts from. They are published
    in its dtype; learners keep fp32 masters in any case."""


class LearnerGroupConfig(Section):
    ranks: tuple[int, ...] = Field(min_length=1)
    policies: tuple[str, ...] = Field(min_length=1)
    shard: int | None = Field(None, ge=1)
    """Ranks over which one copy of the weights is sharded (FSDP2); None: all. Fewer, e.g. those of
    one node, and copies are replicated beyond (HSDP): less traffic between nodes."""

    @model_validator(mode="after")
    def _ranks_are_whole_copies(self) -> "LearnerGroupConfig":
        if self.shard is not None and len(self.ranks) % self.shard:
            raise ValueError(f"shard {self.shard}: want a divisor of {len(self.ranks)} ranks")
        return self


class ServerHostConfig(Section):
    rank: int = Field(ge=0)
    """The rank that starts and supervises these servers."""
    policies: tuple[str, ...] = Field(min_length=1)
    """One port each; the embedded server serves all of them from one process. The names of
    followers (`engine.layout.Follower`) stand here too."""
    kind: Literal["embedded", "sglang"] = "embedded"
    port: int = Field(0, ge=0, le=65535)
    """Of the first policy, the others follow; 0: free ports are chosen."""
    advertise: str | None = Field(None, pattern=r"^[^:/]+:[0-9]+$")
    """HOST:PORT under which others reach the first policy, the next ports the others; None: as
    it listens, on loopback or at its node's address (`engine.nodes`). For what stands in between: a
    container's port mapping, NAT, a proxy."""
    tp: int = Field(1, ge=1)
    python: Path | None = None
    """Interpreter of the servers, where they have an environment of their own; its torch must be of
    the learner's major.minor version. None: the same one."""
    context_length: int = Field(512, ge=64)
    max_running: int = Field(256, ge=1)
    mem_fraction: float | None = Field(None, gt=0, lt=1)
    """SGLang: share of the GPU's memory for weights and cache; None: its own choice. It counts
    what is free when the server starts."""
    cache_tokens: int | None = Field(None, ge=1)
    """SGLang: tokens that its cache holds at most; None: all that `mem_fraction` leaves. Servers
    that share a GPU need it: what is free there depends on who started first."""
    deterministic: bool = False
    """SGLang on GPUs: the same tokens whatever else is in the batch; slower."""
    extra_args: tuple[str, ...] = ()
    """Passed on to the server's command line."""


class BranchConfig(Section):
    """A branch of the engine (`engine.branches`): a process that plays games."""

    rank: int = Field(ge=0)
    """The rank that starts it, beside its own job: best one of the node of its servers."""
    servers: tuple[int, ...] = Field(min_length=1)
    """Ranks of the server hosts that its games ask, and nobody else's games."""


class LayoutConfig(Section):
    device: Literal["cpu", "cuda"] = "cpu"
    backend: Literal["gloo", "nccl"] = "gloo"
    learners: tuple[LearnerGroupConfig, ...] = Field(min_length=1)
    servers: tuple[ServerHostConfig, ...] = Field(min_length=1)
    policies: Mapping[str, str] = {}
    """{stream: the policy that it trains and that plays it}, where that is not the recipe's own
    choice: {solver: shared, coder: shared} gives two roles one set of weights."""
    routers: Mapping[str, Annotated[str, Field(pattern=r"^[^:/]+:[0-9]+$")]] = {}
    """{policy or follower: HOST:PORT}: its requests go to SGLang's own router, which the first of
    its server hosts starts at this address, one of its node; without one the engine chooses the
    server. For many servers; `engine/servers/router.py` says what it lacks."""
    branches: tuple[BranchConfig, ...] = ()
    """One for each node, where one engine process can't ask all servers: each plays games with
    servers of its own, and all feed the same learners. None: the engine plays the games itself."""
    gpu_of: Mapping[int, Annotated[int, Field(ge=0)]] = {}
    """{rank: its GPU}, where ranks share one; the others have the GPU of their local rank. On one
    node. A learner and its servers on one GPU need `weights.via: disk`: NCCL refuses two of its
    ranks there."""
    device_memory_gb: float | None = Field(None, gt=0)
    """Of one learner's GPU, in 10^9 bytes: what would not fit is refused before anything starts.
    None: CUDA ranks find out when they begin."""
    host_memory_gb: float | None = Field(None, gt=0)
    """Of a node with learners, as far as they may have it; None: not checked."""


class StreamsConfig(Section):
    schedule: Literal["streaming", "sequential"] = "streaming"
    """sequential: the papers' phases. One role trains for `phase_steps`, by data that is gathered
    before, while the others are frozen; everything waits for everything (ages are 0)."""
    phase_steps: int = Field(20, ge=1)
    """Of a phase of the sequential schedule. Data is gathered for so many also where run.steps
    ends a phase early, so let it divide run.steps where schedules are compared."""
    games_per_step: int = Field(4, ge=1)
    """A step of a policy takes the groups of this many games, of each recipe that feeds it."""
    games_of: Mapping[str, Annotated[int, Field(ge=1)]] = {}
    """{recipe: its games per step}, where several are played and that is another number."""
    max_age: int = Field(4, ge=0)
    """Largest age, in steps, of the oldest token in a batch; 0 is synchronous."""
    max_judge_age: int | None = Field(None, ge=0)
    """The same for the policies that judged a group; None: shown, not bounded."""
    min_groups: int = Field(1, ge=1)
    """A step takes more games until it has this many groups."""
    too_old: Literal["wait", "drop"] = "wait"
    """What a step does about an unfinished game that would be too old at the next step."""
    game_deadline_s: float = Field(300.0, gt=0)

    @property
    def age_bound(self) -> int:
        """The largest age that the schedule allows."""
        return 0 if self.schedule == "sequential" else self.max_age


class WeightsConfig(Section):
    via: Literal["broadcast", "disk"] = "broadcast"
    """Through a process group with each server, or a folder that servers read: for servers that
    no process group reaches."""
    folder: Path | None = None
    """Where `disk` writes, in a folder of the run's, under the same path for learners and servers;
    None: the run's own. One on a tmpfs (/dev/shm) is the fastest. It holds two versions of each
    policy, and nothing any more when an attempt ends; after a kill, when the next one begins."""
    bucket_mb: float = Field(256.0, gt=0)
    """Of a broadcast. A publication takes two buckets of memory, of this size or of the largest
    tensor."""
    pause: Literal["retract", "in_place", "abort", "drain"] = "retract"
    """What becomes of requests in flight at an update. retract: their prompt and tokens are
    computed anew by the new weights. in_place: they go on with the old weights' keys and values.
    abort: they end, and are asked again by what they had. drain: the update waits for their end."""
    timeout_s: float = Field(60.0, gt=0)
    """Of every single call to a server, and of its broadcast."""
    stall_s: float = Field(10.0, gt=0)
    """A server that is so far behind the first one in a publication is given up, and filled later;
    the others wait no longer for it. With `drain` it is timeout_s that counts."""
    probe_tolerance: float | None = Field(None, gt=0)
    """Largest difference of log-probs, in nats, between learner and server after a publication;
    None: .01 for a float32 model, .5 for one in bfloat16."""
    checksum_every: int = Field(20, ge=0)
    """Publications between two comparisons of checksums; 0: only a server's first."""
    overlap: bool = False
    """Send a copy of the weights in host memory by a thread of rank 0 while the next batch trains;
    else training waits until the servers have them, to each of which one of the ranks sends."""


def load(cls: type[C], path: Path, overrides: Sequence[str] = ()) -> C:
    """Read YAML, apply `a.b=value` overrides (values are YAML), validate.

    Raises ConfigError (one line) that names the key, the problem and the fix.
    """
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the top level must be a mapping of sections")
    for override in overrides:
        _apply(tree, override)
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(cls, error, path)) from None


def digest(config: BaseModel) -> str:
    """sha256 of the resolved configuration, as hex."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _apply(tree: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    *parents, leaf = dotted.split(".")
    node: Any = tree
    try:
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        if isinstance(node, list):
            node[int(leaf)] = yaml.safe_load(text)
        else:
            node[leaf] = yaml.safe_load(text)
    except (TypeError, ValueError, IndexError, AttributeError):
        raise ConfigError(f"override {override!r}: there is no such place in the config") from None
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from None


def _explain(cls: type[BaseModel], error: ValidationError, path: Path) -> str:
    problems = []
    for item in error.errors():
        loc, beside = _resolved(cls, item["loc"])
        where = ".".join(str(part) for part in loc)
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown key {where!r}; {_hint(cls, loc, beside)}")
        elif item["type"] == "missing":
            problems.append(f"{where!r} is missing")
        else:
            given = item.get("input")
            shown = "" if isinstance(given, dict | BaseModel) else f" is {given!r}"
            problems.append(f"{where!r}{shown}: {item['msg'].removeprefix('Value error, ')}")
    return f"{path}: " + "; ".join(problems)


def _resolved(cls: Any, loc: Sequence[int | str]) -> tuple[tuple[int | str, ...], list[str]]:
    """`loc` without the tags that pydantic puts behind a field that is one of several models; and
    the valid keys of the section in which it lies, of the model that the tag chose."""
    kept: list[int | str] = []
    choices: list[Any] = [cls]
    tags: set[str] = set()
    beside: list[str] = []
    for part in loc:
        if part in tags:
            choices = [model for model in choices if _tag(model) == part]
            tags = set()
            continue
        kept.append(part)
        if isinstance(part, str):
            beside = list(dict.fromkeys(key for model in choices for key in model.model_fields))
            fields = [m.model_fields[part] for m in choices if part in m.model_fields]
            choices = [model for info in fields for model in _models_of(info.annotation)]
            tags = {_tag(model) for model in choices} if len(choices) > 1 else set()
    return tuple(kept), beside


def _tag(model: Any) -> str:
    """What a model is told by among others: the default of its field `name`."""
    info = model.model_fields.get("name")
    return str(info.default) if info else ""


def _hint(cls: type[BaseModel], loc: Sequence[int | str], beside: Sequence[str]) -> str:
    """What a key that does not exist may have meant: its like nearby or elsewhere, or all there."""
    *parents, key = (str(part) for part in loc)
    here = ".".join([*parents, key])  # where another game has such a key, it is no answer
    places = {
        name: paths
        for name, all_ in _places(cls).items()
        if (paths := [p for p in all_ if p != here])
    }
    if near := difflib.get_close_matches(key, beside, n=1, cutoff=0.75):
        return f"did you mean {'.'.join([*parents, near[0]])!r}?"
    # A key in the wrong section, or one that has moved.
    if far := difflib.get_close_matches(key, places, n=1, cutoff=0.75):
        inside = [place for place in places[far[0]] if place.startswith(".".join(parents))]
        return f"did you mean {(inside or places[far[0]])[0]!r}?"
    section = ".".join(parents)
    return f"{section or 'at the top'} has {', '.join(beside)}" if beside else "it has no such part"


def _places(cls: Any, prefix: str = "") -> dict[str, list[str]]:
    """{key: [dotted path]} of all keys in all sections."""
    found: dict[str, list[str]] = {}
    for key, info in cls.model_fields.items():
        found.setdefault(key, []).append(prefix + key)
        for model in _models_of(info.annotation):
            for name, paths in _places(model, f"{prefix}{key}.").items():
                places = found.setdefault(name, [])
                places.extend(path for path in paths if path not in places)
    return found


def _models_of(annotation: Any) -> list[Any]:
    """The sections that a field may hold."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in _models_of(part)]
