"""Rewards and their terms over a run."""

from html import escape

from launch.charts import line_chart
from launch.sections.run import Run, in_order
from launch.sections.tables import grid

SMOOTH = 10
Series = dict[str, list[tuple[float, float]]]


def rewards(run: Run) -> str:
    """Every term that was ever charged or paid, by stream; the silent ones in a sentence."""
    by_policy: Series = {}
    for row in run.of_kind("step"):
        if row.get("reward") is not None and not row.get("skipped"):
            by_policy.setdefault(row["policy"], []).append((row["step"], row["reward"]))
    charts = [line_chart("Mean reward of the trained batch", by_policy, smooth=SMOOTH)]
    rolling = over_time(run)
    silent: list[str] = []
    for stream in dict.fromkeys(name.partition("/")[0] for name in rolling):
        terms = {
            name.removeprefix(f"{stream}/term/"): points
            for name, points in rolling.items()
            if name.startswith(f"{stream}/term/")
        }
        heard = {name: points for name, points in terms.items() if any(y for _, y in points)}
        silent += [f"{stream} {name}" for name in terms if name not in heard]
        charts.append(line_chart(f"{stream}: terms of the reward", heard, x_label="minutes"))
    charts.append(
        line_chart("Signs, by the truth of the scenes", _signs(run), x_label="minutes"),
    )
    for key, title in (
        ("reward", "Mean reward of all groups, dropped ones too"),
        ("tokens", "Tokens of a reply"),
        ("truncated", "Share of replies that were cut off"),
        ("extra/share", "Share of the votes that agree with the majority"),
        ("extra/leak_rate", "Share of drawings that print the answer of the hard question"),
    ):
        charts.append(line_chart(title, pick(rolling, key), x_label="minutes"))
    note = f"Terms that were 0 throughout: {', '.join(silent)}." if silent else ""
    return grid(charts) + (f'<p class="dim">{escape(note)}</p>' if note else "")


def over_time(run: Run) -> Series:
    """{stream/measure: [(minutes since the start, value)]} of the rolling means."""
    rows = run.of_kind("groups")
    series: Series = {}
    for row in rows:
        minutes = (row["t"] - rows[0]["t"]) / 60
        for stream, means in row.get("streams", {}).items():
            for name, value in means.items():
                if value is not None:
                    series.setdefault(f"{stream}/{name}", []).append((minutes, value))
    streams = in_order({name.partition("/")[0] for name in series})
    return {
        name: series[name] for stream in streams for name in series if name.startswith(f"{stream}/")
    }


def pick(rolling: Series, measure: str) -> Series:
    """{stream: points} of one measure of `over_time`."""
    return {
        name.removesuffix(f"/{measure}"): points
        for name, points in rolling.items()
        if name.partition("/")[2] == measure
    }


def _signs(run: Run) -> Series:
    rows = run.of_kind("groups")
    signs: Series = {}
    for row in rows:
        for name, value in row.get("signs", {}).items():
            if value is not None:
                signs.setdefault(name, []).append(((row["t"] - rows[0]["t"]) / 60, value))
    return signs
