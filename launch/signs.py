"""Signs that self-play is collapsing, read from the lines of `metrics.jsonl`: those of our games.
`engine.monitor.alarms` has those of any.

The thresholds are those at which runs of the tiny base that went wrong could be told from those
that went well (learning rates of 1e-4 and more); they warn, they stop nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.monitor.snapshot import Alarm

NAMES = (
    "votes_collapsed", "few_kept", "labels_wrong", "sign_fell", "proposals_repeat",
    "clues_unreadable", "clues_repeat", "all_abstain", "seat_bias",
    "private_code",
)  # fmt: skip
MIN_GROUPS = 200
"""Of the solver, before anything is said: some fifteen games. Fewer make every share fall."""
MIN_PROPOSER_GROUPS = 40
MAX_CONSISTENCY = 0.8
LABELS_RIGHT = 0.9
"""Where so many labels are known to be true, votes that agree are no collapse. Measured: eleven
runs that went well ended with 89 % of the votes in agreement, and .99 of the labels true."""
MIN_KEPT = 0.35
MIN_LABEL_TRUE = 0.45
MAX_CHARGED = 0.12
"""Mean charge for repetition (`rewards.diversity`). Measured: -.066 at most in eleven runs that
charge for it; a repeated caption alone costs up to -.2."""
MAX_UNREADABLE = 0.3
MIN_DISTINCT = 0.3
MAX_ABSTAINED = 0.7
MAX_SEAT_SHARE = 2.0
"""Times its fair part of the votes, over games in which each seat was the spy's equally often."""
MAX_AHEAD = 0.3
"""Of the current voter's share of right votes over an older one's, on the same clues. Learning to
vote makes a gap as well: how large one a code makes was not measured."""
MAX_FALL = 0.15
"""Of a share, since its first value."""
FALLING = {
    "real_hard": (
        "the proposer asks fewer hard questions that are hard ones",
        "look at its newest proposals; pay less for solvability (recipe.reward.solvability_cap)",
    ),
    "faithful": (
        "drawings show their caption less often, whatever the rewards say",
        "look at the newest drawings: they may earn by other means (recipe.reward.leak_penalty)",
    ),
}
"""Signs of the games in play: what they mean, and what to try."""
FALLING_ON_DEV = {
    "coder_faithful": FALLING["faithful"],
    "solver_hard_t1": (
        "the solver answers hard questions worse",
        "lower learner.lr, or go back to an earlier checkpoint",
    ),
    "proposer_diversity": (
        "proposals are more alike",
        "charge more for repetition (recipe.diversity), or lower learner.lr",
    ),
}


def signs(records: Iterable[Mapping[str, Any]]) -> list[Alarm]:
    """One for each sign that the newest records show; empty: none."""
    rows = list(records)
    return [*_game_signs(rows), *_repetition(rows), *_dev_signs(rows), *_spy_signs(rows)]


def _game_signs(records: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    """`signs` are the means of `evals.games.game_signs` over recent games."""
    known = [
        row.get("signs", {})
        for row in records
        if row["kind"] == "groups" and _num_groups(row, "solver") >= MIN_GROUPS
    ]
    if not known:
        return []
    now, found = known[-1], []
    true, share = now.get("label_true"), now.get("consistency")
    is_right = true is not None and true >= LABELS_RIGHT
    if share is not None and share > MAX_CONSISTENCY and not is_right:
        sentence = (
            f"{share:.0%} of the solver's votes agree (over {MAX_CONSISTENCY:.0%}): "
            "its own majority teaches it nothing new"
        )
        advice = "lower learner.lr, or raise recipe.solver.temperature"
        found.append(Alarm("votes_collapsed", sentence, advice))
    if (kept := now.get("kept")) is not None and kept < MIN_KEPT:
        sentence = (
            f"only {kept:.0%} of the hard questions can train the solver (under {MIN_KEPT:.0%}): "
            "they are too easy, or too hard, for it"
        )
        advice = (
            "the dropped groups say which (too_easy, too_hard): widen recipe.filters.hard_band, "
            "or pay the proposer for difficulty (recipe.reward)"
        )
        found.append(Alarm("few_kept", sentence, advice))
    if true is not None and true < MIN_LABEL_TRUE:
        sentence = (
            f"only {true:.0%} of the labels are true of the picture (under {MIN_LABEL_TRUE:.0%}): "
            "the solver learns its own errors"
        )
        advice = "more votes (recipe.num_hard_votes), or a higher lower end of the hard_band"
        found.append(Alarm("labels_wrong", sentence, advice))
    return found + _falls(known, FALLING, "in play")


def _repetition(records: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    """By what the proposer is charged for repetition, all its terms together."""
    known = [
        row["streams"]["proposer"]
        for row in records
        if row["kind"] == "groups" and _num_groups(row, "proposer") >= MIN_PROPOSER_GROUPS
    ]
    terms = known[-1] if known else {}
    charged = -sum(
        value or 0.0 for name, value in terms.items() if name.startswith("term/repeated_")
    )
    if charged <= MAX_CHARGED:
        return []
    sentence = f"proposals repeat themselves: they are charged {charged:.2f} for it in the mean"
    advice = "charge more (recipe.diversity), offer more topics, or lower learner.lr"
    return [Alarm("proposals_repeat", sentence, advice)]


def _spy_signs(records: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    """Of "who is the spy?": `play` are its charts (`roles.vision_zero.curves`) of recent games."""
    known = [
        row["play"]
        for row in records
        if row["kind"] == "groups" and "Votes received, by seat" in (row.get("play") or {})
    ]
    if not known:
        return []
    play, found = known[-1], []
    readable = play.get("Clues that can be read", {})
    for who, share in readable.items():
        if 1 - share > MAX_UNREADABLE:
            sentence = f"{1 - share:.0%} of the clues of the {who} can't be read"
            advice = "look at their replies; raise recipe.clue_credit.invalid or max_new_tokens"
            found.append(Alarm("clues_unreadable", sentence, advice))
    distinct = play.get("Different clues in a game", {}).get("all", 1.0)
    if distinct < MIN_DISTINCT:
        sentence = f"only {distinct:.0%} of the turns bring a clue that no one gave before"
        found.append(Alarm("clues_repeat", sentence, "lower learner.lr, or play fewer rounds"))
    abstained = play.get("Votes", {}).get("abstained", 0.0)
    if abstained > MAX_ABSTAINED:
        sentence = f"{abstained:.0%} of the votes are N/A: nobody is charged, and nobody learns"
        advice = "lower recipe.decision.abstain: a guess must pay earlier"
        found.append(Alarm("all_abstain", sentence, advice))
    seats = play["Votes received, by seat"]
    if max(seats.values()) > MAX_SEAT_SHARE * sum(seats.values()) / len(seats):
        worst = max(seats, key=lambda seat: seats[seat])
        sentence = f"{worst} gets {seats[worst]:.0%} of the votes, whoever the spy is"
        found.append(Alarm("seat_bias", sentence, "more careful voters: train votes longer"))
    judges = play.get("Votes for the spy on the same clues", {})
    ahead = judges.get("current", 0.0) - judges.get("frozen", 0.0)
    if ahead > MAX_AHEAD:
        sentence = (
            f"on the same clues {judges['current']:.0%} of the votes are right, and "
            f"{judges['frozen']:.0%} of an older voter's: it learns fast, or clues become a code"
        )
        found.append(Alarm("private_code", sentence, "read the newest clues in the gallery"))
    return found


def _dev_signs(records: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    curve = [row["means"] for row in records if row["kind"] == "dev" and row.get("means")]
    return _falls(curve, FALLING_ON_DEV, "on the dev set")


def _falls(
    curve: Sequence[Mapping[str, float]], meanings: Mapping[str, tuple[str, str]], where: str
) -> list[Alarm]:
    found = []
    for name, (meaning, advice) in meanings.items():
        values = [means[name] for means in curve if means.get(name) is not None]
        if values and values[0] - values[-1] > MAX_FALL:
            sentence = f"{name} fell from {values[0]:.2f} to {values[-1]:.2f} {where}: {meaning}"
            found.append(Alarm("sign_fell", sentence, advice))
    return found


def _num_groups(row: Mapping[str, Any], stream: str) -> float:
    number = ((row.get("streams") or {}).get(stream) or {}).get("num_groups")
    return number if number is not None else 0
