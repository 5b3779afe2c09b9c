import json
from pathlib import Path

import pytest

from engine.buffer import Buffer
from engine.conservation import violations
from engine.summary import build_summary, busy_fractions, write_summary
from tests.engine.make_groups import make_group

KEYS = {
    "games", "groups", "funnel", "steps", "version", "tokens", "age", "judge_age", "attempts",
    "wall_s", "busy_fraction", "parts", "heldout", "seed", "config_sha256", "violations",
}  # fmt: skip


@pytest.fixture
def summary(tmp_path: Path) -> dict:
    buffer = Buffer.open(tmp_path / "run.db")
    buffer.begin_attempt()
    version = buffer.reserve_version("solver", 0, 1)
    games = [buffer.start_game("mm_zero") for _ in range(3)]
    for game in games[:2]:
        buffer.submit(make_group(game, versions=(version,)))
    buffer.submit(make_group(games[0], rewards=(1.0, 1.0)))
    buffer.end_game(games[0])
    buffer.end_game(games[1], dropped="deadline")
    buffer.lease(
        "solver", 1, 1, games={"solver": games}, steps={"solver": 2}, max_age={"solver": 4}
    )
    buffer.trained("solver", 1, 1, 3)
    buffer.add_all({"generated/solver": 70, "trained/solver": 40, "wall_s": 12.5})
    buffer.add_all({"generated/judge": 30})
    buffer.add_all({"busy_s/server 0": 9.0, "busy_of_s/server 0": 12.0})
    return build_summary(
        buffer,
        steps={"solver": 3, "coder": 0},
        versions={"solver": 1, "coder": 0},
        max_age={"solver": 4, "coder": 4},
        heldout={"before": {"coder_render": 0.5}, "after": {"coder_render": 0.75},
                 "delta": {"coder_render": 0.25}, "ci95": {"coder_render": [0.1, 0.4]}},
        seed=7,
        config_sha256="ab",
    )  # fmt: skip


def test_it_has_every_key_and_the_durable_counts(summary: dict) -> None:
    assert set(summary) == KEYS
    assert summary["games"] == {
        "started": 3, "finished": 1, "dropped": {"deadline": 1}, "in_flight": 1,
    }  # fmt: skip
    assert summary["groups"]["solver"] == {
        "submitted": 3, "trained": 2, "dropped": {"zero_variance": 1}, "ready": 0, "leased": 0,
    }  # fmt: skip
    assert summary["groups"]["coder"]["submitted"] == 0
    assert summary["funnel"]["solver"] == {
        "sampled": 6, "usable": 6, "groups": 3, "kept": 2, "trained": 2,
    }  # fmt: skip
    assert summary["funnel"]["coder"] == dict.fromkeys(summary["funnel"]["solver"], 0)
    assert summary["tokens"]["solver"] == {"generated": 70, "trained": 40}
    assert summary["tokens"]["coder"] == {"generated": 0, "trained": 0}
    assert summary["tokens"]["judge"] == {"generated": 30, "trained": 0}, "a follower's count too"
    assert set(summary["steps"]) == {"solver", "coder"}
    assert summary["age"]["solver"] == {"mean": 2.0, "p95": 2, "max": 2, "max_age": 4}
    assert summary["age"]["coder"] == {"mean": None, "p95": None, "max": None, "max_age": 4}
    assert summary["judge_age"] == {"mean": 0.0, "max": 0}
    assert (summary["attempts"], summary["wall_s"]) == (1, 12.5)
    assert summary["busy_fraction"] == {"server 0": 0.75}
    assert summary["heldout"]["ci95"]["coder_render"] == [0.1, 0.4]
    assert summary["violations"] == []


def test_it_is_written_whole_and_is_json(summary: dict, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("old")
    write_summary(path, summary)
    assert json.loads(path.read_text()) == summary
    assert not path.with_suffix(".tmp").exists()


def test_what_vanished_is_named() -> None:
    games = {"started": 3, "finished": 1, "dropped": {}, "in_flight": 1}
    row = {"submitted": 2, "trained": 1, "dropped": {"a": 2}, "ready": 0, "leased": 0}
    assert violations({"games": games, "groups": {"solver": row}}) == [
        "games: 3 started, 2 accounted for",
        "solver: 2 groups submitted, 3 accounted for",
    ]


def test_a_part_that_had_no_time_has_no_fraction() -> None:
    assert busy_fractions({"busy_s/a": 1.0, "busy_of_s/a": 0.0, "busy_of_s/b": 2.0}) == {"b": 0.0}
