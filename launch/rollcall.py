"""The roll call of an attempt: its ranks find each other, and agree that they mean the same run.

torchrun's store may outlive an attempt, with all that dead ranks have said in it; and each agent
counts its own restarts, so that no number in the environment names an attempt for all. So rank 0
wipes the list of who is present, and waits until every rank has (again) written itself there:

    rank r -> present/r       a nonce, its node and agent, a digest of its configuration
    rank 0 -> welcome/NONCE   the name of the attempt, under which all that follows is said

torchrun starts no rank of an attempt before the ranks of the one before have ended.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from engine.errors import ConfigError, EngineError
from engine.nodes import Node
from engine.rundir import start_time

_POLL_S = 0.05


class Words(Protocol):
    """What of torch's Store is needed."""

    def set(self, key: str, value: str, /) -> None: ...

    def get(self, key: str, /) -> bytes: ...

    def check(self, keys: list[str], /) -> bool: ...

    def delete_key(self, key: str, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class Member:
    """A rank that is present."""

    nonce: str
    node: Node
    agent: str
    """The process that has started it: the same for all attempts of one torchrun."""
    config: str
    """Digest of its configuration."""


def new_member(node: Node, config: str) -> Member:
    """This rank."""
    parent = os.getppid()
    agent = f"{node.machine}:{parent}:{start_time(parent)}"
    return Member(uuid.uuid4().hex, node, agent, config)


def gather(
    store: Words, own: Member, world: int, stop: threading.Event, timeout_s: float
) -> list[Member]:
    """Rank 0: all members, by rank.

    Raises ConfigError where one has another configuration, EngineError where some do not come
    within `timeout_s`, SystemExit on a stop.
    """
    for rank in range(1, world):
        store.delete_key(_present(rank))
    members = {0: own}

    def missing() -> list[int]:
        for rank in range(1, world):
            if rank not in members and store.check([_present(rank)]):
                members[rank] = _read(store.get(_present(rank)))
        return [rank for rank in range(1, world) if rank not in members]

    _until(lambda: not missing(), stop, timeout_s, lambda: f"no sign of ranks {missing()}")
    for rank, member in sorted(members.items()):
        if member.config != own.config:
            raise ConfigError(
                f"rank {rank}, on node {member.node.rank}, was started with another configuration "
                "than rank 0; give all nodes the same CONFIG and overrides"
            )
    return [members[rank] for rank in range(world)]


def welcome(store: Words, members: Sequence[Member]) -> str:
    """Rank 0: tell the members the name of their attempt."""
    attempt = uuid.uuid4().hex
    for member in members:
        store.set(_welcome(member.nonce), attempt)
    return attempt


def answer(store: Words, rank: int, own: Member, stop: threading.Event, timeout_s: float) -> str:
    """Any other rank: the name of its attempt. Raises EngineError where rank 0 does not say it
    within `timeout_s`, SystemExit on a stop."""
    words = json.dumps(asdict(own))

    def is_welcome() -> bool:
        store.set(_present(rank), words)  # anew each time: rank 0 may have wiped it since
        return store.check([_welcome(own.nonce)])

    _until(is_welcome, stop, timeout_s, lambda: "rank 0 calls no roll")
    return store.get(_welcome(own.nonce)).decode()


def _until(
    condition: Callable[[], bool],
    stop: threading.Event,
    timeout_s: float,
    complaint: Callable[[], str],
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if stop.wait(_POLL_S):
            raise SystemExit(1)
        if time.monotonic() > deadline:
            raise EngineError(f"{complaint()} within {timeout_s:.0f} s")


def _present(rank: int) -> str:
    return f"present/{rank}"


def _welcome(nonce: str) -> str:
    return f"welcome/{nonce}"


def _read(text: bytes) -> Member:
    told = json.loads(text)
    return Member(**{**told, "node": Node(**told["node"])})
