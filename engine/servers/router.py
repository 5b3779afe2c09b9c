"""SGLang's own router as a process before the servers of a policy: its command, what it may not do.

A request is sent to the router, which picks the server: by the beginning of the prompt (token ids
as well as text) where one server is not much busier than another, else by the number of requests.
Learners, proofs and the supervisor talk to each server as before.

What was found with sglang-router 0.3.2, before embedded servers and before SGLang 0.5.23:

    passes on   /generate with ids, pictures, log-probs, `rid`, the key; answers, streams and
                refusals (400, 401) byte by byte
    drops       whatever it does not know, by name, without a word: `stream_interval`, misspelled
                sampling parameters (SGLang would refuse them), `return_prompt_token_ids`
    has not     /abort_request (404): but when a client hangs up, so does the router, within 20 ms,
                and the server frees the place; nor a limit of requests per server
    tells not   which server has answered
    a death     ends its requests with 500, or an unfinished stream; after some it is not tried for
                a while. A server's refusal (400) counts as a failure too
    a pause     is not seen within two checks, and requests wait at the server; then it gets no more
    none left   is 503, `no_available_workers`
    a network   that swallows everything holds the requests that are there until their deadline

So that no weights are sampled from that nobody vouches for, the servers start paused
(`ServerSpec.starts_paused`), and those that a learner has given up stay so: what the router checks
is /ready, which is 503 in a pause. Without its own key anybody on the machine could add a worker,
and would be sent the run's key. It is told the key by a file, and never repeats a request: the
sampler does, and counts.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence

from engine.config import LayoutConfig
from engine.errors import ConfigError

PACKAGE = "sglang-router==0.3.2"
_CHECK_S = 1
"""Between two looks at a server's /ready."""
_MISSES, _HITS = 3, 2
"""Checks in a row after which a server gets no requests any more, and gets them again: shorter
pauses, and so most updates, are waited for where the request is."""
_FAILURES, _BREAK_S = 3, 2
"""A server that failed so often in a row is not tried for so long."""
_NO_LIMIT_S = 10**6
"""Requests have deadlines of their own."""
_OVERLOAD_SHARE = 8
"""Requests of one beginning are spread once a server has this part of its places more in use than
another one."""

# The package's own command line would show the key to every user of the machine, and first imports
# all of SGLang. Its metrics cannot be turned off, and two routers cannot have them on one port.
_LAUNCH = """
import json, socket, sys
from sglang_router.router import Router
from sglang_router.router_args import RouterArgs
options, *config = sys.argv[1:]
key = None
if config:
    with open(config[config.index("--config") + 1]) as file:
        key = json.loads(dict(line.split(": ", 1) for line in file)["api-key"])
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    metrics = {"prometheus_host": "127.0.0.1", "prometheus_port": free.getsockname()[1]}
Router.from_args(RouterArgs(**json.loads(options), **metrics, api_key=key)).start()
"""


def router_command(
    *, python: str, host: str, port: int, workers: Sequence[str], max_running: int
) -> list[str]:
    """The command that starts a router before the servers `workers` (URLs), which run
    `max_running` requests at a time each. `--config` and the file of the key may follow."""
    options = {
        "host": host,
        "port": port,
        "worker_urls": list(workers),
        "policy": "cache_aware",
        "balance_abs_threshold": max(1, max_running // _OVERLOAD_SHARE),
        "disable_retries": True,
        "request_timeout_secs": _NO_LIMIT_S,
        "cb_failure_threshold": _FAILURES,
        "cb_success_threshold": 1,
        "cb_timeout_duration_secs": _BREAK_S,
        "health_check_endpoint": "/ready",
        "health_check_interval_secs": _CHECK_S,
        "health_check_timeout_secs": 2 * _CHECK_S,
        "health_failure_threshold": _MISSES,
        "health_success_threshold": _HITS,
        "worker_startup_check_interval": _CHECK_S,
        "shutdown_grace_period_secs": 1,
        "log_level": "warn",
    }
    return [python, "-c", _LAUNCH, json.dumps(options)]


def check_routers(layout: LayoutConfig, not_with: Mapping[str, bool]) -> None:
    """Raise ConfigError where routers can not do what is asked for.

    `not_with`: {a setting as it is written, and why it can not be: whether it is set}.
    """
    if not layout.routers:
        return
    for setting, is_set in not_with.items():
        if is_set:
            raise ConfigError(f"layout.routers: not with {setting}")


def check_router(policy: str, python: str) -> None:
    """Raise ConfigError unless the interpreter `python` has SGLang's router."""
    code = "import importlib.util as util, sys; sys.exit(util.find_spec('sglang_router') is None)"
    try:
        is_there = not subprocess.run([python, "-c", code], timeout=60).returncode
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"layout.routers.{policy}: {python} does not run: {error}") from None
    if not is_there:
        raise ConfigError(
            f"layout.routers.{policy}: {python} has no sglang-router; install {PACKAGE} there, or "
            "leave the entry out: the engine then routes by itself"
        )
