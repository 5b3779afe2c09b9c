"""A spy game without an engine: seats that say what they are told, a pair, and what was asked."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine.types import Group, Message, Rollout, SamplingParams
from roles.table import Table
from roles.vision_zero.config import VOTER, VisionZeroConfig
from roles.vision_zero.gallery import NOTE
from roles.vision_zero.memory import Memory
from roles.vision_zero.outcome import Replica, Turn
from roles.vision_zero.recipe import play, spy_seat
from roles.vision_zero.rules import RULES
from tests.roles.table_fakes import FakeRenderer, InProcessGrader, make_rollout, text_of

CIVILIAN, SPY = b"the picture of all", b"the picture of one"


@dataclass(frozen=True)
class FakePair:
    id: str = "pair-1"
    domain: str = "objects"
    view: str = "edited"
    civilian: bytes = CIVILIAN
    spy: bytes = SPY
    hint_civilian: str = "HINT-OF-CIVILIANS"
    hint_spy: str = "HINT-OF-THE-SPY"

    def is_true(self, claim: str) -> bool | None:
        return None if claim.startswith("maybe") else not claim.startswith("false")


@dataclass(frozen=True)
class Asked:
    """One request."""

    number: int
    """Of its role, from 0 on."""
    role: str
    text: str
    n: int
    params: SamplingParams
    images: tuple[bytes, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The transcript, of the full prompt set."""
        lines = self.shared.splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"round"')]

    @property
    def shared(self) -> str:
        """All of the full set's prompt but what is for this seat alone: its notes, and its turn."""
        return re.split(r"\n\n(?:What you thought|You are player|You do not play)", self.text)[0]

    @property
    def seat(self) -> int | None:
        """As the full prompt set tells it; None: a judge."""
        found = re.search(r"^You are player (\d+), ", self.text, re.MULTILINE)
        return int(found[1]) if found else None


Answer = Callable[[Asked, int], str]
"""(request, number of the sample in it) -> reply."""


@dataclass
class Seats:
    """A table, all its samplers, and what went over it."""

    answers: Mapping[str, Answer]
    game: int = 0
    wait: Callable[[Asked], int] = lambda asked: 1
    """Turns of the loop that a request takes."""
    policies: Mapping[str, str] = field(default_factory=dict)
    """By role; else as the role is called."""
    version: int = 0
    """Of the weights that answer now; an answer may raise it."""
    asked: list[Asked] = field(default_factory=list)
    by_reply: dict[str, list[Asked]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def table(self) -> Table:
        samplers = {role: _Sampler(role, self) for role in self.answers}
        return Table(
            self.game, samplers, FakeRenderer(), InProcessGrader(), self.groups.append, self._note
        )

    def stream(self, name: str) -> list[Group]:
        return [group for group in self.groups if group.stream == name]

    def of_role(self, role: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.role == role]

    @property
    def spy_game(self) -> dict[str, Any]:
        note = self.notes[NOTE]
        assert isinstance(note, dict)
        return note

    def _note(self, key: str, value: Any) -> None:
        assert key not in self.notes
        self.notes[key] = value


@dataclass
class _Sampler:
    role: str
    seats: Seats

    async def sample(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        params: SamplingParams,
        images: Sequence[bytes] = (),
    ) -> tuple[Rollout, ...]:
        seats, role = self.seats, self.role
        number = len(seats.of_role(role))
        asked = Asked(number, role, text_of(messages), n, params, tuple(images))
        seats.asked.append(asked)
        for _ in range(seats.wait(asked)):
            await asyncio.sleep(0)
        texts = [seats.answers[role](asked, i) for i in range(n)]
        for text in texts:
            seats.by_reply.setdefault(text, []).append(asked)
        made = [make_rollout(role, text, version=seats.version, images=images) for text in texts]
        return tuple(replace(one, policy=seats.policies.get(role, role)) for one in made)


def boxed(content: object, thought: str = "I looked at every clue. ") -> str:
    return f"{thought}\\boxed{{{content}}}"


def polls(*by_poll: Sequence[str]) -> Answer:
    """Votes of a judge: those of by_poll[k] in the k-th poll, in turn."""
    return lambda asked, i: boxed(by_poll[asked.number % len(by_poll)][i])


def ballot(*counts: int, na: int = 0, invalid: int = 0) -> list[str]:
    """Contents of boxes: so many votes for each seat."""
    seats = [str(seat) for seat, votes in enumerate(counts, start=1) for _ in range(votes)]
    return seats + ["N/A"] * na + ["1 or 2?"] * invalid


def seats(voter: Answer, game: int = 0, clue: Answer | None = None, **more: Any) -> Seats:
    """Players whose clues and thoughts are all different; `voter` votes."""

    def speak(asked: Asked, _: int) -> str:
        mark = f"{asked.role}{asked.number}"
        return boxed(f"clueof{mark}", f"thought-{mark}. ")

    return Seats({"civilian": clue or speak, "spy": clue or speak, VOTER: voter}, game, **more)


def play_all(cfg: VisionZeroConfig, *tables: Seats, pair: Any = None) -> Memory:
    """One game after the other, with one memory."""
    memory = Memory(cfg)
    for table in tables:
        asyncio.run(play(pair or FakePair(), table.table, cfg, memory))
    return memory


def game_with_spy(seat: int, cfg: VisionZeroConfig, after: int = -1) -> int:
    """The next number of a game with the spy in that seat."""
    game = after + 1
    while spy_seat(game, cfg.num_players) != seat:
        game += 1
    return game


def replica_of(
    cfg: VisionZeroConfig,
    spy: int,
    *votes_by_poll: Sequence[str],
    clues: Sequence[str] = (),
) -> Replica:
    """A replica as it was played: the contents of its votes' boxes, and of its clues' (all
    different where not given)."""
    rules = RULES[cfg.rules]
    places = [(r, s) for r in range(1, cfg.num_rounds + 1) for s in range(1, cfg.num_players + 1)]
    turns: list[Turn] = []
    for number, (round_, seat) in enumerate(places):
        text = boxed(clues[number] if clues else f"clue{number}")
        rollout = make_rollout("spy" if seat == spy else "civilian", text)
        earlier = [turn.clue for turn in turns if isinstance(turn.clue, str)]
        turns.append(Turn(seat, round_, rollout, rules.read_clue(text, earlier, cfg)))
    rollouts = [
        tuple(make_rollout(VOTER, boxed(vote)) for vote in votes) for votes in votes_by_poll
    ]
    return Replica(tuple(turns), tuple(rules.poll(row, spy, cfg) for row in rollouts))


PLAIN: dict[str, Any] = {
    "replicas": 1,
    "probe_share": 0.0,
    "clue": {"max_new_tokens": 31, "temperature": 0.9},
    "vote": {"max_new_tokens": 17},
    "clue_credit": {"baseline": "rae", "scaled": False},
}
"""One replica, no probes, and requests that can be told apart."""


def config(**changes: Any) -> VisionZeroConfig:
    return VisionZeroConfig(**(PLAIN | changes))


def credit(baseline: str = "rae", **changes: Any) -> dict[str, Any]:
    return {"baseline": baseline, "scaled": False, **changes}


def by_seat(group: Group, table: Seats) -> dict[int, list[Any]]:
    """{seat: its rewards, terms and advantages, in the order of its turns}."""
    assert group.advantages is not None
    found: dict[int, list[Any]] = {}
    rows = zip(group.rollouts, group.rewards, group.terms, group.advantages, strict=True)
    for rollout, *row in rows:
        (asked,) = table.by_reply[rollout.text]
        assert asked.seat is not None
        found.setdefault(asked.seat, []).append(row)
    return found


def column(table: Seats, place: int, num_players: int, turn: int = 0) -> list[Any]:
    """[seats] a column (0 reward, 1 terms, 2 advantage) of the only replica, at one turn."""
    rows: dict[int, list[Any]] = {}
    for stream in ("civilian", "spy"):
        (group,) = table.stream(stream)
        rows |= by_seat(group, table)
    return [rows[seat][turn][place] for seat in range(1, num_players + 1)]


def votes_part(table: Seats, num_players: int, turn: int = 0) -> list[float]:
    return [terms["votes"] for terms in column(table, 1, num_players, turn)]


TABLES = [ballot(0, 8), ballot(0, 8), ballot(0, 0, 8), ballot(na=8)]
"""Examples 1, 1, 2 and 4 of the facts, with the spy at seat 2."""


def tables_of(cfg: VisionZeroConfig, votes: Sequence[Sequence[str]], spy: int = 2) -> list[Seats]:
    """A game for each ballot, with the spy in one seat."""
    found, game = [], -1
    for contents in votes:
        game = game_with_spy(spy, cfg, after=game)
        found.append(seats(polls(contents), game))
    return found


def advantages_of(cfg: VisionZeroConfig, votes: Sequence[Sequence[str]]) -> list[list[float]]:
    tables = tables_of(cfg, votes)
    play_all(cfg, *tables)
    for table in tables:
        assert column(table, 2, 4, turn=0) == column(table, 2, 4, turn=1), "one for all turns"
    return [column(table, 2, 4) for table in tables]


def counted(votes: Sequence[str], num: int) -> list[int]:
    return [sum(vote == str(seat) for vote in votes) for seat in range(1, num + 1)]
