"""Outcomes over the number of GPUs, as an SVG file."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from launch.panels import Panel, chart
from launch.simulation.outcome import Outcome
from launch.simulation.table import Results

_MEASURES: Mapping[str, Callable[[Outcome, int], float]] = MappingProxyType(
    {
        "Groups trained per GPU and hour": lambda one, gpus: one.groups_per_h / gpus,
        "Servers busy, share of the time": lambda one, _: one.busy_of("server"),
        "Mean age of what is trained, steps": lambda one, _: one.mean_age,
        "Tokens generated per trained one": lambda one, _: one.generated_per_trained,
    }
)


def figure(results: Results) -> str:
    """A panel for each measure, with a line for each schedule."""
    panels = []
    for title, measure in _MEASURES.items():
        lines: dict[str, dict[int, list[float]]] = {}
        for (gpus, name), one in results.items():
            lines.setdefault(name, {})[gpus] = [measure(one, gpus)]
        panels.append(Panel(title, lines))
    return chart(panels, "GPUs")
