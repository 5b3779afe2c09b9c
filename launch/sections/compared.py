"""The sections of a comparison: functions from sides to HTML. The first side is the reference."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from engine.monitor.snapshot import age_stats, stages
from engine.summary import busy_fractions
from launch.charts import Points, interval_chart, line_chart
from launch.live_evals import RECORD
from launch.recipe import UNNAMED
from launch.sections.measures import HONESTY, MEASURES
from launch.sections.notes import notes
from launch.sections.run import Run, in_order
from launch.sections.sides import Side, by_minute, curves, mean, spread, values_of
from launch.sections.tables import cells, grid, reasons, share, table

SMOOTH = 10
UNTOLD = ("run.name",)
"""Keys of the configuration that differ of necessity."""
ABSENT = "–"


def head(sides: Sequence[Side]) -> str:
    rows = [
        (title, *(spread(values_of(side, measure), form) for side in sides))
        for title, measure, form in _facts()
    ]
    named = [("runs", *(", ".join(run.name for run in side.runs) for side in sides))]
    has_groups = any(len(side.runs) > 1 for side in sides)
    ended = [all(run.summary is not None for run in side.runs) for side in sides]
    state = [("state", *("ended" if yes else "no summary yet" for yes in ended))]
    more = [*(named if has_groups else []), *([] if all(ended) else state)]
    caption = "Of several runs: mean [least, most]." if has_groups else ""
    return _wide(table(("", *_names(sides)), [*more, *rows], caption))


def _facts() -> list[tuple[str, Callable[[Run], float | None], Callable[[float], str]]]:
    def whole(value: float) -> str:
        return f"{value:,.0f}"

    def counter(name: str) -> Callable[[Run], float | None]:
        return lambda run: run.buffer.counters().get(name)

    return [
        ("seed", _seed, whole),
        ("steps of each policy", _steps, whole),
        ("wall time, min", lambda run: _over(_wall_s(run), 60.0), lambda v: f"{v:.1f}"),
        ("attempts", counter("attempts"), whole),
        ("games finished", lambda run: run.buffer.counts()["games"]["finished"], whole),
        ("tokens generated", lambda run: _tokens(run, "generated"), whole),
        ("tokens trained on", lambda run: _tokens(run, "trained"), whole),
        (
            "generated per trained",
            lambda run: _over(_tokens(run, "generated"), _tokens(run, "trained")),
            lambda value: f"{value:.2f}",
        ),
        (
            "steps per hour",
            lambda run: _over(3600.0 * (_steps(run) or 0.0), _wall_s(run)),
            lambda value: f"{value:.1f}",
        ),
    ]


def config(sides: Sequence[Side]) -> str:
    """The keys that differ, between sides or within one."""
    configs = [own for side in sides for own in side.configs if own]
    if len(configs) < 2:
        return '<p class="dim">Fewer than two of the runs have a config.yaml.</p>'
    keys = sorted({key for own in configs for key in own if key not in UNTOLD})
    rows = []
    for key in keys:
        if len({_shown(own, key) for own in configs}) > 1:
            shown = (
                ", ".join(dict.fromkeys(_shown(own, key) for own in side.configs if own))
                for side in sides
            )
            rows.append((key, *shown))
    if not rows:
        return '<p class="dim">No key differs.</p>'
    return _wide(table(("key", *_names(sides)), rows))


def _shown(own: Mapping[str, Any], key: str) -> str:
    if key not in own:
        return ABSENT
    value = own[key]
    return value if isinstance(value, str) else json.dumps(value, default=str)


def heldout(sides: Sequence[Side]) -> str:
    """Both tables, and the changes as a picture."""
    found = [_measures(sides, MEASURES), _measures(sides, HONESTY)]
    if not any(found):
        return "<p>Not measured (yet).</p>"
    first = escape(sides[0].name)
    text = (
        "The interval of a run is of its own change, over items of the test, at 95 %; it does not "
        "hold what another seed would change. "
        f"<b>overlap</b>: the intervals of this row and of {first} overlap, so this comparison is "
        "no evidence of a difference (nor that there is none). <b>apart</b>: they do not."
    )
    if any(len(side.runs) > 1 for side in sides):
        text += (
            " Of several runs, the range from the least to the most change stands in place of the "
            "interval; that ranges of few runs are apart says little."
        )
    charts = [
        interval_chart(title, {side.name: _range(side, n) for side in sides})
        for n, title in MEASURES.items()
    ]
    more = ""
    if found[1]:
        more = f"<details><summary>Where a gain comes from</summary>{found[1]}</details>"
    return f'<p class="dim">{text}</p>{found[0]}{grid(charts)}{more}'


def _measures(sides: Sequence[Side], names: Mapping[str, str]) -> str:
    rows = ""
    for name, title in names.items():
        ranges = [_range(side, name) for side in sides]
        own = ""
        for number, (side, range_) in enumerate(zip(sides, ranges, strict=True)):
            before, after = (values_of(side, _heldout(when, name)) for when in ("before", "after"))
            if not before and not after:
                continue
            kind = "" if range_ is None else _direction(range_[0], range_[2])
            change = "" if range_ is None else f"{range_[1]:+.3f}"
            interval = "" if range_ is None else f"{range_[0]:+.3f} .. {range_[2]:+.3f}"
            against = "" if number == 0 else _difference(ranges[0], range_)
            own += (
                f"<tr>{cells([side.name, _decimal(mean(before)), _decimal(mean(after))])}"
                f'<td class="{kind}">{change}</td>{cells([interval, against])}</tr>'
            )
        if own:
            rows += f'<tr class="role"><td colspan="6">{escape(title)}</td></tr>{own}'
    if not rows:
        return ""
    between = "range or 95 %" if any(len(side.runs) > 1 for side in sides) else "95 %"
    titles = ("", "before", "after", "change", between, f"against {sides[0].name}")
    top = "".join(f"<th>{escape(one)}</th>" for one in titles)
    return _wide(f'<table class="sides"><tr>{top}</tr>{rows}</table>')


def _difference(
    first: tuple[float, float, float] | None, own: tuple[float, float, float] | None
) -> str:
    if first is None or own is None:
        return ""
    is_apart = own[0] > first[2] or own[2] < first[0]
    return f"{own[1] - first[1]:+.3f} {'apart' if is_apart else 'overlap'}"


def _range(side: Side, name: str) -> tuple[float, float, float] | None:
    """(low, change, high): the interval of one run, the range of several."""
    changes = values_of(side, _heldout("delta", name))
    if not changes:
        return None
    if len(side.runs) > 1:
        return min(changes), sum(changes) / len(changes), max(changes)
    interval = _heldout_of(side.runs[0]).get("ci95", {}).get(name)
    return None if interval is None else (interval[0], changes[0], interval[1])


def learning(sides: Sequence[Side]) -> str:
    policies = in_order({row["policy"] for run in _runs(sides) for row in run.of_kind("step")})
    rewards = [
        line_chart(f"{policy}: mean reward of the batch", curves(sides, _reward(policy)),
                   smooth=SMOOTH)
        for policy in policies
    ]  # fmt: skip
    found = {
        name for run in _runs(sides) for row in run.of_kind("dev") for name in row.get("means", {})
    }
    main = [line_chart(f"{name} (dev set)", curves(sides, _dev(name))) for name in MEASURES
            if name in found]  # fmt: skip
    others = [line_chart(f"{name} (dev set)", curves(sides, _dev(name)))
              for name in sorted(found - set(MEASURES))]  # fmt: skip
    folded = ""
    if others:
        folded = f"<details><summary>More of the dev set</summary>{grid(others)}</details>"
    titles = dict.fromkeys(
        title for run in _runs(sides) for row in run.of_kind(RECORD) for title in _scores(row)
    )
    benchmarks = [line_chart(title, curves(sides, _benchmark(title))) for title in titles]
    return grid([*rewards, *main, *benchmarks]) + folded


def throughput(sides: Sequence[Side]) -> str:
    def rate(value: float) -> str:
        return f"{value:,.0f}"

    def percent(value: float) -> str:
        return f"{value:.0%}"

    def age(value: float) -> str:
        return f"{value:.2f}"

    rows: list[tuple[str, ...]] = [
        (f"tokens {kind} per second",
         *(spread(values_of(side, _rate(kind)), rate) for side in sides))
        for kind in ("generated", "trained")
    ]  # fmt: skip
    parts = dict.fromkeys(p for run in _runs(sides) for p in busy_fractions(run.buffer.counters()))
    rows += [
        (f"busy: {part}", *(spread(values_of(side, _busy(part)), percent) for side in sides))
        for part in sorted(parts)
    ]
    for stream in _streams(sides):
        for key in ("mean", "max"):
            ages = (spread(values_of(side, _age(stream, key)), age) for side in sides)
            rows.append((f"age of what was trained, {stream}, {key}", *ages))
    charts = [
        line_chart(f"Tokens {kind} per second", curves(sides, _rates(kind)), x_label="minutes")
        for kind in ("generated", "trained")
    ]
    return _wide(table(("", *_names(sides)), rows)) + grid(charts)


def funnels(sides: Sequence[Side]) -> str:
    """A table for each stream; the shares are of the stage before."""
    parts = []
    named = {stream: words for run in _runs(sides) for stream, words in run.words.items()}
    for stream in _streams(sides):
        words = named.get(stream, UNNAMED)
        columns = [_sums([run.buffer.funnel().get(stream, {}) for run in s.runs]) for s in sides]
        rows: list[tuple[str, ...]] = []
        for number, (name, _) in enumerate(stages({}, words)):
            numbers = []
            for column in columns:
                stage = stages(column, words)
                count = stage[number][1]
                of = share(count, stage[number - 1][1]) if number not in (0, 2) else ""
                numbers.append(f"{count:,} ({of})" if of else f"{count:,}")
            rows.append((name, *numbers))
        dropped = [
            _sums([run.buffer.counts()["groups"].get(stream, {}).get("dropped", {})
                   for run in side.runs])
            for side in sides
        ]  # fmt: skip
        if any(dropped):
            rows.append(("dropped", *(reasons(column) for column in dropped)))
        parts.append(_wide(table((stream, *_names(sides)), rows)))
    if not parts:
        return ""
    several = " Of several runs: their sum." if any(len(side.runs) > 1 for side in sides) else ""
    return f'<p class="dim">Shares are of the stage before.{several}</p>' + "".join(parts)


def warned(sides: Sequence[Side]) -> str:
    parts = []
    for side in sides:
        for run in side.runs:
            name = run.name if len(side.runs) > 1 else side.name
            told = notes(run) or '<p class="dim">Nothing was noticed.</p>'
            parts.append(f"<h3>{escape(name)}</h3>{told}")
    return "".join(parts)


# of one run


def _seed(run: Run) -> float | None:
    return (run.summary or {}).get("seed")


def _steps(run: Run) -> float | None:
    """Of the policy that is the furthest behind."""
    steps = dict((run.summary or {}).get("steps") or {})
    if not steps:
        steps = {row["policy"]: row["step"] for row in run.of_kind("step")}
    return min(steps.values(), default=None)


def _wall_s(run: Run) -> float | None:
    return run.buffer.counters().get("wall_s")


def _tokens(run: Run, kind: str) -> float | None:
    """Of all policies."""
    amounts = [n for name, n in run.buffer.counters().items() if name.startswith(f"{kind}/")]
    return sum(amounts) if amounts else None


def _rate(kind: str) -> Callable[[Run], float | None]:
    return lambda run: _over(_tokens(run, kind), _wall_s(run))


def _busy(part: str) -> Callable[[Run], float | None]:
    return lambda run: busy_fractions(run.buffer.counters()).get(part)


def _age(stream: str, key: str) -> Callable[[Run], float | None]:
    return lambda run: age_stats(run.buffer.ages().get(stream, {}))[key]


def _heldout_of(run: Run) -> Mapping[str, Any]:
    """As in the summary; of a run that goes on, what was measured so far."""
    told = (run.summary or {}).get("heldout") or {}
    if told.get("after"):
        return told
    found: dict[str, dict[str, float]] = {"before": {}, "after": {}}
    for row in run.of_kind("heldout"):
        found["before" if "before" in row.get("when", "") else "after"].update(row.get("means", {}))
    return found


def _heldout(key: str, name: str) -> Callable[[Run], float | None]:
    return lambda run: _heldout_of(run).get(key, {}).get(name)


def _reward(policy: str) -> Callable[[Run], Points]:
    return lambda run: [
        (row["step"], row["reward"])
        for row in run.of_kind("step")
        if row["policy"] == policy and row.get("reward") is not None and not row.get("skipped")
    ]


def _dev(name: str) -> Callable[[Run], Points]:
    return lambda run: [
        (row["step"], row["means"][name])
        for row in run.of_kind("dev")
        if row.get("means", {}).get(name) is not None
    ]


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    """{title: percent} of a record of benchmarks."""
    return {one["title"]: 100 * one["estimate"] for one in row.get("scores", {}).values()}


def _benchmark(title: str) -> Callable[[Run], Points]:
    def points(run: Run) -> Points:
        found: dict[int, float] = {}
        for row in run.of_kind(RECORD):
            # A restart threw away the weights of what was later than this.
            found = {step: old for step, old in found.items() if step < row["step"]}
            if title in (scores := _scores(row)):
                found[row["step"]] = scores[title]
        return sorted(found.items())

    return points


def _rates(kind: str) -> Callable[[Run], Points]:
    def points(run: Run) -> Points:
        rows = run.of_kind("engine")
        return by_minute(
            [
                (
                    (row["t"] - rows[0]["t"]) / 60,
                    sum(v.get(f"{kind}_per_s") or 0.0 for v in row.get("policies", {}).values()),
                )
                for row in rows
            ]
        )

    return points


# words


def _names(sides: Sequence[Side]) -> list[str]:
    return [side.name for side in sides]


def _runs(sides: Sequence[Side]) -> list[Run]:
    return [run for side in sides for run in side.runs]


def _streams(sides: Sequence[Side]) -> list[str]:
    return in_order({stream for run in _runs(sides) for stream in run.buffer.funnel()})


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for own in counts:
        for name, number in own.items():
            total[name] = total.get(name, 0) + number
    return total


def _over(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _direction(low: float, high: float) -> str:
    return "up" if low > 0 else "down" if high < 0 else ""


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _wide(html: str) -> str:
    """Scrolls by itself where the page is narrower."""
    return f'<div class="wide">{html}</div>' if html else ""
