"""Plays "who is the spy?" against a frozen reference, and prints the win rate with its interval.

    python launch/match.py launch/configs/vision_zero.yaml --ours runs/vision-zero --games 100
    python launch/match.py CONFIG --ours MODEL_DIR --reference MODEL_DIR

`--ours` is a run, whose last checkpoint plays, or a model folder; `--reference` is the config's
base unless given. Both are served by servers that this command starts.
"""

import argparse
import asyncio
import json
import logging
import secrets
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Lets `python launch/match.py` find the packages beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from engine.routing import ServerPool

HELD_OUT_SEED = 1_000_003
"""Added to the seed of the pairs: no pair of the match was played in training by number; whether a
scene comes twice is up to the family."""


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    logging.basicConfig(level=logging.WARNING)
    try:
        found = asyncio.run(run(options))
    except EngineError as error:
        print(f"streamzero: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    print(table(found))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0


async def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Start the servers, play, and sum up (`evals.spy_match.summary`)."""
    # Imported late, so that --help is instant.
    from engine.routing import ServerPool
    from engine.sampler import RoleSampler, TextEncoder, client_session
    from evals.spy_match import play_match, summary
    from launch.config import load_root, settings_of, streams_of
    from launch.evaluating.servers import serving, specs_for
    from launch.pairs import open_pairs
    from render_pool.pool import RenderPool
    from rewards.grader import Grader
    from roles.table import Table
    from roles.vision_zero.config import VisionZeroConfig

    config = load_root(options.config, options.set)
    cfg = settings_of(config).get("vision_zero")
    if not isinstance(cfg, VisionZeroConfig):
        raise ConfigError(f"{options.config}: no recipe vision_zero is played there")
    policy = streams_of(config)["voter"]
    folders = {
        "ours": model_folder(options.ours, policy),
        "reference": model_folder(options.reference or config.model.base, policy),
    }
    pairs_cfg = cfg.pairs.model_copy(update={"seed": cfg.pairs.seed + HELD_OUT_SEED})
    key = secrets.token_urlsafe()
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        session = await stack.enter_async_context(client_session(key))
        renderer = await stack.enter_async_context(RenderPool(config.render))
        pairs = await stack.enter_async_context(open_pairs(pairs_cfg, renderer.of("match")))
        grader = await stack.enter_async_context(Grader(config.grader))
        samplers: dict[str, Mapping[str, Any]] = {}
        for place, (who, folder) in enumerate(folders.items()):
            (logs / who).mkdir()
            specs = specs_for(folder, key, place=place, places=len(folders))
            pool = ServerPool(who, max_concurrency=config.sampler.max_concurrency)
            # No learner will say that a server is back after a connection that broke.
            pool.on_gone = partial(_trust_later, pool)
            ready = partial(pool.mark_ready, version=0)
            await stack.enter_async_context(serving(specs, logs / who, ready))
            encoder = TextEncoder.load(folder)
            samplers[who] = {
                role: RoleSampler(
                    role, who, encoder, pool, session, config.sampler, logging.warning
                )
                for role in ("civilian", "spy", "voter")
            }
        empty = Table(0, {}, renderer.of("match"), grader, lambda group: None, lambda *note: None)
        outcomes = await play_match(
            samplers["ours"], samplers["reference"], pairs, empty, cfg, options.games
        )
    return summary(outcomes)


def _trust_later(pool: "ServerPool", url: str, why: str) -> None:
    from engine.routing import SUSPECT_S

    asyncio.get_running_loop().call_later(SUSPECT_S, pool.mark_ready, url, 0)


def model_folder(path: Path, policy: str) -> Path:
    """A model folder, or the last checkpoint of a policy of a run. Raises ConfigError."""
    from engine.rundir import RunDir

    if (path / "model.safetensors").is_file() or list(path.glob("*.safetensors")):
        return path
    steps = sorted(RunDir(path).checkpoints(policy).glob("step-[0-9]*"))
    if not steps:
        raise ConfigError(f"{path}: neither a model folder nor a run with checkpoints of {policy}")
    return steps[-1]


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """As markdown, a row for each side."""
    lines = [
        "| we play | games | we win | 95 % | the reference in our place | gain | 95 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for side, row in found.items():
        (low, high), (least, most) = row["ci95"], row["gain_ci95"]
        lines.append(
            f"| {side} | {row['games']} | {row['win_rate']:.2f} | {low:.2f} .. {high:.2f} | "
            f"{row['reference']:.2f} | {row['gain']:+.2f} | {least:+.2f} .. {most:+.2f} |"
        )
    return "\n".join(lines)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("config", type=Path, help="a config that plays the recipe vision_zero")
    parser.add_argument("set", nargs="*", help="overrides, a.b=value")
    parser.add_argument("--ours", type=Path, required=True, help="a run or a model folder")
    parser.add_argument("--reference", type=Path, help="a model folder (the config's base)")
    parser.add_argument("--games", type=int, default=100)
    parser.add_argument("--out", type=Path, help="also write the numbers here, as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
