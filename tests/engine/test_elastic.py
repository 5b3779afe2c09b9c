"""When a server moves, and when it does not. No I/O."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.elastic import Elastic, ElasticConfig, Move

RULES = ElasticConfig(gain=0.2, patience_s=10, cooldown_s=30, smoothing_s=1e-9)
SERVERS = {"proposer": ["p0"], "coder": ["c0", "c1"], "solver": ["s0"]}


def play(
    demand: Callable[[int], dict[str, float]],
    *,
    seconds: int,
    rules: ElasticConfig = RULES,
    servers: dict[str, list[str]] | None = None,
) -> tuple[list[tuple[int, Move]], dict[str, list[str]]]:
    """(second, move) of all moves, each made at once; the servers at the end."""
    owned = {policy: list(urls) for policy, urls in (servers or SERVERS).items()}
    elastic, moves = Elastic(rules), []
    for second in range(seconds):
        move = elastic.observe(float(second), demand(second), owned)
        if move is not None:
            owned[move.source].remove(move.url)
            owned[move.target].append(move.url)
            moves.append((second, move))
    return moves, owned


def test_a_server_follows_the_demand_after_the_patience() -> None:
    demand = {"proposer": 10.0, "coder": 40.0, "solver": 100.0}
    moves, owned = play(lambda _: demand, seconds=100)
    assert moves == [(10, Move("c0", "coder", "solver", (20.0, 100.0)))]
    assert owned == {"proposer": ["p0"], "coder": ["c1"], "solver": ["s0", "c0"]}


def test_nothing_moves_where_it_gains_too_little() -> None:
    """The coder would be left with 85 tokens on one server: 15 % less than the solver's 100."""
    assert play(lambda _: {"proposer": 1.0, "coder": 85.0, "solver": 100.0}, seconds=99)[0] == []
    assert play(lambda _: {"proposer": 1.0, "coder": 79.0, "solver": 100.0}, seconds=99)[0] != []


def test_a_policy_keeps_its_last_server() -> None:
    servers = {"coder": ["c0"], "solver": ["s0"]}
    assert play(lambda _: {"coder": 0.0, "solver": 1e9}, seconds=99, servers=servers)[0] == []


def test_a_load_that_swings_moves_nothing() -> None:
    def swinging(second: int) -> dict[str, float]:
        is_high = second // 5 % 2 == 0
        return {"coder": 10.0 if is_high else 200.0, "solver": 200.0 if is_high else 10.0}

    servers = {"coder": ["c0", "c1"], "solver": ["s0", "s1"]}
    assert play(swinging, seconds=200, servers=servers)[0] == []


def test_after_a_move_the_queues_settle_first() -> None:
    servers = {"coder": ["c0", "c1", "c2", "c3"], "solver": ["s0"]}
    demand = {"coder": 4.0, "solver": 1000.0}
    moves, owned = play(lambda _: demand, seconds=120, servers=servers)
    assert [second for second, _ in moves] == [10, 40, 70]
    assert owned == {"coder": ["c3"], "solver": ["s0", "c0", "c1", "c2"]}


def test_demand_is_smoothed() -> None:
    """A spike of one second in a minute is not a demand."""
    rules = ElasticConfig(gain=0.2, patience_s=3, cooldown_s=30, smoothing_s=60)
    spiky = play(
        lambda second: {"coder": 50.0, "solver": 3000.0 if second == 30 else 20.0},
        seconds=33,
        rules=rules,
        servers={"coder": ["c0", "c1"], "solver": ["s0"]},
    )
    assert spiky[0] == []


@given(
    st.lists(st.floats(0, 1e6), min_size=3, max_size=3),
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
)
def test_a_constant_demand_comes_to_rest(demand: list[float], counts: list[int]) -> None:
    """No server goes back and forth: the greatest load falls with every move, and moves end."""
    names = ("a", "b", "c")
    servers = {n: [f"{n}{i}" for i in range(k)] for n, k in zip(names, counts, strict=True)}
    wanted = dict(zip(names, demand, strict=True))
    moves, owned = play(lambda _: wanted, seconds=1500, servers=servers)
    assert sum(map(len, owned.values())) == sum(counts)
    assert all(owned.values())
    assert len(moves) < sum(counts)
    peaks = [move.loads[1] for _, move in moves]
    assert peaks == sorted(peaks, reverse=True)
    assert not [second for second, _ in moves if second > 1000]


def test_no_servers_no_move() -> None:
    assert Elastic(RULES).observe(0.0, {}, {}) is None


@pytest.mark.parametrize("demand", [{}, {"coder": 0.0}])
def test_no_demand_no_move(demand: dict[str, float]) -> None:
    assert play(lambda _: demand, seconds=60)[0] == []
