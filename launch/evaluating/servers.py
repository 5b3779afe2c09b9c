"""Servers of our own for one evaluation: started for a model folder, ended with it.

One SGLang server on each GPU, where SGLang is installed; else, for a small model, the embedded one.
"""

import asyncio
import importlib.util
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from engine.errors import ConfigError, EngineError
from engine.nodes import free_ports, visible_gpus
from engine.servers.host import ServerEvent, serve
from engine.servers.spec import ServerSpec

log = logging.getLogger(__name__)

_SMALL_BYTES = 200 << 20
"""Weights beyond that are nothing for the embedded server on a CPU."""
_LONGEST = 32_768
_TAKEN = 0.8
"""Of a GPU's memory, by all servers that share it."""
_POLICY = "model"


def specs_for(folder: Path, key: str, *, place: int = 0, places: int = 1) -> list[ServerSpec]:
    """The servers for a model on this machine: on its GPUs, or, of `places` models that are served
    side by side, on the share of the one at `place`. Raises ConfigError where it can serve none."""
    gpus = range(len(visible_gpus()))
    own = gpus[place::places] if len(gpus) >= places else gpus
    context = min(_context_length(folder), _LONGEST)
    if gpus and importlib.util.find_spec("sglang") is not None:
        return [
            ServerSpec(
                kind="sglang",
                model_dirs={_POLICY: folder},
                ports={_POLICY: free_ports(1)[0]},
                device="cuda",
                gpus=(gpu,),
                mem_fraction=None if len(gpus) >= places else _TAKEN / places,
                context_length=context,
                api_key=key,
            )
            for gpu in own
        ]
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if size > _SMALL_BYTES:
        raise ConfigError(
            f"--model: {folder} has {size >> 20} MB of weights, too much for the embedded server; "
            "install SGLang (pip install -e '.[gpu]') or name a server with --server or --openai"
        )
    return [
        ServerSpec(
            kind="embedded",
            model_dirs={_POLICY: folder},
            ports={_POLICY: free_ports(1)[0]},
            context_length=context,
            api_key=key,
        )
    ]


@asynccontextmanager
async def serving(
    specs: Sequence[ServerSpec], logs: Path, on_ready: Callable[[str], None] = lambda url: None
) -> AsyncIterator[list[str]]:
    """URLs of the servers, all ready; one that dies is started again, until the block ends.

    `logs` is a folder that is there; `on_ready` is told of each, whenever it is ready (again).
    Raises ConfigError or EngineError where one cannot be started; also in place of an error of the
    block, where that was meanwhile.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    urls = [spec.urls[_POLICY] for spec in specs]
    ready: list[asyncio.Future[None]] = [loop.create_future() for _ in specs]

    def heard(url: str, future: asyncio.Future[None], event: ServerEvent) -> None:
        if event.kind == "ready":
            on_ready(url)
            if not future.done():
                future.set_result(None)

    tasks = [
        asyncio.create_task(serve(spec, logs, stop, partial(heard, url, future)))
        for spec, url, future in zip(specs, urls, ready, strict=True)
    ]
    has_failed = False
    try:
        while waiting := [future for future in ready if not future.done()]:
            await asyncio.wait((*waiting, *tasks), return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # raises why it could not
                    raise EngineError(f"a server ended while others started; see {logs}")
        yield urls
    except Exception:
        has_failed = True
        raise
    finally:
        stop.set()
        for end in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(end, EngineError):
                if has_failed:
                    raise end  # that is why
                log.warning("%s", end)


def _context_length(folder: Path) -> int:
    try:
        config = json.loads((folder / "config.json").read_text())
        return int(config.get("text_config", config)["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--model: {folder}/config.json: {error}") from None
