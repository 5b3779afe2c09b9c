"""Outcomes as text."""

from collections.abc import Mapping

from launch.simulation.outcome import Outcome

Results = Mapping[tuple[int, str], Outcome]
"""{(GPUs, schedule): what came of it}; GPUs are ranks where there are none."""

_COLUMNS = (
    "GPUs", "schedule", "games/h", "groups/h", "steps/h", "servers", "learners", "render",
    "engine", "age", "oldest", "gen/train", "wasted",
)  # fmt: off


def table(results: Results) -> str:
    """One line each; shares are of the time."""
    rows = [_COLUMNS, *(_row(gpus, name, one) for (gpus, name), one in results.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _row(gpus: int, schedule: str, one: Outcome) -> tuple[str, ...]:
    return (
        str(gpus),
        schedule,
        f"{one.games_per_h:,.0f}",
        f"{one.groups_per_h:,.0f}",
        f"{one.steps_per_h:,.1f}",
        *(f"{one.busy_of(kind):.0%}" for kind in ("server", "learner", "render", "engine")),
        f"{one.mean_age:.2f}",
        str(one.max_age),
        f"{one.generated_per_trained:.2f}",
        f"{one.wasted:.1%}",
    )


def details(one: Outcome) -> str:
    """Every part, and the ages of every stream."""
    lines = [f"  {part:<28}{share:5.0%}" for part, share in one.busy.items()]
    for stream, ages in one.ages.items():
        total = sum(ages.values())
        shares = "  ".join(f"{age}: {ages[age] / total:.0%}" for age in sorted(ages))
        lines.append(f"  ages of {stream:<20}{shares}")
    return "\n".join(lines)
