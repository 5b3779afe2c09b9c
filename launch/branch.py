"""A branch of the engine: a process that plays games for the engine, with servers of its own.

    python -m launch.branch RUN_DIR ADDRESS RANK URLS

`ADDRESS`: where the engine listens for branches; `RANK`: of its rank; `URLS`: a JSON list of its
servers. It ends when the engine says goodbye. STREAMZERO_BRANCH_PROFILE=FILE keeps a profile of it.
The protocol: `engine.branches`.
"""

import asyncio
import json
import logging
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from engine.branch import Branch
from engine.errors import EngineError
from engine.monitor.waiting import Waiting
from engine.rundir import RunDir
from engine.sampler import TextEncoder, client_session
from engine.transport import BranchSocket
from launch.config import RootConfig, load_root
from launch.engine import collect_less, pools_of
from launch.profiling import profiled
from launch.tables import samplers_of, sit_down
from render_pool.pool import RenderPool

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    run_path, address, rank, urls = argv
    run = RunDir(Path(run_path))
    logging.basicConfig(
        filename=run.logs / f"branch{rank}.log",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        config = load_root(run.config)
        with profiled(os.environ.get("STREAMZERO_BRANCH_PROFILE")):
            asyncio.run(run_branch(config, run, address, f"branch{rank}", json.loads(urls)))
    except EngineError as error:
        log.exception("the branch ends")
        print(f"streamzero: branch of rank {rank}: {error}", file=sys.stderr)
        return 1
    except Exception:
        log.exception("the branch ends with an error that nobody expected")
        raise
    return 0


async def run_branch(
    config: RootConfig, run: RunDir, address: str, name: str, urls: list[str]
) -> None:
    """Build the parts, and play what the engine asks for until it says goodbye."""
    key = run.key.read_text()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(client_session(key))
        renderer = await stack.enter_async_context(RenderPool(config.render))
        encoder = TextEncoder.load(config.model.base)
        pools, waiting = pools_of(config), Waiting()
        socket = BranchSocket(address, name, key)
        stack.callback(socket.close)
        branch = Branch(
            socket=socket,
            pools=pools,
            urls=urls,
            waiting=waiting,
            renderer=renderer.stats,
            deadline_s=config.streams.game_deadline_s,
        )
        samplers = samplers_of(config, pools, encoder, session, branch.warn)
        playing = await sit_down(stack, config, samplers, renderer, waiting)
        collect_less()
        await branch.run(playing.plays)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
