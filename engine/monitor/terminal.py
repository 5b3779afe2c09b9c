"""The run in the terminal: a live view on a TTY, else a plain line now and then."""

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from engine.monitor.bottleneck import LEARNER
from engine.monitor.snapshot import PolicyView, Snapshot, Stages, StreamView

MIN_EVENTS, MAX_EVENTS = 2, 8
WIDE = 110
"""Columns; on fewer, some of a table's are left out."""


class Terminal:
    """Shows snapshots. Use as a context: the terminal is given back on the way out."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Live | None = None
        self._last_phase = ""
        self._url = ""

    def announce(self, url: str) -> None:
        """Where the dashboard is: said once, and shown for as long as there is a live view."""
        self._url = url
        if self._live is None:
            self._say(f"dashboard: {url}")

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

    @property
    def is_live(self) -> bool:
        """A view that somebody looks at; else plain lines, which need a snapshot's numbers only."""
        return self._live is not None

    def is_due(self, phase: str) -> bool:
        """Whether a snapshot has to be shown: always on a TTY, else one of each phase. Others are
        shown when they are taken anyway: nothing but a line is dear."""
        return self._live is not None or phase != self._last_phase

    def show(self, snapshot: Snapshot) -> None:
        if self._live is not None:
            self._live.update(view(snapshot, self._url, *self._console.size), refresh=True)
            return
        self._last_phase = snapshot.phase
        self._say(line(snapshot))

    def _say(self, text: str) -> None:
        """A plain line. To lay it out would take a hundred times as long."""
        print(text, file=self._console.file, flush=True)


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
    if snapshot.bottleneck.part:
        parts.append(f"bottleneck: {snapshot.bottleneck.part}")
    return " | ".join(parts)


def view(snapshot: Snapshot, url: str = "", width: int = 120, height: int = 40) -> Group:
    """The snapshot on one screen of `width` times `height`, with the dashboard's address: what
    limits the run, who learns, where games wait, what became of them; then as many events as there
    is room for."""
    games = snapshot.games
    dropped = sum(games["dropped"].values())
    head = Text.assemble(
        (f" {snapshot.name} ", "bold reverse"),
        f"  {clock(snapshot.elapsed_s)}  ",
        ("paused" if snapshot.is_paused else snapshot.phase, "bold"),
        f"   games: {games['finished']} finished ({snapshot.games_per_min:.1f}/min), "
        f"{games['in_flight']} in flight, {dropped} dropped{_reasons(games['dropped'])}",
        no_wrap=True,
        overflow="ellipsis",
    )
    limit = snapshot.bottleneck
    said = [Text(f" {limit.sentence}", style="bold")] if limit.sentence else []
    said += [Text(f" {limit.advice}", style="dim")] if limit.advice else []
    said += [
        Text(f" ! {alarm.sentence}", style="yellow", no_wrap=True, overflow="ellipsis")
        for alarm in snapshot.alarms
    ]
    is_wide = width >= WIDE
    rows: list[RenderableType] = [head, *said, _policies(snapshot, is_wide), _stations(snapshot)]
    rows.append(_streams(snapshot, is_wide))
    if snapshot.busy:
        shares = "  ".join(f"{name} {share:.0%}" for name, share in snapshot.busy.items())
        rows.append(_dim(f"busy: {shares}"))
    rows += [_dim(text) for text in snapshot.lines]
    rows += [_dim(f"dashboard: {url}")] if url else []
    # Sentences may take two lines each on a narrow screen; tables have a line of titles.
    num_lines = (
        len(rows)
        + len(said)
        + sum(len(part) for part in (snapshot.policies, snapshot.stations, snapshot.streams))
    )
    room = max(MIN_EVENTS, min(MAX_EVENTS, height - num_lines - 1))
    events = [
        Text(f" {text}", style="yellow" if level == "warning" else "dim", no_wrap=True,
             overflow="ellipsis")
        for _, level, text in list(snapshot.events)[-room:]
    ]  # fmt: skip
    return Group(*rows, *events)


def _dim(text: str) -> Text:
    return Text(f" {text}", style="dim", no_wrap=True, overflow="ellipsis")


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


def _policies(snapshot: Snapshot, is_wide: bool) -> Table:
    table = _table(" policy", "step", "", "version", "reward", "generated/s", "trained/s", "waits")
    table.columns[2].justify = "left"
    table.add_column("for", no_wrap=True, overflow="ellipsis")
    for name, policy in snapshot.policies.items():
        table.add_row(
            f" {escape(name)}",
            f"{policy.step}/{policy.total_steps}",
            _bar(policy.step / max(policy.total_steps, 1), 16 if is_wide else 4),
            str(policy.version),
            "" if policy.reward is None else f"{policy.reward:+.3f}",
            f"{policy.generated_per_s:.0f}",
            f"{policy.trained_per_s:.0f}",
            "" if policy.starved is None else f"{policy.starved:.0%}",
            escape(policy.waits_for) or "trains",
            style="bold" if snapshot.bottleneck.part == LEARNER else "",
        )
    return table


def _stations(snapshot: Snapshot) -> Table:
    """Where games wait; the bottleneck is marked."""
    table = _table(" games wait at", "units", "requests", "queued", "done/s", "share", "busy")
    table.add_column("")
    for name, station in snapshot.stations.items():
        is_limit = name == snapshot.bottleneck.part
        table.add_row(
            f" {escape(name)}",
            str(station.units),
            str(station.outstanding),
            str(station.queued),
            f"{station.per_s:.1f}",
            f"{station.wait_share:.0%}",
            "" if station.busy is None else f"{station.busy:.0%}",
            "◀ bottleneck" if is_limit else "",
            style="bold" if is_limit else "",
        )
    return table


def _streams(snapshot: Snapshot, is_wide: bool) -> Table:
    """What is left of each stream: rollouts sampled → usable, groups → kept → trained; what waits
    in its buffer, how old it was, and why the rest was dropped."""
    rollouts = ("", "", "", "") if is_wide else ()
    table = _table(" stream", *rollouts, "groups", "kept", "trained", "ready", "age")
    if is_wide:
        table.columns[2].justify = table.columns[4].justify = "left"
    table.add_column("dropped why", no_wrap=True, overflow="ellipsis")
    for name, row in snapshot.streams.items():
        funnel = _funnel_cells(row.funnel) if row.funnel else [""] * 7
        age = "" if row.age_mean is None else f"{row.age_mean:.1f}, {row.age_max or 0}"
        why = escape(_reasons(row.dropped).strip(" ()"))
        funnel = funnel if is_wide else funnel[4:]
        table.add_row(f" {escape(name)}", *funnel, f"{row.ready}+{row.leased}", age, why)
    return table


def _table(name: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column(name, no_wrap=True)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
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


def _reasons(dropped: Mapping[str, int]) -> str:
    if not dropped:
        return ""
    ordered = sorted(dropped.items(), key=lambda item: -item[1])
    return " (" + ", ".join(f"{reason} {number}" for reason, number in ordered) + ")"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""


def _bar(fraction: float, width: int) -> str:
    full = round(min(max(fraction, 0.0), 1.0) * width)
    return "━" * full + "╌" * (width - full)
