"""A layout that fits, with what to expect of it; and all that a search found."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from engine.learner.activations import adapter_params
from engine.learner.memory import CHECKPOINTS, MemoryEstimate
from launch.planning.case import Case
from launch.planning.layouts import LORA_RANK, Layout, Servers, placed
from launch.planning.rates import (
    SERVERS,
    SHARED,
    engine_processes,
    loads,
    render_workers,
    servers_of,
)

VERSIONS = 2
"""Of a policy, in a folder that weights go through: `engine.weight_files.KEPT`, without torch."""
_STATE_BYTES = 12
"""Of a parameter that trains, in a checkpoint: its master and Adam's moments."""


@dataclass(frozen=True)
class Plan:
    """One layout that fits, and what to expect of it."""

    case: Case
    layout: Layout
    learners: tuple[MemoryEstimate, ...]
    """Of each group, on the host of its rank 0: on no other does it hold more."""

    @cached_property
    def loads(self) -> dict[str, float]:
        """{resource: seconds of it per game}, the busiest first."""
        return loads(self.case, self.layout)

    @cached_property
    def games_per_hour(self) -> float:
        return 3600 / max(self.loads.values())

    @property
    def engine_processes(self) -> int:
        """That play games."""
        return engine_processes(self.case, self.layout, self.games_per_hour / 3600)

    @property
    def render_workers(self) -> int:
        """Of each."""
        number = self.engine_processes
        return render_workers(self.case, self.games_per_hour / 3600 / number)

    @property
    def steps_per_hour(self) -> float:
        """Of each policy."""
        return self.games_per_hour / self.case.games_per_step

    @property
    def bottleneck(self) -> str:
        return next(iter(self.loads))

    @property
    def limiting_servers(self) -> tuple[Servers, ...]:
        """Those that have to do with the bottleneck."""
        servers = self.layout.servers
        if self.bottleneck == SHARED:
            return servers
        if self.bottleneck == SERVERS:
            return servers[:-1] if self.layout.sharing == "light" else servers
        return tuple(one for one in servers if self.bottleneck == servers_of(one.policy))

    @property
    def busy(self) -> dict[str, float]:
        """{resource: share of the time that it works}."""
        most = max(self.loads.values())
        return {name: load / most for name, load in self.loads.items()}

    @property
    def device_bytes(self) -> float:
        """Of the fullest learner's GPU, without servers that share it."""
        return max(estimate.device_bytes for estimate in self.learners)

    @property
    def host_bytes(self) -> float:
        """Of the fullest node: all groups there together, and weights that lie in its memory."""
        return self._of_fullest_node(lambda estimate: estimate.host_bytes) + self.folder_bytes

    @property
    def via_disk(self) -> bool:
        """Whether weights go through a folder, which lies in memory. There is one node then."""
        return self.layout.sharing == "all"

    @property
    def folder_bytes(self) -> float:
        """Of that folder: some versions of each policy, and the one that is being written; learners
        publish one after the other."""
        case = self.case
        written = VERSIONS * len(case.policies) + 1
        return written * case.model.weight_bytes if self.via_disk else 0.0

    @property
    def num_checkpoints(self) -> int:
        """Of each policy, at most: those that are kept, and the one that is being written."""
        return self.case.config.run.keep_checkpoints + 1

    @property
    def disk_bytes(self) -> float:
        """Of the checkpoints of all policies, by all nodes."""
        shape = self.case.model.shape
        is_lora = self.layout.training.lora
        trained = adapter_params(shape, LORA_RANK) if is_lora else shape.params
        one = _STATE_BYTES * trained + self.case.model.weight_bytes
        return self.num_checkpoints * len(self.case.policies) * one

    @property
    def checkpoint_bytes(self) -> float:
        """That the fullest node writes when all policies are saved."""
        return self._of_fullest_node(lambda estimate: estimate.host["training"][CHECKPOINTS])

    def _of_fullest_node(self, size: Callable[[MemoryEstimate], float]) -> float:
        """Groups lie in one node or fill several (`search`): on a node that is not the first of its
        group no other one is, and it holds no more than the first."""
        nodes: dict[int, float] = {}
        estimates = dict(zip(self.layout.groups, self.learners, strict=True))
        for group, start in placed(self.layout.groups):
            node = start // self.case.cluster.gpus
            nodes[node] = nodes.get(node, 0.0) + size(estimates[group])
        return max(nodes.values())


@dataclass
class Found:
    """The outcome of a search."""

    plans: list[Plan] = field(default_factory=list)
    """Those that fit, fastest first."""
    refused: dict[str, str] = field(default_factory=dict)
    """{what was tried: why none of it fits}, each with the nearest miss."""
    _misses: dict[str, float] = field(default_factory=dict)

    def refuse(self, what: str, missing: float, why: str) -> None:
        """Note that `what` lacks `missing` bytes; only the nearest miss is kept."""
        if missing < self._misses.get(what, float("inf")):
            self._misses[what], self.refused[what] = missing, why

    def forget_what_fits(self) -> None:
        """What fits in some way was not refused."""
        for plan in self.plans:
            for what in (text := plan.layout.training.text, f"{text}, where GPUs have room"):
                self.refused.pop(what, None)
