import io
from dataclasses import replace

from rich.console import Console

from engine.monitor.snapshot import (
    Alarm,
    Bottleneck,
    PolicyView,
    Snapshot,
    Station,
    StreamView,
    age_stats,
    stages,
)
from engine.monitor.terminal import Terminal, clock, line, view

FUNNEL = {"sampled": 1200, "usable": 1101, "groups": 300, "kept": 291, "trained": 40}


def make_snapshot(phase: str = "self-play", reason: str = "too_easy") -> Snapshot:
    return Snapshot(
        name="quickstart",
        phase=phase,
        elapsed_s=3725,
        games={"started": 9, "finished": 6, "in_flight": 2, "dropped": {"deadline": 1}},
        streams={
            "solver": StreamView(
                ready=3, trained=40, dropped={reason: 7}, age_mean=1.25,
                funnel=stages(FUNNEL, ("answered", "[b]boxed")),
            ),
            "coder": StreamView(funnel=stages({}, ("drawn", "rendered"))),
        },
        policies={
            "solver": PolicyView(
                step=5, total_steps=120, version=6, reward=0.5, generated_per_s=3000,
                waits_for="solver: 1/4 games",
            )
        },
        busy={"server 0": 0.93},
        events=[(1.0, "info", "old")] * 20 + [(2.0, "warning", "the end is near")],
    )  # fmt: skip


def test_without_a_tty_it_prints_plain_lines_and_needs_one_of_each_phase() -> None:
    out = io.StringIO()
    needed = []
    with Terminal(Console(file=out, width=40)) as terminal:
        for phase in ("self-play", "self-play", "done"):
            needed.append(terminal.is_due(phase))
            terminal.show(make_snapshot(phase))
    assert needed == [True, False, True]
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == line(make_snapshot())
    for part in (
        "1:02:05",
        "solver 5/120 reward +0.50 kept 97%",
        "6 done",
        "1 dropped",
        "3000 tok/s",
    ):
        assert part in lines[0]


def test_on_a_tty_it_shows_every_part_and_gives_the_terminal_back() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, height=40, force_terminal=True, _environ={})
    with Terminal(console) as terminal:
        terminal.show(make_snapshot(reason="[red]odd[/red]"))
        assert terminal.is_due("self-play")
    text = out.getvalue()
    for part in ("quickstart", "5/120", "solver: 1/4 games", "[red]odd[/red] 7", "the end is near"):
        assert part in text
    assert "93%" in text
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_the_funnel_fits_on_a_small_screen() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(view(make_snapshot(), "http://x/", 80, 24))
    lines = [" ".join(row.split()) for row in out.getvalue().splitlines()]
    assert "solver │ 300 → 291 97% → 40 3+0 1.2, 0 too_easy 7" in lines
    assert "coder │ 0 → 0 → 0 0+0" in lines
    assert len(lines) <= 24


def test_a_wide_screen_has_the_rollouts_too() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(view(make_snapshot(), width=120))
    lines = [" ".join(row.split()) for row in out.getvalue().splitlines()]
    assert any("1200 answered → 1101 [b]boxed 92% │ 300 → 291 97% → 40" in row for row in lines)


def test_the_bottleneck_is_said_and_marked() -> None:
    snapshot = replace(
        make_snapshot(),
        bottleneck=Bottleneck("renderer", "The renderer is the bottleneck.", "More workers."),
        stations={"renderer": Station(kind="renderer", units=1, wait_share=0.7, busy=1.0)},
        alarms=(Alarm("disk_full", "the disk is nearly full", "make room"),),
    )
    out = io.StringIO()
    Console(file=out, width=120).print(view(snapshot, "http://localhost:1/"))
    text = out.getvalue()
    for part in ("The renderer is the bottleneck.", "More workers.", "◀ bottleneck", "70%",
                 "the disk is nearly full", "http://localhost:1/"):  # fmt: skip
        assert part in text
    assert line(snapshot).endswith("bottleneck: renderer")


def test_clock() -> None:
    assert [clock(s) for s in (0, 61, 3600)] == ["0:00", "1:01", "1:00:00"]


def test_age_stats_of_a_histogram() -> None:
    assert age_stats({}) == {"mean": None, "p95": None, "max": None}
    assert age_stats({0: 90, 2: 8, 7: 2}) == {"mean": 0.3, "p95": 2, "max": 7}


def test_a_snapshot_is_a_plain_record() -> None:
    record = make_snapshot().record()
    assert record["streams"]["solver"]["trained"] == 40
    assert record["streams"]["solver"]["funnel"][3] == ("kept", 291)
    assert "events" not in record
