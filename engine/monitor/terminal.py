"""The run in the terminal: a live view on a TTY, else a plain line now and then."""

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from engine.monitor.snapshot import PolicyView, Snapshot, Stages, StreamView

PLAIN_EVERY_S = 10.0
NUM_EVENTS = 6


class Terminal:
    """Shows snapshots. Use as a context: the terminal is given back on the way out."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Live | None = None
        self._last_line_s = -PLAIN_EVERY_S
        self._last_phase = ""

    def __enter__(self) -> "Terminal":
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, snapshot: Snapshot) -> None:
        if self._live is not None:
            self._live.update(view(snapshot), refresh=True)
            return
        now_s = time.monotonic()
        is_new = snapshot.phase != self._last_phase
        if is_new or now_s - self._last_line_s >= PLAIN_EVERY_S:
            self._last_line_s, self._last_phase = now_s, snapshot.phase
            self._console.print(line(snapshot), markup=False, highlight=False, soft_wrap=True)


def line(snapshot: Snapshot) -> str:
    """The snapshot in one line of plain text."""
    games = snapshot.games
    parts = [
        f"[{clock(snapshot.elapsed_s)}] {snapshot.phase}",
        f"games {games['finished']} done {games['in_flight']} in flight "
        f"{sum(games['dropped'].values())} dropped",
    ]
    parts += [
        _policy_line(name, policy, snapshot.streams.get(name))
        for name, policy in snapshot.policies.items()
    ]
    ages = [row.age_mean for row in snapshot.streams.values() if row.age_mean is not None]
    if ages:
        parts.append(f"age {sum(ages) / len(ages):.1f}")
    generated = sum(policy.generated_per_s for policy in snapshot.policies.values())
    trained = sum(policy.trained_per_s for policy in snapshot.policies.values())
    parts.append(f"{generated:.0f} tok/s generated {trained:.0f} trained")
    return " | ".join(parts)


def view(snapshot: Snapshot) -> Group:
    """The snapshot as tables."""
    games = snapshot.games
    dropped = sum(games["dropped"].values())
    head = Text.assemble(
        (f" {snapshot.name} ", "bold reverse"),
        f"  {clock(snapshot.elapsed_s)}  ",
        (snapshot.phase, "bold"),
        f"   games: {games['finished']} finished, {games['in_flight']} in flight, "
        f"{dropped} dropped{_reasons(games['dropped'])}",
    )
    busy = "  ".join(f"{name} {fraction:.0%}" for name, fraction in snapshot.busy.items())
    events = [
        Text(f" {text}", style="yellow" if level == "warning" else "dim", overflow="ellipsis")
        for level, text in list(snapshot.events)[-NUM_EVENTS:]
    ]
    return Group(
        head,
        _policies(snapshot),
        _funnel(snapshot),
        _streams(snapshot),
        Text(f" busy: {busy}" if busy else "", style="dim"),
        *(Text(f" {text}", style="dim", overflow="ellipsis") for text in snapshot.lines),
        *events,
    )


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _policy_line(name: str, policy: PolicyView, stream: StreamView | None) -> str:
    """A policy, and what is kept of the stream of its own name, where there is one."""
    reward = "" if policy.reward is None else f" reward {policy.reward:+.2f}"
    found = dict(stream.funnel) if stream else {}
    kept = f" kept {_share(found['kept'], found['groups'])}" if found.get("groups") else ""
    return f"{name} {policy.step}/{policy.total_steps}{reward}{kept}"


def _policies(snapshot: Snapshot) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in (" policy", "step", "", "version", "reward", "generated/s", "trained/s"):
        is_text = title in (" policy", "")
        table.add_column(title, justify="left" if is_text else "right")
    table.add_column("waits for")
    for name, policy in snapshot.policies.items():
        table.add_row(
            f" {escape(name)}",
            f"{policy.step}/{policy.total_steps}",
            _bar(policy.step / max(policy.total_steps, 1)),
            str(policy.version),
            "" if policy.reward is None else f"{policy.reward:+.3f}",
            f"{policy.generated_per_s:.0f}",
            f"{policy.trained_per_s:.0f}",
            escape(policy.waits_for) or "trains",
        )
    return table


def _funnel(snapshot: Snapshot) -> Table:
    """What is left of each stream: rollouts sampled → usable, then groups → kept → trained."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column(" stream")
    for title in ("", "", "", "", "groups", "kept", "trained"):
        table.add_column(title, justify="right", no_wrap=True)
    table.columns[2].justify = table.columns[4].justify = "left"
    for name, row in snapshot.streams.items():
        if row.funnel:
            table.add_row(f" {escape(name)}", *_funnel_cells(row.funnel))
    return table


def _funnel_cells(funnel: Stages) -> list[str]:
    (sampled, num_sampled), (usable, num_usable), *groups = funnel
    num_groups, kept, trained = (number for _, number in groups)
    return [
        str(num_sampled),
        escape(sampled),
        f"→ {num_usable}",
        f"{escape(usable)} {_share(num_usable, num_sampled)}",
        f"│ {num_groups}",
        f"→ {kept} {_share(kept, num_groups):>4}",
        f"→ {trained}",
    ]


def _streams(snapshot: Snapshot) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(" stream")
    for title in ("ready", "leased", "dropped", "age", "max"):
        table.add_column(title, justify="right")
    table.add_column("dropped why")
    for name, row in snapshot.streams.items():
        table.add_row(f" {escape(name)}", *_stream_cells(row))
    return table


def _stream_cells(row: StreamView) -> list[str]:
    return [
        str(row.ready),
        str(row.leased),
        str(sum(row.dropped.values())),
        "" if row.age_mean is None else f"{row.age_mean:.1f}",
        "" if row.age_max is None else str(row.age_max),
        escape(_reasons(row.dropped).strip(" ()")),
    ]


def _reasons(dropped: Mapping[str, int]) -> str:
    if not dropped:
        return ""
    ordered = sorted(dropped.items(), key=lambda item: -item[1])
    return " (" + ", ".join(f"{reason} {number}" for reason, number in ordered) + ")"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""


def _bar(fraction: float, width: int = 16) -> str:
    full = round(min(max(fraction, 0.0), 1.0) * width)
    return "━" * full + "╌" * (width - full)
