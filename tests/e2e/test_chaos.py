"""The parts of `tests.e2e.chaos`. `test_survival.py` does to a run, in short, what that does."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.buffer import Buffer
from engine.rundir import RunDir
from tests.e2e.blows import (
    LIFE_EVERY_S,
    LONGEST_S,
    RENDER_EVERY_S,
    SERVER_EVERY_S,
    TEMPLATE_SHARE,
    plan,
)
from tests.e2e.chaos import Life, lost_steps
from tests.e2e.network import SIDES, Side, free_ports, is_free, network
from tests.e2e.records import POLICIES
from tests.engine.make_groups import make_group

WAIT_S = 300.0


def test_a_plan_is_made_by_its_seed_and_has_everything() -> None:
    seconds = 900.0
    blows = plan(seconds, seed=0)
    assert blows == plan(seconds, seed=0) != plan(seconds, seed=1)
    assert blows == sorted(blows, key=lambda blow: blow.at_s)
    assert all(0 < blow.at_s <= seconds for blow in blows)
    kills = Counter(blow.who for blow in blows if blow.what == "kill")
    assert kills["render worker"] == seconds / RENDER_EVERY_S
    assert kills["server"] + kills["template"] == seconds / SERVER_EVERY_S
    assert kills["template"] == kills["server"] / (TEMPLATE_SHARE - 1) > 0
    lives = kills["engine"], kills["rank 0"] + kills["rank 1"]
    assert sum(lives) == seconds // LIFE_EVERY_S
    assert min(lives) > 0
    for what in ("pause", "swallow"):
        chosen = [blow for blow in blows if blow.what == what]
        assert {blow.for_s <= LONGEST_S for blow in chosen} == {True}
        assert len({blow.who for blow in chosen}) > 1


def test_the_steps_that_a_restart_undid() -> None:
    made = [("solver", step) for step in (1, 2, 3, 4, 3, 4, 5, 2, 3)]
    records = [{"policy": policy, "step": step} for policy, step in made]
    assert lost_steps(records) == {**dict.fromkeys(POLICIES, 0), "solver": 4}


def test_the_step_of_a_run_falls_when_a_restart_undoes_steps(tmp_path: Path) -> None:
    life = Life(dir=RunDir(tmp_path), steps=2, heldout_items=0, output=tmp_path)
    assert life.step == 0
    buffer = Buffer.open(life.dir.database)
    attempt = buffer.begin_attempt()
    for policy in POLICIES:
        buffer.reserve_version(policy, 0, attempt)
        for step in (1, 2):
            assert not life.has_played
            game = buffer.start_game("mm_zero")
            buffer.submit(make_group(game, policy))
            buffer.end_game(game)
            games, ages = {policy: [game]}, {policy: 9}
            buffer.lease(policy, step, attempt, games=games, steps={policy: step - 1}, max_age=ages)
            buffer.trained(policy, step, attempt, step=step)
    assert life.step == 2
    assert life.has_played
    buffer.restore(POLICIES[1], step=1, request=1, attempt=buffer.begin_attempt())
    assert life.step == 1
    assert not life.has_played
    buffer.close()


@pytest.mark.parametrize("side", SIDES)
def test_a_network_that_swallows_holds_back_what_that_side_sends(side: Side) -> None:
    other = SIDES[1 - SIDES.index(side)]
    paths = {"sampler": b"POST /generate HTTP/1.1\r\n", "learner": b"GET /model_info HTTP/1.1\r\n"}
    port = free_ports(2)
    with echo(port + 1), network({port: port + 1}) as net:
        ends = {}
        for one in SIDES:
            ends[one] = socket.create_connection(("127.0.0.1", port), WAIT_S)
            ends[one].sendall(paths[one])
            assert ends[one].recv(1000) == paths[one]
        net.swallow(side)
        ends[other].sendall(b"on")  # in the order of the calls: by now it swallows
        assert ends[other].recv(1000) == b"on"
        ends[side].sendall(b"lost")
        ends[side].settimeout(0.2)
        with pytest.raises(TimeoutError):
            ends[side].recv(1000)
        net.let_through(side)
        ends[side].settimeout(WAIT_S)
        assert ends[side].recv(1000) == b"lost"
        for end in ends.values():
            end.close()
    assert is_free(port), "another network can take its place"


@contextmanager
def echo(port: int) -> Iterator[None]:
    """A server that says what it hears."""

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1000):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(WAIT_S)
