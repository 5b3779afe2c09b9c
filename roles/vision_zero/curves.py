"""How a spy game goes: charts of the newest games, from their notes (`gallery.py`).

The share of clues that are true of the civilians' picture is decided from the scene graph, so it
tells whether players learn to see, whatever the votes say.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Game = Mapping[str, Any]
"""The note of one game."""
LEADS = ("below 0", "0 to 1/3", "1/3 to 2/3", "2/3 to 1")
"""The bars of the histogram of Psi; a value at an edge belongs to the upper one."""
_EDGES = (0.0, 1 / 3, 2 / 3)
MIN_VOTES = 32
"""Of each of two voters who are compared."""


def play_curves(games: Sequence[Game]) -> dict[str, dict[str, float]]:
    """{chart: {series: value}}; what the games do not tell is left out."""
    replicas = [replica for game in games for replica in game["replicas"]]
    finals = [replica["polls"][-1] for replica in replicas if replica["polls"]]
    clues = [clue for replica in replicas for clue in replica["clues"]]
    spoken = {
        who: [clue for clue in clues if clue["is_spy"] == (who == "spy")]
        for who in ("civilian", "spy")
    }
    ballots = [len(poll["votes"]) for poll in finals]
    found: dict[str, dict[str, float | None]] = {
        "Votes": {
            "spy found": _mean([float(poll["found"]) for poll in finals]),
            "votes for the spy": _share(_right_votes(games), sum(ballots)),
            "abstained": _share(sum(poll["abstained"] for poll in finals), sum(ballots)),
            "unreadable": _share(sum(poll["invalid"] for poll in finals), sum(ballots)),
        },
        "Clues true of the civilians' picture": {
            who: _mean([float(clue["is_true"]) for clue in rows if clue.get("is_true") is not None])
            for who, rows in spoken.items()
        },
        "Clues that can be read": {
            who: _mean([float("clue" in clue) for clue in rows]) for who, rows in spoken.items()
        },
        "Different clues in a game": {"all": _mean([distinct(replica) for replica in replicas])},
        "Words of a clue": {
            who: _mean([float(len(clue["clue"].split())) for clue in rows if "clue" in clue])
            for who, rows in spoken.items()
        },
        "Psi, votes for the spy above a civilian's: share of games": leads(games),
        "Votes received, by seat": {
            f"seat {seat}": share for seat, share in seat_shares(games).items()
        },
        "Votes for the spy on the same clues": judges(games),
    }
    told = {
        chart: {name: value for name, value in series.items() if value is not None}
        for chart, series in found.items()
    }
    return {chart: series for chart, series in told.items() if series}


def seat_shares(games: Sequence[Game]) -> dict[int, float]:
    """{seat: share of all votes for a seat that it received}; the spy sits everywhere equally
    often, so a seat that is far from 1 / N is voted for because of its number."""
    received: Counter[int] = Counter()
    for game in games:
        for replica in game["replicas"]:
            for seat, votes in enumerate(replica["polls"][-1]["received"], 1):
                received[seat] += votes
    total = received.total()
    return {seat: votes / total for seat, votes in sorted(received.items())} if total else {}


def leads(games: Sequence[Game]) -> dict[str, float | None]:
    """A histogram of Psi (arXiv:2509.25541, Eq. 1) over replicas, of shares of the votes: what the
    spy received above the mean of the civilians, in [-1 / (N - 1), 1]. Clues earn -Psi or Psi."""
    bars = [0] * len(LEADS)
    for game in games:
        for replica in game["replicas"]:
            poll = replica["polls"][-1]
            spy = poll["received"][game["spy"] - 1]
            others = (sum(poll["received"]) - spy) / (len(poll["received"]) - 1)
            bars[bisect_right(_EDGES, (spy - others) / len(poll["votes"]))] += 1
    return {name: _share(bar, sum(bars)) for name, bar in zip(LEADS, bars, strict=True)}


def judges(games: Sequence[Game]) -> dict[str, float | None]:
    """{current, frozen: share of its votes}, over the games in which the older voter was asked;
    empty while they are too few to say anything."""
    asked = [game for game in games if "frozen" in game]
    if sum(len(game["frozen"]["votes"]) for game in asked) < MIN_VOTES:
        return {}
    polls = {
        "current": [game["replicas"][0]["polls"][-1] for game in asked],
        "frozen": [game["frozen"] for game in asked],
    }
    return {
        who: _share(
            sum(poll["received"][game["spy"] - 1] for game, poll in zip(asked, own, strict=True)),
            sum(len(poll["votes"]) for poll in own),
        )
        for who, own in polls.items()
    }


def distinct(replica: Mapping[str, Any]) -> float:
    """Different clues / turns: an unreadable or repeated one counts as none."""
    clues = {clue["clue"].lower() for clue in replica["clues"] if "clue" in clue}
    return len(clues) / len(replica["clues"])


def _right_votes(games: Sequence[Game]) -> int:
    return sum(
        replica["polls"][-1]["received"][game["spy"] - 1]
        for game in games
        for replica in game["replicas"]
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
