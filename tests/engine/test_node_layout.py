"""What a layout may ask for where its ranks are on several nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import LayoutConfig
from engine.errors import ConfigError
from engine.layout import check_layout, check_nodes
from engine.nodes import ADDRESS, Node


def layout(learners: list[int], shard: int | None = None, **more: object) -> LayoutConfig:
    group = {"ranks": learners, "policies": ["a"], "shard": shard}
    host = {"rank": max(learners) + 1, "policies": ["a"], "kind": "sglang"}
    return LayoutConfig.model_validate({"learners": [group], "servers": [host], **more})


def places(*sizes: int, one_machine: bool = True) -> list[Node]:
    """The node of every rank, on nodes of so many ranks."""
    return [
        Node(
            rank=rank,
            count=len(sizes),
            local_ranks=size,
            address=f"10.0.0.{rank + 1}",
            machine="m" if one_machine else f"m{rank}",
        )
        for rank, size in enumerate(sizes)
        for _ in range(size)
    ]


@pytest.mark.parametrize("first", range(1, 13))
def test_the_gpus_of_a_server_are_on_one_node(first: int) -> None:
    """Every place of a server of 4 GPUs on two nodes of 8."""
    host = {"rank": first, "policies": ["a"], "kind": "sglang", "tp": 4}
    wide = layout([0], servers=[host])
    crosses = first // 8 != (first + 3) // 8
    if not crosses:
        return check_nodes(wide, places(8, 8))
    with pytest.raises(ConfigError) as said:
        check_nodes(wide, places(8, 8))
    assert str(said.value) == (
        f"layout.servers.0.tp: ranks {first}-{first + 3} are on more than one node, a server's "
        "GPUs must be on one; node 0 has ranks 0-7, node 1 has ranks 8-15"
    )


def test_copies_of_the_weights_that_cross_nodes_are_refused_with_the_order_that_mends_it() -> None:
    check_nodes(layout([0, 1, 2, 3], shard=2), places(2, 3))
    with pytest.raises(ConfigError, match=r"layout.learners.0.ranks: .* \[0, 2\] .* by node: node"):
        check_nodes(layout([0, 2, 1, 3], shard=2), places(2, 3))
    check_nodes(layout([0, 2, 1, 3]), places(2, 3))  # one copy over all cannot but cross
    check_nodes(layout([0, 1, 2, 3, 4, 5], shard=3), places(2, 5))  # nor can these


@given(st.data())
def test_ordered_by_node_a_group_is_never_refused(data: st.DataObject) -> None:
    """Against a loop over copies: refused are those that cross, where by node none does."""
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    ranks = data.draw(st.permutations(range(sum(sizes))))
    shard = data.draw(st.sampled_from([n for n in range(1, len(ranks) + 1) if len(ranks) % n == 0]))
    nodes = places(*sizes, 1)

    def cross(order: list[int]) -> bool:
        copies = (order[i : i + shard] for i in range(0, len(order), shard))
        return any(len({nodes[rank].rank for rank in copy}) > 1 for copy in copies)

    check_nodes(layout(sorted(ranks), shard), nodes)
    if cross(ranks) and not cross(sorted(ranks)) and shard < len(ranks):
        with pytest.raises(ConfigError, match="order them by node"):
            check_nodes(layout(ranks, shard), nodes)
    else:
        check_nodes(layout(ranks, shard), nodes)


def test_loopback_is_refused_between_machines_only() -> None:
    def own_loopback(one_machine: bool) -> list[Node]:
        nodes = places(1, 1, one_machine=one_machine)
        return [nodes[0], Node(1, 2, 1, "127.0.1.1", nodes[1].machine)]

    check_nodes(layout([0]), own_loopback(one_machine=True))
    with pytest.raises(ConfigError, match=rf"{ADDRESS}: node 1 takes 127.0.1.1 for its own"):
        check_nodes(layout([0]), own_loopback(one_machine=False))


def test_a_router_is_reached_from_all_nodes() -> None:
    def routed(host: str) -> LayoutConfig:
        return layout([0], routers={"a": f"{host}:4000"})

    check_nodes(routed("10.0.0.2"), places(1, 1, one_machine=False))
    check_nodes(routed("127.0.0.1"), places(1, 1))
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(ConfigError, match=rf"layout.routers.a: {host}:4000 .* of rank 1"):
            check_nodes(routed(host), places(1, 1, one_machine=False))


@pytest.mark.parametrize(
    "num_nodes, each", [(1, "--standalone .*=4"), (2, "--nnodes=2 .*=2 "), (3, "--nnodes=3 .*=N ")]
)
def test_a_wrong_world_size_prints_the_line_for_so_many_nodes(num_nodes: int, each: str) -> None:
    with pytest.raises(ConfigError, match=f"needs 4 ranks, torchrun started 9; .*{each}") as said:
        check_layout(layout([0, 1, 2]), ("a",), world=9, num_nodes=num_nodes)
    assert ("HOST:PORT" in str(said.value)) == (num_nodes > 1)
    assert str(said.value).endswith(" launch/async_selfplay.py CONFIG")
