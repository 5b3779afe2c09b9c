"""Cases for the planner's tests."""

from typing import Any

from engine.learner.memory import GB
from launch.planning.assumptions import Assumptions
from launch.planning.case import Case, make_case
from launch.planning.devices import DEVICES, Cluster
from launch.planning.models import find_model


def case_of(
    model: str = "Qwen3-VL-8B",
    *,
    gpus: int = 8,
    memory: float = 80,
    nodes: int = 1,
    host: float = 1000,
    recipe: str = "mm_zero",
    device: str = "H100",
    **rest: Any,
) -> Case:
    """A case on GPUs of `memory` GB."""
    cluster = Cluster(
        device=DEVICES[device],
        gpus=gpus,
        nodes=nodes,
        memory=memory * GB,
        host_memory=host * GB,
    )
    return make_case(find_model(model), cluster, recipe, Assumptions(), **rest)
