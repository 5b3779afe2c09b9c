"""The pairs of pictures that a spy game is played about, as the recipe's settings want them."""

from engine.errors import ConfigError
from evals.scenes.pairs import GridFamily
from render_pool.pairs.charts import Charts
from render_pool.pairs.family import Family
from render_pool.pairs.objects import Objects
from render_pool.pairs.source import Pairs
from render_pool.pairs.user import UserPair, folder_pairs, jsonl_pairs
from roles.table import Renderer
from roles.vision_zero.config import PairsConfig


def open_pairs(cfg: PairsConfig, renderer: Renderer) -> Pairs:
    """Raises ConfigError where the user's pairs can't be used."""
    if cfg.path is not None:
        return Pairs.of_user(
            _user_pairs(cfg),
            seed=cfg.seed,
            spy_view=cfg.spy_view,
            blank_share=cfg.blank_share,
            prefetch=cfg.prefetch,
        )
    return Pairs.of_family(
        family_of(cfg),
        renderer,
        seed=cfg.seed,
        spy_view=cfg.spy_view,
        blank_share=cfg.blank_share,
        prefetch=cfg.prefetch,
    )


def check_pairs(cfg: PairsConfig) -> None:
    """Raise ConfigError where these pairs can't be played."""
    if cfg.path is not None:
        _user_pairs(cfg)
    else:
        try:
            family_of(cfg)
        except ValueError as error:
            raise ConfigError(f"recipe.pairs.edits: {error}") from None


def _user_pairs(cfg: PairsConfig) -> list[UserPair]:
    assert cfg.path is not None
    return folder_pairs(cfg.path) if cfg.source == "folder" else jsonl_pairs(cfg.path)


def family_of(cfg: PairsConfig) -> Family:
    """Of procedural scenes."""
    match cfg.source:
        case "grid":
            return GridFamily(cfg.edits)
        case "bars" | "lines" | "pies":
            return Charts(cfg.source)
        case _:
            return Objects(cfg.edits)
