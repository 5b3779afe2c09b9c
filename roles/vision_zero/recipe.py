"""One game of Vision-Zero (arXiv:2509.25541): who of the players sees another picture?

    pair of pictures -> clues, seat by seat and round by round -> votes on who is the spy

The votes are the reward of the clues, and the truth about the spy is the reward of the votes. A
game plays its pair several times at once (replicas), with the spy in the same seat, so that a clue
is compared with what that seat earned elsewhere. Every game yields groups of all streams; the gate
(`memory.py`) says which of them train.
"""

import random

from engine.tasks import concurrently
from roles.table import Pair, Table
from roles.vision_zero.config import FROZEN, STREAMS, VOTER, VisionZeroConfig
from roles.vision_zero.credit import clue_groups, vote_group
from roles.vision_zero.gallery import note_game
from roles.vision_zero.memory import Memory
from roles.vision_zero.outcome import Poll, Replica, Turn
from roles.vision_zero.players import Players

__all__ = ["FUNNEL", "STATIONS", "STREAMS", "play"]

STATIONS = STREAMS
"""Where a game waits for work to be done, in its order."""
FUNNEL = {
    "civilian": ("spoken", "read"),
    "spy": ("spoken", "read"),
    VOTER: ("voted", "read"),
}
"""By stream, what its rollouts are called, and those from which a clue or vote was read."""


async def play(pair: Pair, table: Table, cfg: VisionZeroConfig, memory: Memory) -> None:
    """One game: clues -> votes -> credit -> submit.

    Submits one civilian and one spy group with all their turns of all replicas, advantages given,
    and one voter group for each vote held.
    """
    players = Players.at(table, cfg, pair, spy=spy_seat(table.game, cfg.num_players))
    drop = "probe" if is_among(table.game, cfg.probe_share) else None

    async def replica(_: int) -> Replica:
        played = await play_replica(players)
        for poll in played.polls:
            table.submit(vote_group(table.game, poll, cfg, drop))
        return played

    replicas = await concurrently(replica, range(cfg.replicas))
    credit = memory.credit(pair, players.spy, replicas)
    for group in clue_groups(table.game, replicas, players.spy, credit, drop):
        table.submit(group)
    memory.remember(replicas, players.spy, is_probe=drop is not None)
    frozen = None
    if cfg.frozen_every is not None and is_among(table.game, cfg.frozen_share):
        frozen = await players.vote(replicas[0].turns, FROZEN)
    note_game(table.note, pair, players.spy, replicas, credit, frozen)


async def play_replica(players: Players) -> Replica:
    """The pair once: one seat after the other gives its clue, then the voters vote."""
    cfg = players.cfg
    turns: list[Turn] = []
    polls: list[Poll] = []
    for round_ in range(1, cfg.num_rounds + 1):
        for seat in players.seats:
            turns.append(await players.speak(seat, round_, turns))
        if cfg.clue_credit.turns == "round_delta" or round_ == cfg.num_rounds:
            polls.append(await players.vote(turns))
    return Replica(tuple(turns), tuple(polls))


def spy_seat(game: int, num_players: int) -> int:
    """Each seat once in `num_players` games, in a new order each time.

    In turn it would be the same seats for ever where another recipe has every other number.
    """
    times, place = divmod(game, num_players)
    order = list(range(1, num_players + 1))
    random.Random(f"{times}/spy").shuffle(order)
    return order[place]


def is_among(game: int, share: float) -> bool:
    """Whether the game is among so large a share, spread evenly (multiples of the golden ratio)
    and the same after a restart."""
    return (game * 0.6180339887498949) % 1.0 < share
