"""Work and time of a game, by hand."""

from dataclasses import replace

import pytest

from engine.errors import ConfigError
from engine.learner.memory import GB
from launch.planning.assumptions import Assumptions, assume
from launch.planning.case import Case
from launch.planning.layouts import Group, Layout, Servers, Training
from launch.planning.lengths import longest
from launch.planning.rates import (
    ENGINE,
    RENDERER,
    SHARED,
    learner_s,
    loads,
    offered,
    publication_s,
    server_s,
    service,
    token_shares,
    train_s,
)
from launch.planning.server_memory import ServerMemory
from tests.launch.planning.cases import case_of

EVERYTHING = assume([f"{name}=1" for name in ("parsed", "rendered", "coder_kept", "solver_kept")])
ROOM = ServerMemory(weights=17.5 * GB, beside=5 * GB, token=147_456, tokens=300_000)


def all_kept(case: Case) -> Case:
    return replace(case, assumed=EVERYTHING)


def servers(policy: str, count: int = 1, tokens: int = 300_000) -> Servers:
    return Servers(policy=policy, count=count, tp=1, memory=replace(ROOM, tokens=tokens))


def test_a_game_of_mm_zero_by_hand() -> None:
    """4 proposals, 4 drawings of each, 5 + 8 answers to each picture; all are read and kept."""
    case = all_kept(case_of(tokens={"proposer": 100, "coder": 200, "solver": 50}))
    proposer, coder, solver = case.work
    assert (proposer.replies, coder.replies, solver.replies) == (4, 16, 16 * 13)
    assert (proposer.generated, coder.generated, solver.generated) == (400, 3200, 10_400)
    # Two questions on 16 pictures of 28 x 28 tokens, which both share.
    assert solver.read == 32 * 150 + 16 * 784
    # Learners compute the hard question alone: a prompt with its picture, and 8 answers.
    assert solver.learnt == 16 * (150 + 784) + 16 * 8 * 50
    assert coder.learnt == 4 * 500 + 16 * 200
    assert case.renders == 16


def test_a_game_of_vision_zero_by_hand() -> None:
    """4 replicas of 2 rounds of 4 seats, and 8 votes each; half of it trains, probes never do."""
    case = case_of("Qwen2.5-VL-7B", recipe="vision_zero", tokens={"voter": 10, "civilian": 20})
    civilian, spy, voter = case.work
    assert (civilian.replies, spy.replies, voter.replies) == (24, 8, 32)
    assert voter.generated == 320
    assert voter.trained == pytest.approx(32 * 0.5 * 0.95)
    assert case.policies == ("player",)


def test_shares_of_tokens_are_of_one() -> None:
    shares = token_shares(case_of())
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=lambda policy: shares[policy]) == "solver"


def test_decoding_reads_weights_once_and_the_cache_of_every_reply() -> None:
    case = case_of("Qwen3-VL-8B", tokens={"proposer": 100, "coder": 100, "solver": 100})
    case = replace(case, assumed=assume(["decode_efficiency=0.5", "step_overhead_s=0.001"]))
    shape, role = case.model.shape, case.work[1]
    found = service(case, servers("coder", tokens=10 * int(role.context)))
    assert found.batch == 10
    weights = 2 * (shape.language_params + shape.head_params)
    step = 0.001 + (weights + 10 * role.context * 147_456) / (0.5 * 3.35e12)
    assert found.tokens_per_s == pytest.approx(10 / step)
    assert found.decode_s == pytest.approx(role.generated * step / 10)


def test_games_in_flight_bound_a_batch() -> None:
    """Ninety games; by Little's law they want R A / L replies of a policy each. L ends with the
    longest: of 4 proposals, then of all drawings, then of all answers."""
    case = case_of(tokens={"proposer": 100, "coder": 300, "solver": 100})
    equal = replace(case, assumed=replace(case.assumed, length_cv2=0.0))
    assert offered(equal, "coder") == pytest.approx(90 * case.work[1].replies * 300 / 500)
    life = sum(longest(role.lengths, role.replies) for role in case.work)
    assert life > 2 * 500
    assert offered(case, "coder") == pytest.approx(90 * case.work[1].replies * 300 / life)
    wanted = offered(case, "proposer")
    assert service(case, servers("proposer", 4, 10**8)).batch == pytest.approx(wanted / 4)


def test_two_servers_halve_all_but_the_updates_which_wait_for_both_copies() -> None:
    case = case_of()
    updates = {n: service(case, servers("solver", n, 10**5), copies=n).update_s for n in (1, 2)}
    assert updates[2] - updates[1] == pytest.approx(publication_s(case, 1))
    one, two = (
        server_s(case, servers("solver", n, 10**5), copies=n) - update / case.games_per_step
        for n, update in updates.items()
    )
    assert one == pytest.approx(2 * two)


def test_training_is_three_forward_passes_and_what_is_asked_for_besides() -> None:
    """Alone on one GPU nothing is gathered: checkpointing costs a pass, adapters spare one."""
    case = case_of()  # with a KL anchor: one pass
    case = replace(case, config=case.config.model_copy(
        update={"weights": case.config.weights}
    ))  # fmt: skip
    group = Group(policies=("solver",), ranks=1)
    took = {
        passes: train_s(case, "solver", group, Training(tokens=16384, **switches))
        for passes, switches in (
            (4, {}),
            (5, {"checkpointing": True}),
            (3, {"lora": True}),
        )
    }
    assert took[5] / took[4] == pytest.approx(5 / 4)
    assert took[3] / took[4] == pytest.approx(3 / 4)
    moments = train_s(case, "solver", group, Training(tokens=16384, offload=True)) - took[4]
    assert moments == pytest.approx(16 * case.model.shape.params / 25e9)


def test_unequal_answers_cost_learners_more_attention() -> None:
    """Of 4 passes, a pair of tokens costs 4 FLOPs of a head's size in every head; an answer of L
    tokens has L^2 / 2 of them with itself, on average L^2 (1 + cv2) / 2."""
    case = case_of(tokens={"solver": 300})
    group, training = Group(policies=("solver",), ranks=1), Training(tokens=16384)
    equal, unequal = (
        train_s(replace(case, assumed=replace(case.assumed, length_cv2=cv2)), "solver", group,
                training)
        for cv2 in (0.0, 1.0)
    )  # fmt: skip
    shape = case.model.shape
    pairs = 18 * case.work[2].trained * 300**2 / 2
    flops = 4 * 4 * shape.layers * shape.heads * shape.head_dim * pairs
    assert unequal - equal == pytest.approx(flops / (0.35 * 989e12))


@pytest.mark.parametrize("nodes", [1, 2])
def test_each_server_gets_a_copy_by_one_of_the_ranks(nodes: int) -> None:
    case = case_of(nodes=nodes)
    group = Group(policies=("proposer", "solver"), ranks=2)
    training = Training(tokens=16384)
    layout = Layout(
        groups=(group, Group(policies=("coder",), ranks=1)),
        servers=(servers("proposer"), servers("coder", 2), servers("solver", 5)),
        training=training,
    )
    trained_s = sum(train_s(case, policy, group, training) for policy in group.policies)
    copies_s = learner_s(case, group, layout) * case.games_per_step - trained_s
    bandwidth = 450e9 if nodes == 1 else 50e9
    found = loads(case, layout)
    for one, copies in zip(layout.servers, (1, 2, 3), strict=True):
        assert found[f"{one.policy}'s servers"] == server_s(case, one, copies=copies)
    assert copies_s == pytest.approx((1 + 3) * 2 * case.model.shape.params / (0.5 * bandwidth))


def test_what_shares_a_gpu_takes_turns() -> None:
    case = case_of()
    layout = Layout(
        groups=(Group(policies=case.policies, ranks=1),),
        servers=tuple(servers(policy) for policy in case.policies),
        training=Training(tokens=16384),
        sharing="all",
    )
    found = loads(case, layout)
    assert set(found) == {SHARED, RENDERER, ENGINE}
    parts = [server_s(case, one, via_disk=True) for one in layout.servers]
    parts.append(learner_s(case, layout.groups[0], layout))
    assert found[SHARED] == pytest.approx(sum(parts))
    apart = loads(case, replace(layout, sharing="none"))
    assert max(apart.values()) < found[SHARED]


def test_publication_by_file_and_by_link() -> None:
    case = case_of()
    size = 2 * case.model.shape.params
    assert publication_s(case, 3) == pytest.approx(3 * size / (0.5 * 450e9))
    for servers in (1, 3):
        assert publication_s(case, servers, via_disk=True) == pytest.approx(2 * size / 2e9)
    assert publication_s(case_of(nodes=2), 3) == pytest.approx(3 * size / (0.5 * 50e9))


@pytest.mark.parametrize(
    "given, words",
    [
        ("train_mfuu=0.3", "there is no 'train_mfuu'"),
        ("train_mfu", "want train_mfu=NUMBER"),
        ("train_mfu=40", "want a number from 1e-09 to 1$"),
        ("train_mfu=1e-320", "from 1e-09 to 1$"),
        ("step_overhead_s=-1", "from 1e-09 to 1e.09$"),
        ("step_overhead_s=inf", "from 1e-09 to 1e.09$"),
        ("train_mfu=nan", "from 1e-09 to 1$"),
    ],
)
def test_an_assumption_that_is_none_is_refused(given: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        assume([given])


def test_assumptions_are_set_one_by_one() -> None:
    assert assume(["train_mfu=0.5"]) == replace(Assumptions(), train_mfu=0.5)
