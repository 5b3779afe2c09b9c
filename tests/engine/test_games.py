"""How games end, and what their time is."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.admission import Admission, AdmissionRules, StreamRule
from engine.buffer import Buffer
from engine.errors import GameDropped
from engine.games import Games
from engine.types import Group

DEADLINE_S = 0.05


def games_of(folder: Path, **changes: Any) -> Games:
    async def play(game: int, submit: Callable[[Group], None], note: Any) -> None:
        note("played", True)

    rules = AdmissionRules(streams={"solver": StreamRule(policy="solver")}, games_per_step=2)
    given: dict[str, Any] = {"plays": {"": play}} | changes
    return Games(
        buffer=Buffer.open(folder / "run.db"),
        admission=Admission(rules),
        deadline_s=DEADLINE_S,
        on_change=lambda: None,
        on_group=lambda group, is_ready: None,
        **given,
    )


async def play_two(games: Games) -> None:
    numbers = [games.start(""), games.start("")]
    await asyncio.gather(*map(games.run, numbers))


async def longer_than_a_game_may_take(game: int) -> None:
    await asyncio.sleep(4 * DEADLINE_S)


def test_what_games_share_may_take_longer_than_one_of_them(tmp_path: Path) -> None:
    """A whole phase's data, say."""
    games = games_of(tmp_path, prepares={"": longer_than_a_game_may_take})
    asyncio.run(play_two(games))
    assert games.buffer.counts()["games"]["finished"] == 2


def test_a_game_that_takes_too_long_is_dropped_by_name(tmp_path: Path) -> None:
    async def play(game: int, submit: Callable[[Group], None], note: Any) -> None:
        await longer_than_a_game_may_take(game)

    games = games_of(tmp_path, plays={"": play})
    asyncio.run(play_two(games))
    assert games.buffer.counts()["games"]["dropped"] == {"deadline": 2}


@pytest.mark.parametrize("error", [GameDropped("request", "out of retries"), RuntimeError("a bug")])
def test_what_cannot_be_prepared_ends_the_game_and_the_books_balance(
    tmp_path: Path, error: Exception
) -> None:
    async def prepare(game: int) -> None:
        raise error

    games = games_of(tmp_path, prepares={"": prepare})
    if isinstance(error, GameDropped):
        asyncio.run(play_two(games))
    else:
        with pytest.raises(RuntimeError):
            asyncio.run(play_two(games))
    counts = games.buffer.counts()["games"]
    assert counts["dropped"] == {"request" if isinstance(error, GameDropped) else "error": 2}
    assert counts["in_flight"] == 0
    assert games.in_flight == {}
