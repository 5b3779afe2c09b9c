"""A run on two nodes: two torchrun agents that share a run folder, a rendezvous, and no more."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.rundir import RunDir
from tests.e2e.command import (
    WITHOUT_MEASURING,
    Ended,
    Process,
    Started,
    descendants,
    left_of,
    parent_of,
    selfplay,
    started,
)
from tests.e2e.network import free_ports
from tests.e2e.nodes import Agent, kill, listening
from tests.e2e.records import (
    POLICIES,
    attempts_of,
    check_books,
    check_conservation,
    check_lineage,
    check_versions,
    checkpoints_of,
    events_of,
    steps_of,
    summary_of,
)

pytestmark = pytest.mark.slow

STEPS = 9
ENGINE, BRANCH = b"launch.engine", b"launch.branch"
START_S = 600.0
"""Two interpreters with torch more than elsewhere, on two cores."""


@dataclass(slots=True)
class Pair:
    """A run on two nodes, and what was seen on its way."""

    dir: RunDir
    agents: list[Agent]
    listens: list[dict[str, set[int]]] = field(default_factory=list)
    """Of each node, while the run plays."""
    pids: list[set[int]] = field(default_factory=list)
    """Recorded in the run-time directory of each node, then."""
    engines: list[tuple[int, int]] = field(default_factory=list)
    """(engines, branches of it) on each node, then."""
    stores: set[int | None] = field(default_factory=set)
    """Parents of those of node 0 that listen at every interface, then."""
    agent_pid: int = 0
    """Of node 0."""
    ended: list[Ended] = field(default_factory=list)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The learner is on node 0, the server on node 1, with a branch of the engine that plays the
    games. The engine is killed, and then the agent of node 1, which comes back."""
    root, port = tmp_path_factory.mktemp("nodes"), free_ports(1)
    agents = [Agent(rank=rank, port=port, root=root) for rank in range(2)]
    one = Pair(RunDir(root / "runs" / "pair"), agents)
    arguments = [
        *("run.name=pair", f"run.root={root / 'runs'}", f"run.steps={STEPS}"),
        *("run.checkpoint_every=1", "streams.max_age=1", "monitor.port=0", *WITHOUT_MEASURING),
        "layout.branches=[{rank: 1, servers: [1]}]",
    ]
    first, second = agents
    with first.start(*arguments) as front:
        with second.start(*arguments) as other:
            front.until(lambda: saved(one.dir, 1), "checkpoints of step 1", timeout_s=START_S)
            look(one, front, other)
            lose_the_engine(one, front)
            second.look(other)
            kill(other)
            front.until(lambda: not second.alive(), "the end of all of node 1", timeout_s=60)
        with second.start(*arguments) as other:
            front.until(lambda: attempts_of(one.dir) == 3, "a third attempt", timeout_s=START_S)
            for agent, seen in ((first, front), (second, other)):
                agent.look(seen)
            one.ended = [front.wait(), other.wait()]
    yield one
    for process in first.family | second.family:
        process.kill()


def look(one: Pair, *fronts: Started) -> None:
    """Who is there, and who listens where."""
    one.agent_pid = fronts[0].process.pid
    for agent, seen in zip(one.agents, fronts, strict=True):
        agent.look(seen)
        one.listens.append(listening(agent.family))
        numbers = [sum(runs(p, name) for p in agent.family) for name in (ENGINE, BRANCH)]
        one.engines.append((numbers[0], numbers[1]))
        one.pids.append({int(path.name) for path in agent.runtime.glob("*/*/pids/*")})
    one.stores = {parent_of(pid) for pid in one.listens[0]["::"]}


def lose_the_engine(one: Pair, front: Started) -> None:
    """Both agents begin the next attempt, though nothing of node 1 has failed."""
    (engine,) = (p for p in one.agents[0].family if runs(p, ENGINE))
    engine.kill()
    front.until(lambda: attempts_of(one.dir) == 2, "a second attempt", timeout_s=START_S)
    steps = len(steps_of(one.dir))
    front.until(lambda: len(steps_of(one.dir)) > steps, "a step of the second attempt")


def runs(process: Process, module: bytes) -> bool:
    try:
        return module in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return False


def saved(run: RunDir, step: int) -> bool:
    return all(f"{policy}: checkpoint of step {step}" in events_of(run) for policy in POLICIES)


def test_it_plays_to_its_end_after_an_engine_and_a_node_were_lost(pair: Pair) -> None:
    assert [ended.status for ended in pair.ended] == [0, 0], pair.ended
    summary = summary_of(pair.dir)
    assert summary["steps"] == dict.fromkeys(POLICIES, STEPS)
    assert summary["attempts"] == 3
    assert summary["games"]["in_flight"] == 0
    for policy in POLICIES:
        assert checkpoints_of(pair.dir, policy)[-1].name == f"step-{STEPS:08d}"


def test_each_attempt_goes_on_where_the_one_before_had_saved(pair: Pair) -> None:
    for attempt in (2, 3):
        begin = f"attempt {attempt} goes on with "
        (line,) = [text for text in events_of(pair.dir) if text.startswith(begin)]
        assert all(int(step) >= 1 for step in re.findall(r"of step (\d+)", line)), line
    check_lineage(pair.dir, STEPS)
    check_versions(pair.dir)


def test_the_books_balance(pair: Pair) -> None:
    summary = summary_of(pair.dir)
    check_conservation(summary)
    check_books(pair.dir, summary)


def test_a_killed_agent_leaves_nothing_behind(pair: Pair) -> None:
    """torchrun's ranks outlive it by themselves, and their servers would hold ports and GPUs."""
    assert pair.agents[1].family
    assert all(left_of(agent.family) == set() for agent in pair.agents)


def test_each_node_listens_at_its_own_address(pair: Pair) -> None:
    """But for the store, which torch opens at every interface, in rank 0 as in the agents."""
    engine_node, server_node = pair.listens
    assert pair.stores == {pair.agent_pid}
    assert set(engine_node) == {"127.0.0.1", "::"}
    assert set(server_node) == {"127.0.0.2", "127.0.0.1"}  # gloo takes its interface's first
    servers = server_node["127.0.0.2"]
    assert servers <= pair.pids[1]


def test_a_branch_of_the_engine_plays_on_the_other_node(pair: Pair) -> None:
    assert pair.engines == [(1, 0), (0, 1)]
    assert summary_of(pair.dir)["parts"]["renderer"]["workers"] == 2, "one of them is the branch's"


def test_process_ids_stay_with_their_node(pair: Pair) -> None:
    own = [{process.pid for process in agent.family} for agent in pair.agents]
    assert pair.pids[0]
    assert pair.pids[1]
    assert pair.pids[0] <= own[0]
    assert pair.pids[1] <= own[1]
    assert not [path for agent in pair.agents for path in agent.runtime.glob("*/*/pids/*")]


def test_learners_on_both_nodes_train_one_copy_of_the_weights(tmp_path: Path) -> None:
    """Ranks 0 (node 0) and 1 (node 1) are a learner group, and rank 2 (node 1) serves: two gloo
    ranks hold one sharded copy, and the agents start unlike numbers of ranks."""
    root, port = tmp_path, free_ports(1)
    agents = [Agent(rank=rank, port=port, root=root, num_ranks=1 + rank) for rank in range(2)]
    policies = ", ".join(POLICIES)
    arguments = [
        *("run.name=wide", f"run.root={root / 'runs'}", "run.steps=2", "monitor.port=0"),
        *("run.checkpoint_every=2", *WITHOUT_MEASURING),
        f"layout.learners=[{{ranks: [0, 1], policies: [{policies}]}}]",
        f"layout.servers=[{{rank: 2, policies: [{policies}]}}]",
    ]
    folder = RunDir(root / "runs" / "wide")
    with agents[0].start(*arguments) as front, agents[1].start(*arguments) as other:
        ended = [front.wait(), other.wait()]
    assert [one.status for one in ended] == [0, 0], ended
    summary = summary_of(folder)
    assert summary["steps"] == dict.fromkeys(POLICIES, 2)
    check_conservation(summary)
    for policy in POLICIES:
        (last,) = checkpoints_of(folder, policy)
        shards = {path.name for path in (last / "trainer").iterdir()}
        assert shards == {f"shard-0000{rank}-of-00002.safetensors" for rank in (1, 2)}


def test_in_a_run_on_one_node_nothing_listens_beyond_loopback(tmp_path: Path) -> None:
    """All processes that the command starts, torchrun's agent included."""
    folder = RunDir(tmp_path / "runs" / "own")
    arguments = selfplay(
        "run.name=own", f"run.root={tmp_path / 'runs'}", "run.steps=50", *WITHOUT_MEASURING
    )
    with started(arguments, tmp_path / "output") as front:
        front.until(lambda: bool(steps_of(folder)), "a first step", timeout_s=START_S)
        found = listening(descendants(front.process.pid))
    assert set(found) == {"127.0.0.1"}, found
    assert len(found["127.0.0.1"]) >= 3, "the engine's dashboard, the server, the learner"
