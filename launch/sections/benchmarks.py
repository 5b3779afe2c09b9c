"""The curves of the benchmarks that were evaluated while the run went on."""

from collections.abc import Mapping, Sequence

from evals.intervals import Interval
from evals.report.curves import Curve, chart
from evals.report.tables import between, overall_name, percent
from launch.live_evals import RECORD
from launch.sections.run import Record, Run
from launch.sections.tables import grid, table


def benchmarks(run: Run) -> str:
    """A chart for each benchmark and each mean over them; empty where none was evaluated."""
    points: dict[int, Record] = {}
    for row in run.of_kind(RECORD):
        # A restart threw away the weights of what was later than this.
        points = {step: old for step, old in points.items() if step < row["step"]}
        points[row["step"]] = row
    if not points:
        return ""
    ordered = [points[step] for step in sorted(points)]
    curves = _curves(ordered)
    charts = [chart(title, curve) for title, curve in curves.items()]
    head = ["", *(_between(point) for point in ordered)]
    rows = []
    for title, curve in curves.items():
        found = dict(curve)
        steps = [point["step"] for point in ordered]
        rows.append([title, *(_cell(found[step]) if step in found else "" for step in steps)])
    if any(missing := [point["missing"] for point in ordered]):
        rows.append(["rows without an answer", *map(str, missing)])
    caption = (
        f"Percent, with intervals of 95 %, by steps of the {ordered[-1]['policy']}; the dashed "
        "line is the first point. Reports with every row: evals/step-N in the run's folder."
    )
    return grid(charts) + table(head, rows, caption)


def _curves(points: Sequence[Record]) -> dict[str, Curve]:
    """{title: curve}. A mean is there only at points with all benchmarks."""
    most = {name for point in points for name in point["scores"]}
    curves: dict[str, list[tuple[int, Interval]]] = {}
    for point in points:
        if point["scores"].keys() == most:
            for name, mean in point["overall"].items():
                title = overall_name(name, len(most))
                curves.setdefault(title, []).append((point["step"], _interval(mean)))
    for point in points:
        for score in point["scores"].values():
            curves.setdefault(score["title"], []).append((point["step"], _interval(score)))
    return dict(curves)


def _interval(told: Mapping[str, float]) -> Interval:
    return Interval(told["estimate"], told["low"], told["high"], 0.0, "bootstrap")


def _between(point: Record) -> str:
    """The steps of the weights that answered: of servers that play, they went on meanwhile."""
    first, last = point["step"], point["to_step"]
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _cell(score: Interval) -> str:
    return f"{percent(score.estimate)} {between(score)}"
