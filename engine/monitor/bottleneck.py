"""What limits the rate of steps, in a sentence. Pure functions of a snapshot's parts.

Work flows from stations (servers, renderer) through buffers to learners. Where the learners always
have something to train on, they are what limits it. Where they wait, it is the station at which
games spend most of their time: a game goes on only when its request there is answered.
"""

from collections.abc import Mapping

from engine.monitor.snapshot import Bottleneck, PolicyView, Station, StreamView

MAX_STARVED = 0.2
"""Share of time without work up to which a learner counts as the limit: some of it is the noise
of samples taken once a second."""
LEARNER = "learner"
CLOSE = 0.7
"""Share of the first station's waiting from which the second is named too."""


def bottleneck(
    policies: Mapping[str, PolicyView],
    stations: Mapping[str, Station],
    streams: Mapping[str, StreamView],
    *,
    phase: str,
    is_paused: bool = False,
) -> Bottleneck:
    """`phase` is the engine's: only self-play has a bottleneck."""
    if is_paused:
        return Bottleneck("", "Paused: no new game starts until admission is resumed.")
    if phase != "self-play":
        return Bottleneck("", f"No steps are made now: {phase}.")
    shares = [policy.starved for policy in policies.values() if policy.step < policy.total_steps]
    known = [share for share in shares if share is not None]
    if not known:
        return Bottleneck("", "Too early to tell what limits the rate.")
    starved = sum(known) / len(known)
    if starved <= MAX_STARVED:
        return _learner(starved, stations, streams)
    name = max(stations, key=lambda name: stations[name].wait_share, default=None)
    if name is None or not stations[name].wait_share:
        waits = next((p.waits_for for p in policies.values() if p.waits_for), "games")
        return Bottleneck("", f"The learners wait {starved:.0%} of the time (for {waits}).")
    return _station(name, stations, starved)


def _learner(
    starved: float, stations: Mapping[str, Station], streams: Mapping[str, StreamView]
) -> Bottleneck:
    ready = sum(stream.ready for stream in streams.values())
    busy = {name: station.busy for name, station in stations.items() if station.busy is not None}
    busiest = max(busy, key=lambda name: busy[name], default=None)
    room = ""
    if busiest is not None:
        room = f" {_capital(called(busiest, stations[busiest]))}: busy {busy[busiest]:.0%}."
    return Bottleneck(
        LEARNER,
        f"The learners are the bottleneck: they have something to train on {1 - starved:.0%} of "
        "the time.",
        f"{ready} groups wait for them.{room} More learner ranks (layout.learners), larger "
        "micro-batches, or fewer servers.",
    )


def _station(name: str, stations: Mapping[str, Station], starved: float) -> Bottleneck:
    station = stations[name]
    is_renderer = station.kind == "renderer"
    others = [(other.wait_share, key) for key, other in stations.items() if key != name]
    share, second = max(others, default=(0.0, ""))
    beside = ""
    if share > CLOSE * station.wait_share:
        beside = f" and {share:.0%} at {called(second, stations[second])}"
    busy = "" if station.busy is None else f", busy {station.busy:.0%}"
    if is_renderer:
        advice = f"More render workers ({station.limit}), or smaller pictures."
    else:
        advice = (
            f"More servers for {name} ({station.limit}), or elastic.enabled, so that serving "
            "follows demand."
        )
    return Bottleneck(
        name,
        f"{_capital(called(name, station))} {'is' if is_renderer else 'are'} the bottleneck: "
        f"games spend {station.wait_share:.0%} of their waiting there{beside}, and the learners "
        f"have nothing to train on {starved:.0%} of the time.",
        f"{station.outstanding} requests, {station.queued} of them queued{busy}. {advice}",
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def called(name: str, station: Station) -> str:
    """A station in words."""
    return "the renderer" if station.kind == "renderer" else f"the servers of {name}"
