"""`python -m engine.servers.embedded --serve PORT=MODEL_DIR [--serve ...]`."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from engine.errors import ConfigError

_DTYPES = ("float32", "bfloat16", "float16")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The command line. Imports nothing heavy, so that --help is instant."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.servers.embedded",
        description="Serve small vision-language models over SGLang's HTTP protocol, "
        "each on its own port, all from one thread.",
    )
    parser.add_argument(
        "--serve",
        action="append",
        required=True,
        type=_port_and_dir,
        metavar="PORT=MODEL_DIR",
        help="a port and the model folder behind it; repeatable",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=_DTYPES)
    parser.add_argument("--max-running-requests", type=_positive, default=256)
    parser.add_argument("--max-total-tokens", type=_positive, default=262_144)
    parser.add_argument("--max-queued-requests", type=_positive, default=8192)
    parser.add_argument("--context-length", type=_positive, help="default: the model's own")
    parser.add_argument("--weight-version", default="default", help="name of the first weights")
    parser.add_argument("--weights-timeout-s", type=float, default=120.0)
    parser.add_argument("--config", type=Path, help="YAML of further options; keys stand here")
    parser.add_argument("--api-key")
    parser.add_argument("--admin-api-key")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--start-paused", action="store_true", help="as after /pause_generation, mode retract"
    )
    return parser.parse_args([*_configured(argv), *argv])


def _configured(argv: list[str]) -> list[str]:
    """The options in the file behind --config, as words of a command line."""
    if "--config" not in argv[:-1]:
        return []
    import yaml

    try:
        options = yaml.safe_load(Path(argv[argv.index("--config") + 1]).read_text()) or {}
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]
    except (OSError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config: {' '.join(str(error).split())}") from None


def _port_and_dir(text: str) -> tuple[int, Path]:
    port, equals, folder = text.partition("=")
    if not equals or not port.isdigit() or not 0 < int(port) < 65_536 or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is not PORT=MODEL_DIR")
    return int(port), Path(folder)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def listen(host: str, port: int) -> socket.socket:
    """Bind a port, before anything slow is done; raises ConfigError where it is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; "
            "end what uses the port, or choose another"
        ) from error
    return listener


def check_exposure(options: argparse.Namespace) -> None:
    """Beyond loopback, endpoints that change state need a key; raises ConfigError without one."""
    loopback = options.host == "localhost" or options.host.startswith("127.")
    if not loopback and not (options.admin_api_key or options.api_key):
        raise ConfigError(
            f"--host {options.host} is reachable from elsewhere: give an --admin-api-key"
        )


async def serve(options: argparse.Namespace) -> None:
    """Load all models, listen on all ports, run until SIGTERM or SIGINT.

    Raises ConfigError for a bad folder or a port in use, and whatever ended the computing.
    """
    import torch
    from aiohttp import web
    from transformers.utils.logging import disable_progress_bar

    from engine.servers.embedded.app import Keys, build_app
    from engine.servers.embedded.loading import load_all
    from engine.servers.embedded.worker import Worker

    check_exposure(options)
    torch.set_num_threads(1)
    disable_progress_bar()
    listeners = [listen(options.host, port) for port, _ in options.serve]
    models = load_all(options)
    worker = Worker([served.scheduler for _, served in models])
    runners: list[web.AppRunner] = []
    try:
        for listener, (_, served) in zip(listeners, models, strict=True):
            served.worker = worker
            if options.start_paused:
                served.scheduler.pause("retract")
            app = build_app(
                served,
                keys=Keys(options.api_key, options.admin_api_key),
                weights_timeout_s=options.weights_timeout_s,
            )
            runner = web.AppRunner(
                app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0
            )
            await runner.setup()
            runners.append(runner)
            await web.SockSite(runner, listener, backlog=1024).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
        gc.collect()
        gc.freeze()  # else every full collection walks a million objects of imported libraries
        where = ", ".join(f"{options.host}:{port}={served.model_dir}" for port, served in models)
        print(f"The embedded server is ready: {where}", flush=True)
        await worker.step_forever()
    finally:
        for runner in runners:
            await runner.cleanup()


def set_environment() -> None:
    """What the libraries have to find before they are imported."""
    # More threads make small models slower, and the other core belongs to the learner.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main(argv: list[str]) -> int:
    """Run the server; 2 on bad input, with one line that says what is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    set_environment()
    try:
        asyncio.run(serve(parse_arguments(argv)))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def leave(code: int) -> NoReturn:
    """End this process: threads that wait in a collective for a dead peer must not keep it."""
    with suppress(OSError):  # of a full disk
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    code = 1
    try:
        code = main(sys.argv[1:])
    except SystemExit as end:  # argparse has said why
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  threads of its own must not keep the process
        traceback.print_exc()
    leave(code)
