"""The game that is played: the one place that names it.

To play a game of your own, import its parts here instead (roles/README.md, "Write your own game").
"""

from collections.abc import Awaitable, Callable

from roles.mm_zero.config import MMZeroConfig as RecipeConfig
from roles.mm_zero.curves import play_curves
from roles.mm_zero.memory import Memory
from roles.mm_zero.prompts import load_prompts
from roles.mm_zero.recipe import FUNNEL, STATIONS, STREAMS, play
from roles.table import Table

__all__ = [
    "FUNNEL",
    "NAME",
    "STATIONS",
    "STREAMS",
    "RecipeConfig",
    "begin",
    "check",
    "play_curves",
]

NAME = "mm_zero"


def check(cfg: RecipeConfig) -> None:
    """Raise ConfigError for what would fail only when the first game is played."""
    load_prompts(cfg.prompts)


def begin(cfg: RecipeConfig) -> Callable[[int, Table], Awaitable[None]]:
    """What plays game number `game` at a table; its memory spans the games of a run."""
    memory = Memory(cfg)

    async def play_game(game: int, table: Table) -> None:
        await play(memory.topic(game), table, cfg, memory)

    return play_game
