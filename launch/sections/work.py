"""What the machine did: the age of what was trained, busy and waiting time, the learners."""

from collections import Counter
from html import escape

from engine.monitor.snapshot import age_stats
from launch.charts import bar_chart, fraction_bar, line_chart
from launch.sections.run import Run, in_order
from launch.sections.tables import decimal, grid, table
from render_pool.reasons import SENTENCES

SMOOTH = 10


def ages(run: Run) -> str:
    found = run.buffer.ages()
    histogram = {stream: found[stream] for stream in in_order(found)}
    total = {stream: sum(bars.values()) for stream, bars in histogram.items()}
    shares = {
        stream: {age: number / total[stream] for age, number in bars.items()}
        for stream, bars in histogram.items()
    }
    judges = run.buffer.judge_ages()
    of_judges = {age: number / sum(judges.values()) for age, number in judges.items()}
    charts = [
        bar_chart("Age of the oldest token, share of groups", shares, x_label="steps"),
        bar_chart("Age of the judges, share of groups", {"all": of_judges}, x_label="steps"),
    ]
    rows = [
        (stream, *(decimal(value, 2) for value in age_stats(bars).values()))
        for stream, bars in histogram.items()
    ]
    return grid(charts) + table(("stream", "mean", "p95", "max"), rows)


def time_spent(run: Run) -> str:
    parts = []
    busy = (run.summary or {}).get("busy_fraction") or {}
    snapshots = run.of_kind("engine")
    if not busy and snapshots:
        busy = snapshots[-1].get("busy", {})
    busy = {name: fraction for name, fraction in busy.items() if fraction is not None}
    if busy:
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{fraction:.0%}</td>"
            f"<td>{fraction_bar({'busy': fraction, 'idle': 1 - fraction})}</td></tr>"
            for name, fraction in busy.items()
        )
        parts.append(f"<table><tr><th>part</th><th>busy</th><th></th></tr>{rows}</table>")
    waits: dict[str, Counter[str]] = {}
    for row in snapshots:
        for policy, view in row.get("policies", {}).items():
            # "solver: 3/4 games" and "solver: 2/4 games" are one reason.
            reason = "".join(c for c in view.get("waits_for", "") if c not in "0123456789/")
            waits.setdefault(policy, Counter())[" ".join(reason.split()) or "trains"] += 1
    rows_of_waits = [
        (policy, reason, f"{number / sum(reasons.values()):.0%}")
        for policy, reasons in waits.items()
        for reason, number in reasons.most_common()
    ]
    if rows_of_waits:
        parts.append(table(("policy", "waited for", "share of the time"), rows_of_waits))
    rates: dict[str, list[tuple[float, float]]] = {}
    for row in snapshots:
        minutes = (row["t"] - snapshots[0]["t"]) / 60
        for kind in ("generated", "trained"):
            total = sum(
                view.get(f"{kind}_per_s") or 0.0 for view in row.get("policies", {}).values()
            )
            rates.setdefault(kind, []).append((minutes, total))
    parts.append(grid([line_chart("Tokens per second", rates, x_label="minutes", smooth=SMOOTH)]))
    return "".join(parts)


def renderer(run: Run) -> str:
    """What the render pool did since the run was last resumed."""
    snapshots = run.of_kind("engine")
    parts = (run.summary or {}).get("parts") or (snapshots[-1].get("parts") if snapshots else {})
    stats = (parts or {}).get("renderer")
    if not stats:
        return ""
    rows = [
        ("pictures", str(stats["rendered"])),
        ("answers from the cache", f"{stats['hit_rate']:.1%}"),
        ("pictures with characters that no font has", str(stats["with_boxes"])),
        *(
            (f"{name}, ms: p50, p95, p99", ", ".join(f"{ms:.1f}" for ms in stats[key].values()))
            for key, name in (("wait_ms", "waiting for a worker"), ("draw_ms", "drawing"))
        ),
        ("workers recycled", str(stats["recycled"])),
        *((f"workers ended: {why}", str(n)) for why, n in stats["kills_by_reason"].items()),
        ("backend, and what confines it", f"{stats['backend']}, {stats['sandbox']}"),
    ]
    refused = [
        (reason, SENTENCES.get(reason, ""), str(number))
        for reason, number in sorted(stats["invalid"].items(), key=lambda item: -item[1])
    ]
    return table(("renderer", ""), rows) + (
        table(("refused", "why", "number"), refused) if refused else ""
    )


def learners(run: Run) -> str:
    rows = [row for row in run.of_kind("step") if not row.get("skipped")]
    charts = []
    for key, title in (
        ("grad_norm", "Gradient norm"),
        ("entropy", "Entropy, nats per token"),
        ("ess", "Effective sample size, share of the tokens"),
        ("k3", "KL of sampler and learner (k3)"),
        ("ratio_max", "Largest ratio of learner to sampler"),
        ("clipped_fraction", "Share of tokens clipped"),
        ("step_s", "Seconds per step"),
    ):
        series: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            value = row.get("metrics", {}).get(key)
            if value is not None:
                series.setdefault(row["policy"], []).append((row["step"], value))
        charts.append(line_chart(title, series, smooth=SMOOTH))
    return grid(charts)
