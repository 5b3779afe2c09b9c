"""Loading, overrides, and one clear line for every mistake."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import LayoutConfig, Section, StreamsConfig, digest, load
from engine.errors import ConfigError
from engine.layout import (
    Follower,
    check_branches,
    check_layout,
    followers_of,
    gpu_of,
    job_of,
    shared_gpus,
    world_size,
)


class Root(Section):
    streams: StreamsConfig = StreamsConfig()
    layout: LayoutConfig | None = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "c.yaml"
    file.write_text("streams: {max_age: 2}\n")
    return file


def test_overrides_win_over_the_file(path: Path) -> None:
    assert load(Root, path).streams.max_age == 2
    assert load(Root, path, ["streams.max_age=7"]).streams.max_age == 7


def test_an_override_reaches_into_a_list(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "layout: {learners: [{ranks: [0], policies: [a]}], servers: [{rank: 1, policies: [a]}]}"
    )
    config = load(Root, file, ["layout.servers.0.port=4000"])
    assert config.layout is not None
    assert config.layout.servers[0].port == 4000


@pytest.mark.parametrize(
    "override, words",
    [
        ("streams.max_aeg=1", "did you mean 'streams.max_age'"),
        ("streems.max_age=1", "did you mean 'streams'"),
        ("streams.max_age=-1", "streams.max_age"),
        ("streams.max_age", "not of the form"),
        ("streams.max_age={", "not valid YAML"),
        ("streams.max_age.deep=1", "no such place"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(path: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Root, path, [override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_a_broken_file_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(Root, file)
    assert "bad.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load(Root, tmp_path / "none.yaml")


@given(st.text(max_size=40))
def test_no_override_is_a_traceback(text: str) -> None:
    file = Path(__file__).resolve().parents[2] / "launch/configs/quickstart.yaml"
    with contextlib.suppress(ConfigError):
        load(Root, file, [text])


def test_the_digest_depends_on_values_only(path: Path) -> None:
    assert digest(load(Root, path)) == digest(load(Root, path, ["streams.max_age=2"]))
    assert digest(load(Root, path)) != digest(load(Root, path, ["streams.max_age=3"]))


def layout(learners: list[dict[str, object]], servers: list[dict[str, object]]) -> LayoutConfig:
    return LayoutConfig.model_validate({"learners": learners, "servers": servers})


TWO = layout([{"ranks": [0], "policies": ["a", "b"]}], [{"rank": 1, "policies": ["a", "b"]}])


def test_each_rank_finds_its_job() -> None:
    check_layout(TWO, ("a", "b"), world=2)
    assert world_size(TWO) == 2
    assert job_of(TWO, 0).learner == TWO.learners[0]
    assert job_of(TWO, 1).server == TWO.servers[0]


def test_tensor_parallel_neighbours_idle() -> None:
    wide = layout([{"ranks": [0], "policies": ["a"]}], [{"rank": 1, "policies": ["a"], "tp": 2}])
    check_layout(wide, ("a",), world=3)
    assert job_of(wide, 2).server is None
    assert job_of(wide, 2).learner is None


@pytest.mark.parametrize(
    "bad, words",
    [
        (layout([{"ranks": [0], "policies": ["a"]}], [{"rank": 0, "policies": ["a"]}]), "rank 0"),
        (layout([{"ranks": [0], "policies": ["x"]}], [{"rank": 1, "policies": ["a"]}]), "'x'"),
        (layout([{"ranks": [0], "policies": ["a"]}], [{"rank": 1, "policies": ["b"]}]), "'b'"),
        (
            layout(
                [{"ranks": [0], "policies": ["a"]}, {"ranks": [2], "policies": ["a"]}],
                [{"rank": 1, "policies": ["a"]}],
            ),
            "more than one",
        ),
    ],
)
def test_a_wrong_layout_is_refused(bad: LayoutConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_layout(bad, ("a",))


JUDGE = followers_of({"judge": ("a", 3)})


def test_a_follower_has_servers_and_no_learner() -> None:
    assert JUDGE["judge"] == Follower("a", 3)
    learners: list[dict[str, object]] = [{"ranks": [0], "policies": ["a"]}]
    judged = layout(learners, [{"rank": 1, "policies": ["a", "judge"]}])
    check_layout(judged, ("a",), world=2, followers=JUDGE)
    with pytest.raises(ConfigError, match=r"layout.servers: there is no policy 'judge'.*are a$"):
        check_layout(judged, ("a",))
    trained = layout([{"ranks": [0], "policies": ["a", "judge"]}], [{"rank": 1, "policies": ["a"]}])
    with pytest.raises(ConfigError, match=r"layout.learners: there is no policy 'judge'"):
        check_layout(trained, ("a",), followers=JUDGE)


@pytest.mark.parametrize(
    "host, fix",
    [
        (
            {"rank": 1, "policies": ["a"]},
            "set layout.servers.0.policies=[a, judge]",
        ),
        (
            {"rank": 1, "policies": ["a"], "kind": "sglang", "tp": 2},
            "add {rank: 3, policies: [judge], kind: sglang} to layout.servers",
        ),
    ],
)
def test_a_follower_without_a_server_is_refused_with_the_fix(
    host: dict[str, object], fix: str
) -> None:
    bare = layout([{"ranks": [0], "policies": ["a"]}], [host])
    with pytest.raises(ConfigError) as caught:
        check_layout(bare, ("a",), followers=JUDGE)
    assert str(caught.value) == (
        f"layout.servers: 'judge', which holds older weights of 'a', has none; {fix}"
    )


def sharing(gpu_of: dict[int, int], **host: object) -> LayoutConfig:
    """A learner on rank 0, SGLang servers of a and b on ranks 1 and 2."""
    servers = [
        {"rank": rank, "policies": [policy], "kind": "sglang", "cache_tokens": 1000, **host}
        for rank, policy in ((1, "a"), (2, "b"))
    ]
    tree = {
        "device": "cuda",
        "learners": [{"ranks": [0], "policies": ["a", "b"]}],
        "servers": servers,
        "gpu_of": gpu_of,
    }
    return LayoutConfig.model_validate(tree)


def test_ranks_share_the_gpus_that_they_are_told_to() -> None:
    servers = sharing({1: 1, 2: 1})
    check_layout(servers, ("a", "b"), world=3)
    assert [gpu_of(servers, rank, rank) for rank in range(3)] == [0, 1, 1]
    assert shared_gpus(servers) == {1: (1, 2)}
    everything = sharing({1: 0, 2: 0})
    check_layout(everything, ("a", "b"), world=3)
    assert shared_gpus(everything) == {0: (0, 1, 2)}
    assert shared_gpus(sharing({})) == {}
    # On another node the local rank counts.
    assert gpu_of(sharing({}), 9, 1) == 1


@pytest.mark.parametrize(
    "bad, words",
    [
        (sharing({1: 1, 2: 1}, cache_tokens=None), r"servers.0.cache_tokens: it shares a GPU"),
        (sharing({7: 0}), r"layout.gpu_of: there is no rank 7; there are 0 to 2"),
        (
            sharing({1: 1, 2: 1}).model_copy(update={"device": "cpu"}),
            "layout.gpu_of: there are no GPUs with device=cpu",
        ),
        (
            layout(
                [{"ranks": [0, 1], "policies": ["a", "b"]}],
                [{"rank": 2, "policies": ["a"]}, {"rank": 3, "policies": ["b"]}],
            ).model_copy(update={"device": "cuda", "gpu_of": {1: 0}}),
            "ranks of layout.learners.0 share a GPU, which NCCL refuses",
        ),
        (
            layout(
                [{"ranks": [0], "policies": ["a", "b"]}],
                [
                    {"rank": 1, "policies": ["a"], "kind": "sglang", "tp": 2},
                    {"rank": 3, "policies": ["b"]},
                ],
            ).model_copy(update={"device": "cuda", "gpu_of": {3: 2}}),
            "layout.servers.0 has tp 2",
        ),
    ],
)
def test_gpus_that_can_not_be_shared_so_are_refused(bad: LayoutConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_layout(bad, ("a", "b"))


def test_a_wrong_world_size_prints_the_torchrun_line() -> None:
    with pytest.raises(ConfigError, match=r"torchrun --standalone .*--nproc-per-node=2"):
        check_layout(TWO, ("a", "b"), world=8)


def test_a_key_in_the_wrong_section_is_shown_its_place(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'streams.backend'; did you mean 'layout.backend'\?"):
        load(Root, path, ["streams.backend=gloo"])
    with pytest.raises(ConfigError, match=r"'streams.zzz'; streams has schedule, "):
        load(Root, path, ["streams.zzz=1"])


def test_gpus_are_shared_on_one_node_only() -> None:
    with pytest.raises(ConfigError, match=r"layout\.gpu_of: .*one node, and there are 2"):
        check_layout(sharing({1: 1, 2: 1}), ("a", "b"), world=3, num_nodes=2)


def branched(*branches: tuple[int, tuple[int, ...]], **more: object) -> LayoutConfig:
    """Learner on rank 0; servers of a and b on rank 1, of a on 2, of b on 3, of c on 4."""
    hosts = {1: ["a", "b"], 2: ["a"], 3: ["b"], 4: ["c"]}
    tree = {
        "learners": [{"ranks": [0], "policies": ["a", "b"]}],
        "servers": [{"rank": rank, "policies": policies} for rank, policies in hosts.items()],
        "branches": [{"rank": rank, "servers": servers} for rank, servers in branches],
        **more,
    }
    return LayoutConfig.model_validate(tree)


def test_branches_share_out_the_servers_that_games_ask() -> None:
    check_branches(branched(), ("a", "b"))
    check_branches(branched((0, (1, 2, 3))), ("a", "b"))
    check_branches(branched((1, (1,)), (3, (2, 3))), ("a", "b"))
    check_branches(branched((1, (1,)), (3, (2, 3, 4))), ("a", "b"))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (branched((5, (1, 2, 3))), r"branches.0.rank: there is no rank 5"),
        (branched((1, (1,)), (1, (2, 3))), r"branches.1.rank: rank 1 has a branch already"),
        (branched((1, (0, 1, 2, 3))), r"branches.0.servers: rank 0 hosts no servers; .* 1, 2, 3"),
        (branched((1, (1, 2)), (3, (2, 3))), r"branches.1.servers: those of rank 2 belong to .*0"),
        (branched((1, (1, 3)), (2, (2,))), r"branches.1.servers: none of them serves b"),
        (branched((1, (1, 2))), r"no games would ask the servers of rank 3"),
        (branched((1, (1, 2, 3)), routers={"a": "127.0.0.1:3"}), r"layout.routers out"),
    ],
)  # fmt: skip
def test_branches_that_do_not_fit_are_refused(bad: LayoutConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_branches(bad, ("a", "b"))
