"""What the dashboard's control may do to a run: thin words around the engine's methods."""

import logging
from collections.abc import Mapping
from typing import Any

from engine.loop import Engine
from engine.monitor.dashboard import Action

LEVELS = ("debug", "info", "warning", "error")


def actions_of(engine: Engine) -> dict[str, Action]:
    """{name: what it does}; each answers with what it did."""

    async def pause(_: Mapping[str, Any]) -> str:
        engine.pause()
        return "no new game starts until admission is resumed; games in flight go on"

    async def resume(_: Mapping[str, Any]) -> str:
        engine.resume()
        return "no game starts: the run drains" if engine.is_draining else "games start again"

    async def checkpoint(_: Mapping[str, Any]) -> str:
        await engine.save()
        return "every policy writes a checkpoint; the events say when it is there"

    async def drain(_: Mapping[str, Any]) -> str:
        engine.drain()
        if not engine.is_draining:
            return "the run is at its end already"
        return (
            "no new game starts; what there is, is played and trained, then the run saves and "
            "stops; --resume continues it"
        )

    async def log_level(asked: Mapping[str, Any]) -> str:
        level = str(asked.get("level", "")).lower()
        if level not in LEVELS:
            raise ValueError(f"level: want one of {', '.join(LEVELS)}")
        logging.getLogger().setLevel(level.upper())
        return f"the engine logs from {level} on"

    return {
        "pause": pause,
        "resume": resume,
        "checkpoint": checkpoint,
        "drain": drain,
        "log-level": log_level,
    }
