"""How the games of a recipe are scheduled: all its roles at once, or one after the other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from engine.config import StreamsConfig
from engine.phases import Phases
from engine.types import Renderer
from launch.recipe import Playing, Recipe


@asynccontextmanager
async def begin(
    recipe: Recipe, settings: Any, renderer: Renderer, streams: StreamsConfig
) -> AsyncIterator[Playing]:
    """A recipe under the configured schedule. A recipe with a gate of its own keeps it: sequential
    then only means that everything waits for everything."""
    async with recipe.begin(settings, renderer) as playing:
        if streams.schedule == "streaming" or playing.gate is not None:
            yield playing
            return
        phases = Phases(recipe.streams, streams.phase_steps)
        if recipe.in_phases is None:
            yield Playing(playing.play, phases)
            return
        games = streams.games_of.get(settings.name, streams.games_per_step)
        play = recipe.in_phases(settings, phases, games)
        yield Playing(play, phases, play.prepare, play.recall)
