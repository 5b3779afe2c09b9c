"""Ranks find each other in a store that is full of the words of dead ones."""

import json
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore

from engine.errors import ConfigError, EngineError
from engine.nodes import Node
from launch import rollcall
from tests.engine.server_process import in_background

WAIT_S = 300.0


def node(rank: int) -> Node:
    return Node(rank=rank, count=2, local_ranks=2, address=f"10.0.0.{rank + 1}", machine=f"m{rank}")


def member(rank: int, config: str = "same") -> rollcall.Member:
    return rollcall.new_member(node(rank // 2), config)


def call(store: Any, members: list[rollcall.Member], order: list[int]) -> list[str]:
    """One roll call, whose ranks begin in this order; the attempt's name as each hears it."""
    stop = threading.Event()

    def first() -> str:
        found = rollcall.gather(store, members[0], len(members), stop, WAIT_S)
        assert found == members
        return rollcall.welcome(store, found)

    def job(rank: int) -> Any:
        if rank == 0:
            return in_background(first)
        own = members[rank]
        return in_background(lambda: rollcall.answer(store, rank, own, stop, WAIT_S))

    jobs = {rank: job(rank) for rank in order}
    return [jobs[rank].result(WAIT_S) for rank in range(len(members))]


@settings(max_examples=12, deadline=None)
@given(st.permutations(range(4)), st.integers(1, 3))
def test_all_hear_one_name_whoever_comes_first_and_whatever_was_said_before(
    order: list[int], num_attempts: int
) -> None:
    store, names = HashStore(), set()
    for _ in range(num_attempts):
        (name,) = set(call(store, [member(rank) for rank in range(4)], order))
        names.add(name)
    assert len(names) == num_attempts


def test_a_dead_rank_is_not_taken_for_a_live_one() -> None:
    """Its presence was the last thing it said, and nobody answers to its nonce."""
    store, dead = HashStore(), member(1)
    store.set("present/1", json.dumps(asdict(dead)))
    stop, alive = threading.Event(), [member(0), member(1)]
    with pytest.raises(EngineError, match=r"no sign of ranks \[1\] within"):
        rollcall.gather(store, alive[0], 2, stop, timeout_s=0.2)
    store.set("present/1", json.dumps(asdict(dead)))
    call(store, alive, [0, 1])  # asserts who is found
    assert not store.check([f"welcome/{dead.nonce}"])


def test_another_configuration_is_named() -> None:
    store, members = HashStore(), [member(0), member(1), member(2, "other")]
    stop = threading.Event()
    others = [
        in_background(lambda r=r: rollcall.answer(store, r, members[r], stop, WAIT_S))
        for r in (1, 2)
    ]
    with pytest.raises(ConfigError, match="rank 2, on node 1, was started with another"):
        rollcall.gather(store, members[0], 3, stop, WAIT_S)
    stop.set()
    for other in others:
        with pytest.raises(SystemExit):
            other.result(WAIT_S)


def test_a_stop_is_heard_while_waiting() -> None:
    store, stop = HashStore(), threading.Event()
    jobs = [
        in_background(lambda: rollcall.gather(store, member(0), 3, stop, WAIT_S)),
        in_background(lambda: rollcall.answer(store, 1, member(1), stop, WAIT_S)),
    ]
    stop.set()
    for job in jobs:
        with pytest.raises(SystemExit):
            job.result(WAIT_S)


def test_nobody_waits_for_ever_for_rank_0() -> None:
    with pytest.raises(EngineError, match="rank 0 calls no roll within"):
        rollcall.answer(HashStore(), 1, member(1), threading.Event(), timeout_s=0.2)


def test_the_agent_is_the_process_that_started_the_rank() -> None:
    code = (
        "from engine.nodes import Node; from launch import rollcall\n"
        "print(rollcall.new_member(Node(0, 1, 1, '127.0.0.1', 'm'), '').agent)"
    )
    here = replace(node(0), machine="m")
    twice = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        for _ in range(2)
    ]
    agents = {done.stdout.strip() for done in twice}
    assert len(agents) == 1, "two ranks of one agent"
    assert agents != {rollcall.new_member(here, "").agent}, "this test has another parent"
