"""The longest reply with its prompt, of each policy."""

import pytest

from launch.config import RootConfig, load_root
from launch.planning.case import CONFIGS
from launch.planning.longest import longest_row_of, longest_rows
from launch.planning.work import PROMPT_TOKENS
from tests.launch.planning.cases import case_of

PICTURE = 700


def config_of(name: str, *overrides: str) -> RootConfig:
    return load_root(CONFIGS / f"{name}.yaml", overrides)


def test_who_reads_a_proposal_may_read_the_longest_one() -> None:
    rows = longest_rows(config_of("mm_zero_8gpu", "recipe.proposer.max_new_tokens=1000"), PICTURE)
    assert rows == {
        "proposer": PROMPT_TOKENS["proposer"] + 1000,
        "coder": PROMPT_TOKENS["coder"] + 1000 + 4096,
        "solver": PROMPT_TOKENS["solver"] + PICTURE + 1000 + 4096,
    }


@pytest.mark.parametrize(("rules", "clue"), [("streamzero", 60), ("release", 500)])
def test_a_player_reads_all_clues_and_its_own_notes(rules: str, clue: int) -> None:
    config = config_of(
        "vision_zero_8gpu", "recipe.num_players=3", "recipe.num_rounds=3",
        "recipe.clue.max_new_tokens=500", f"recipe.rules={rules}",
    )  # fmt: skip
    vote = PROMPT_TOKENS["voter"] + PICTURE + 9 * clue + 1024
    player = PROMPT_TOKENS["spy"] + PICTURE + 9 * clue + 2 * 500 + 500
    assert longest_rows(config, PICTURE) == {"player": min(8192, max(vote, player))}


def test_no_server_takes_more_than_its_context() -> None:
    short = [f"layout.servers.{i}.context_length=5000" for i in range(4)]
    assert longest_rows(config_of("mm_zero_8gpu", *short), PICTURE) == {
        "proposer": 4596, "coder": 5000, "solver": 5000,
    }  # fmt: skip
    unknown = config_of("mm_zero_8gpu", *short, "layout.servers.0.extra_args=[--context-length=1]")
    assert longest_rows(unknown, PICTURE)["coder"] == 8692


def test_policies_of_one_model_have_its_longest() -> None:
    case = case_of(one_policy=True)
    assert case.longest_rows == {"shared": max(case_of().longest_rows.values())}


def test_a_group_has_the_longest_of_its_policies_with_pictures_of_its_model() -> None:
    config = config_of("quickstart")
    rows = [longest_row_of(config, [policy]) for policy in ("proposer", "coder", "solver")]
    assert longest_row_of(config, ("proposer", "coder", "solver")) == max(rows)
    assert max(rows) <= 512
