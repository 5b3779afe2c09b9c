import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import accounts
from engine.admission import ReadyGame
from engine.buffer import Buffer, Leased
from engine.conservation import violations
from engine.errors import ConfigError
from engine.records import Records
from engine.wire import content_hash
from tests.engine.make_groups import PNG, make_group


@pytest.fixture
def buffer(tmp_path: Path) -> Iterator[Buffer]:
    opened = Buffer.open(tmp_path / "buffer.sqlite")
    for policy in ("solver", "coder"):
        opened.reserve_version(policy, 0, opened.begin_attempt() if policy == "solver" else 1)
    yield opened
    opened.close()


def reopen(buffer: Buffer) -> Buffer:
    return Buffer.open(buffer.path)


def play(buffer: Buffer, num_groups: int = 1, **changes: Any) -> int:
    game = buffer.start_game("mm_zero")
    for _ in range(num_groups):
        buffer.submit(make_group(game, **changes))
    buffer.end_game(game)
    return game


def lease(
    buffer: Buffer, request: int, games: Sequence[int], step: int = 0, attempt: int = 1, **more: Any
) -> list[Leased]:
    return buffer.lease(
        "solver",
        request,
        attempt,
        games={"solver": games},
        steps={"solver": step, "coder": step},
        max_age={"solver": 4},
        **more,
    )


def groups(buffer: Buffer, stream: str = "solver") -> dict[str, Any]:
    counts = buffer.counts()
    assert violations(counts) == []
    row: dict[str, Any] = counts["groups"][stream]
    return row


def test_a_group_goes_from_ready_to_leased_to_trained(buffer: Buffer) -> None:
    game = play(buffer, 2)
    assert groups(buffer)["ready"] == 2
    batch = lease(buffer, 1, [game], step=3)
    assert [row.group for row in batch] == [make_group(game)] * 2
    assert [row.age for row in batch] == [3, 3]
    assert groups(buffer)["leased"] == 2
    assert buffer.trained("solver", 1, 1, step=4) == 2
    assert groups(buffer) == {
        "submitted": 2,
        **{"trained": 2, "dropped": {}, "ready": 0, "leased": 0},
    }
    assert buffer.ages() == {"solver": {3: 2}}


def test_what_is_told_of_a_leased_group_is_what_was_submitted(buffer: Buffer) -> None:
    game = buffer.start_game("mm_zero")
    group = make_group(game, versions=(1, 1), rewards=(0.25, 1.0), judges={"coder": (1, 1)})
    buffer.submit(group)
    buffer.end_game(game)
    (row,) = lease(buffer, 1, [game])
    assert row.group == group
    assert row.rewards == [0.25, 1.0]
    assert row.versions == {version for r in group.rollouts for version in r.versions} == {1}
    assert list(row.images.values()) == [PNG]


def test_a_group_that_nobody_will_train_leaves_neither_payload_nor_picture(buffer: Buffer) -> None:
    game = buffer.start_game("mm_zero")
    assert not buffer.submit(make_group(game, extra={"drop": "too_easy"}))
    assert not buffer.submit(make_group(game, rewards=(1.0, 1.0)))
    assert buffer.image(content_hash(PNG)) is None
    with sqlite3.connect(buffer.path) as db:
        assert db.execute("SELECT * FROM payloads").fetchall() == []
    assert groups(buffer)["dropped"] == {"too_easy": 1, "zero_variance": 1}


def test_a_group_of_weights_that_nobody_published_is_dropped_by_name(buffer: Buffer) -> None:
    for unknown in ({"versions": (1, 2)}, {"judges": {"coder": (1, 2)}}):
        play(buffer, **unknown)
    frozen = play(buffer, judges={"nobody's": (7, 7)})
    assert groups(buffer)["dropped"] == {"unknown_version": 2}
    assert [row.game for row in buffer.ready_games({"solver": 0, "coder": 0})] == [frozen]
    assert len(lease(buffer, 1, [1, 2, 3])) == 1


def test_payloads_are_there_as_long_as_something_may_train_them(buffer: Buffer) -> None:
    def kept() -> int:
        with sqlite3.connect(buffer.path) as db:
            known = db.execute("SELECT count(*) FROM groups JOIN payloads ON group_id = id")
            (number,) = known.fetchone()
            assert db.execute("SELECT count(*) FROM payloads").fetchone() == (number,)
            return int(number)

    games = [play(buffer) for _ in range(4)]
    assert kept() == 4
    assert len(lease(buffer, 1, games[:1])) == len(lease(buffer, 2, games[1:2])) == 1
    buffer.trained("solver", 1, 1, 1)
    assert kept() == 4, "a restore may want what is trained, and what is leased"
    buffer.bad_batch("solver", 2, 1)
    assert kept() == 3
    buffer.forget("solver", 1)
    assert kept() == 2
    buffer.restore("solver", step=0, request=0, attempt=2)
    assert groups(buffer)["dropped"] == {"bad_batch": 1, "payload_freed": 1}
    assert buffer.drop_ready("solver", "finished") == 2
    assert kept() == 0


def test_a_repeated_request_gives_the_same_groups_also_trained_ones(buffer: Buffer) -> None:
    first, other = play(buffer), play(buffer)
    batch = lease(buffer, 1, [first])
    assert lease(buffer, 1, [first, other]) == batch
    buffer.trained("solver", 1, 1, step=1)
    assert lease(buffer, 1, [other]) == batch
    assert groups(buffer)["ready"] == 1


def test_an_empty_answer_stays_empty(buffer: Buffer) -> None:
    assert lease(buffer, 1, []) == []
    assert lease(buffer, 1, [play(buffer)]) == []
    assert buffer.leased("solver", 2, 1) is None


def test_a_request_of_another_attempt_is_another_request(buffer: Buffer) -> None:
    first, other = play(buffer), play(buffer)
    lease(buffer, 1, [first])
    assert [row.group.game for row in lease(buffer, 1, [other], attempt=2)] == [other]


def test_groups_without_signal_and_filtered_ones_are_dropped_by_name(buffer: Buffer) -> None:
    game = buffer.start_game("mm_zero")
    assert not buffer.submit(make_group(game, rewards=(1.0, 1.0)))
    assert not buffer.submit(make_group(game, extra={"drop": "too_easy"}))
    assert not buffer.submit(make_group(game), drop="finished")
    assert buffer.submit(make_group(game))
    row = groups(buffer)
    assert row["dropped"] == {"zero_variance": 1, "too_easy": 1, "finished": 1}
    assert (row["submitted"], row["ready"]) == (4, 1)


def test_the_funnel_counts_rollouts_and_groups_on_their_way(buffer: Buffer) -> None:
    game = buffer.start_game("mm_zero")
    buffer.submit(make_group(game, rewards=(0.0, 1.0, 1.0), extra={"usable": 2}))
    buffer.submit(make_group(game, extra={"usable": 0, "drop": "too_easy"}))
    buffer.submit(make_group(game, rewards=(1.0, 1.0)))
    buffer.submit(make_group(game), drop="finished")
    buffer.submit(make_group(game, stream="coder"))
    before = {
        "solver": {"sampled": 9, "usable": 6, "groups": 4, "kept": 2, "trained": 0},
        "coder": {"sampled": 2, "usable": 2, "groups": 1, "kept": 1, "trained": 0},
    }
    assert buffer.funnel() == before
    buffer.end_game(game)
    lease(buffer, 1, [game])
    buffer.trained("solver", 1, 1, step=1)
    again = reopen(buffer)
    assert again.funnel() == before | {"solver": before["solver"] | {"trained": 1}}
    again.restore("solver", step=0, request=0, attempt=2)
    assert again.funnel() == before
    again.close()


def test_what_a_restart_undid_is_counted_so_that_counters_need_not_fall(buffer: Buffer) -> None:
    games = [play(buffer) for _ in range(3)]
    for request, game in enumerate(games, start=1):
        lease(buffer, request, [game])
        buffer.trained("solver", request, 1, step=request)
    before = buffer.ages()["solver"]
    assert buffer.undone() == {}
    again = reopen(buffer)
    for _ in range(2):  # a repeated call undoes nothing more
        again.restore("solver", step=1, request=1, attempt=2)
        now, undone = again.ages()["solver"], again.undone()["solver"]
        assert sum(undone.values()) == 2
        assert Counter(now) + Counter(undone) == Counter(before)
    again.close()


def test_the_hard_bound_drops_what_is_too_old(buffer: Buffer) -> None:
    new = buffer.reserve_version("solver", 5, 1)
    games = [play(buffer), play(buffer, versions=(1, new)), play(buffer, versions=(new,))]
    batch = lease(buffer, 1, games, step=5)
    assert [(row.group.game, row.age) for row in batch] == [(games[2], 0)]
    assert groups(buffer)["dropped"] == {"too_old": 2}


def test_judges_have_an_age_of_their_own(buffer: Buffer) -> None:
    game = play(buffer, judges={"coder": (1, 1), "frozen": (9, 9)})
    buffer.reserve_version("solver", 3, 1)
    other = play(buffer, versions=(2,), judges={"coder": (1, 1)})
    assert [row.judge_age for row in lease(buffer, 1, [game], step=3)] == [3]
    assert lease(buffer, 2, [other], step=3, max_judge_age=2) == []
    assert groups(buffer)["dropped"] == {"judges_too_old": 1}
    buffer.trained("solver", 1, 1, 4)
    assert buffer.judge_ages() == {3: 1}


def test_a_bad_batch_and_a_closed_stream_name_their_reasons(buffer: Buffer) -> None:
    game = play(buffer, 2)
    play(buffer)
    lease(buffer, 1, [game])
    assert buffer.bad_batch("solver", 1, 1) == 2
    assert buffer.drop_ready("solver", "gate_closed") == 1
    assert groups(buffer)["dropped"] == {"bad_batch": 2, "gate_closed": 1}
    assert lease(buffer, 1, [game]) == []


def test_a_restore_undoes_what_the_checkpoint_does_not_contain(buffer: Buffer) -> None:
    games = [play(buffer) for _ in range(5)]
    for request, game in enumerate(games[:4], start=1):
        lease(buffer, request, [game])
        if request != 2:  # the learner died before it could say that request 2 was trained
            buffer.trained("solver", request, 1, step=request)
    again = reopen(buffer)
    assert again.begin_attempt() == 2
    for _ in range(2):
        again.restore("solver", step=2, request=2, attempt=2)
        row = groups(again)
        assert (row["trained"], row["ready"], row["leased"]) == (2, 3, 0)
    steps = {"solver": 2, "coder": 0}
    ready = [ReadyGame(game, "solver", 1, 2) for game in games[2:]]
    assert again.ready_games(steps) == ready
    batch = lease(again, 3, games[2:], step=2, attempt=2)
    assert [row.group.game for row in batch] == games[2:]
    again.trained("solver", 3, 2, step=3)
    assert groups(again)["trained"] == 5
    again.close()


def test_a_restore_touches_its_policy_only(buffer: Buffer) -> None:
    lease(buffer, 1, [play(buffer)])
    buffer.restore("coder", step=0, request=0, attempt=2)
    assert groups(buffer)["leased"] == 1


def test_tokens_of_weights_that_are_lost_have_an_age(buffer: Buffer) -> None:
    lost = buffer.reserve_version("solver", 3, 1)
    game = play(buffer, versions=(lost,))
    buffer.restore("solver", step=1, request=0, attempt=2)
    assert [row.age for row in lease(buffer, 1, [game], step=2, attempt=2)] == [1 + 2]


def test_versions_and_restores_survive_and_versions_never_repeat(buffer: Buffer) -> None:
    lost = buffer.reserve_version("solver", 3, 1)
    buffer.restore("solver", step=1, request=0, attempt=2)
    again = reopen(buffer)
    assert again.reserve_version("solver", 1, 2) == lost + 1
    assert again.ledger.age("solver", lost, 1) == 2
    again.close()


def test_a_new_attempt_loses_the_games_in_flight_but_not_their_groups(buffer: Buffer) -> None:
    game = buffer.start_game("mm_zero")
    buffer.submit(make_group(game))
    finished = play(buffer)
    again = reopen(buffer)
    again.begin_attempt()
    counts = again.counts()
    assert violations(counts) == []
    assert counts["games"] == {
        "started": 2,
        **{"finished": 1, "dropped": {"lost_in_crash": 1}, "in_flight": 0},
    }
    assert groups(again)["ready"] == 2
    assert again.start_game("mm_zero") > finished
    again.close()


def test_a_game_that_is_over_takes_no_group_and_no_second_end(buffer: Buffer) -> None:
    game = play(buffer)
    with pytest.raises(ValueError, match="not in flight"):
        buffer.submit(make_group(game))
    with pytest.raises(ValueError, match="not in flight"):
        buffer.end_game(game, dropped="deadline")
    assert groups(buffer)["submitted"] == 1


def test_pictures_are_stored_once_and_as_long_as_something_needs_them(buffer: Buffer) -> None:
    first, second = play(buffer, 2, images=(PNG, b"own")), play(buffer)
    lease(buffer, 1, [first])
    buffer.trained("solver", 1, 1, 1)
    assert buffer.image(content_hash(b"own")) == b"own"
    buffer.forget("solver", request=1)
    assert buffer.image(content_hash(b"own")) is None
    assert buffer.image(content_hash(PNG)) == PNG
    assert [row.group for row in lease(buffer, 2, [second])] == [make_group(second)]
    buffer.bad_batch("solver", 2, 1)
    assert buffer.image(content_hash(PNG)) is None
    assert groups(buffer)["trained"] == 2


def test_notes_of_games_keep_their_pictures(buffer: Buffer) -> None:
    games = [buffer.start_game("mm_zero") for _ in range(5)]
    for game in games:
        notes = {"caption": "\ud800<script>", "pictures": [{"png": PNG}, None], "game": game}
        buffer.end_game(game, notes=notes)
    play(buffer)
    shown = buffer.gallery(2)
    assert [row["game"] for row in shown] == [games[0], games[1], games[3], games[4]]
    assert shown[0]["notes"] == {
        "caption": "\ud800<script>",
        "pictures": [{"png": {"png": content_hash(PNG)}}, None],
        "game": games[0],
    }
    assert buffer.image(content_hash(PNG)) == PNG
    assert len(buffer.gallery(50)) == 5


def test_games_are_read_evenly_up_to_the_newest(buffer: Buffer) -> None:
    games = [buffer.start_game("mm_zero") for _ in range(11)]
    for game in games:
        buffer.end_game(game, notes={"game": game} if game != games[8] else None)
    buffer.end_game(buffer.start_game("mm_zero"), dropped="deadline", notes={"late": True})
    assert [row["notes"]["game"] for row in buffer.games_evenly(50)] == games[:8] + games[9:]
    assert [row["game"] for row in buffer.games_evenly(4)] == [games[1], games[4], games[7],
                                                              games[10]]  # fmt: skip
    assert [row["game"] for row in buffer.games_evenly(1)] == [games[10]]


def test_what_a_recipe_remembers_outlives_any_number_of_games_without_a_step(
    buffer: Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.buffer._KEPT_STATES", 3)
    for step in (0, 1, 2):
        for again in range(9):
            buffer.keep_recipe_state("a", {"solver": step}, [step, again])
            buffer.keep_recipe_state("b", {"solver": 5}, again)
    assert buffer.recipe_state("b", {"solver": 5}) == (8, {"solver": 8})
    assert buffer.recipe_state("a", {"solver": 2}) == ([2, 8], {"solver": [2, 8]})
    assert buffer.recipe_state("a", {"solver": 0}) == ([0, 8], {"solver": [0, 8]})
    buffer.keep_recipe_state("a", {"solver": 1}, "once more")
    assert buffer.recipe_state("a", {"solver": 1}) == ("once more", {"solver": "once more"})
    for step in (2, 3, 4):
        buffer.keep_recipe_state("a", {"solver": step}, step)
    assert buffer.recipe_state("a", {"solver": 1}) is None, "more than are kept"


def test_counters_add_up_over_restarts(buffer: Buffer) -> None:
    buffer.add_all({"generated/solver": 5, "wall_s": 0.5})
    buffer.sync()
    again = reopen(buffer)
    again.add_all({"generated/solver": 7})
    assert again.counters()["generated/solver"] == 12
    assert again.counters()["wall_s"] == 0.5
    again.close()


def test_a_failed_transaction_leaves_nothing(buffer: Buffer) -> None:
    game = buffer.start_game("mm_zero")

    def fail() -> None:
        with buffer.transaction():
            buffer.submit(make_group(game))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert buffer.counts()["groups"] == buffer.funnel() == {}
    buffer.submit(make_group(game))
    assert groups(buffer)["ready"] == 1


def test_another_schema_and_another_file_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "buffer.sqlite"
    Buffer.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(ConfigError, match="schema 9, but this version reads 3"):
        Buffer.open(path)
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError, match="not a usable buffer"):
        Buffer.open(path)


WRITER = """
import sys
from pathlib import Path
from engine.buffer import Buffer
from tests.engine.make_groups import make_group

buffer = Buffer.open(Path(sys.argv[1]))
attempt = buffer.begin_attempt()
step = request = int(sys.argv[2])
buffer.restore("solver", step=step, request=request, attempt=attempt)
while True:
    version = buffer.reserve_version("solver", step, attempt)
    games = [buffer.start_game("mm_zero") for _ in range(3)]
    for game in games[:2]:
        buffer.submit(make_group(game, versions=(version,)))
        buffer.submit(make_group(game, versions=(version,), rewards=(0.0, 0.0)))
        buffer.end_game(game, notes={"picture": bytes(100)})
    request += 1
    batch = buffer.lease(
        "solver", request, attempt, games={"solver": games}, steps={"solver": step},
        max_age={"solver": 4},
    )
    print(version, request, len(batch), flush=True)
    step += 1
    buffer.trained("solver", request, attempt, step)
"""


def test_kill_9_in_the_middle_of_anything_keeps_the_law(tmp_path: Path) -> None:
    rng, path, step, seen = random.Random(0), tmp_path / "buffer.sqlite", 0, 0
    for attempt in range(1, 5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(step)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        ) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randint(3, 30)):
                version, request, size = map(int, writer.stdout.readline().split())
                assert version > seen, "a version came twice"
                seen = version
                assert size == 2
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().splitlines()
        for line in rest:
            if len(row := line.split()) == 3:  # else the kill tore the line
                seen, request = int(row[0]), int(row[1])
        buffer = Buffer.open(path)
        assert buffer.ledger.newest("solver") >= seen
        row = groups(buffer)
        assert row["trained"] + row["leased"] >= 2 * (request - 1 - step)
        left = buffer.funnel()["solver"]
        assert left["sampled"] == left["usable"] == 2 * left["groups"] == 2 * row["submitted"]
        assert left["kept"] == row["trained"] + row["leased"] + row["ready"]
        games = buffer.counts()["games"]
        assert games["dropped"].get("lost_in_crash", 0) >= attempt - 1
        step = max(0, request - 5)  # the next attempt starts from a checkpoint 5 requests back
        buffer.close()
    buffer = Buffer.open(path)
    buffer.begin_attempt()
    buffer.restore("solver", step=step, request=step, attempt=5)
    row = groups(buffer)
    assert row["leased"] == 0
    assert row["ready"] > 0
    assert buffer.counts()["games"]["in_flight"] == 0
    buffer.close()


def told(buffer: Buffer) -> dict[str, Any]:
    return {"counts": buffer.counts(), "funnel": buffer.funnel(), "ages": buffer.ages()}


def undo(buffer: Buffer, request: int) -> None:
    """A game whose transaction fails at its end. Raises RuntimeError."""
    with buffer.transaction():
        game = buffer.start_game("mm_zero")
        buffer.submit(make_group(game))
        buffer.end_game(game)
        lease(buffer, request, [game])
        assert buffer.counts()["games"]["finished"] >= 1
        raise RuntimeError


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10), max_size=40), st.randoms(use_true_random=False))
def test_counts_that_are_kept_are_those_of_the_tables(
    actions: list[int], rng: random.Random
) -> None:
    """Whatever happens in whatever order, also what is undone: SQL is the oracle."""
    with tempfile.TemporaryDirectory() as folder:
        buffer = Buffer.open(Path(folder) / "run.db")
        reader = Records.open(buffer.path)
        for policy in ("solver", "coder"):
            buffer.reserve_version(policy, 0, 1)
        in_flight: list[int] = []
        ended: list[int] = []
        request = step = 0
        for action in actions:
            if action <= 1:
                in_flight.append(buffer.start_game("mm_zero"))
            elif action <= 4 and in_flight:
                game, stream = rng.choice(in_flight), rng.choice(["solver", "coder"])
                extra = {"drop": "too_easy"} if rng.random() < 0.3 else {}
                rewards = (0.0, float(rng.random() < 0.8))
                buffer.submit(make_group(game, stream=stream, rewards=rewards, extra=extra))
            elif action == 5 and in_flight:
                ended.append(in_flight.pop())
                buffer.end_game(ended[-1], dropped=rng.choice([None, "deadline"]))
            elif action == 6:
                request += 1
                lease(buffer, request, ended[-3:], step=step + rng.choice([0, 0, 9]))
            elif action == 7:
                step += buffer.trained("solver", rng.randint(0, request), 1, step + 1) > 0
            elif action == 8:
                buffer.bad_batch("solver", rng.randint(0, request), 1)
                buffer.drop_ready("coder", "finished")
            elif action == 9:
                buffer.restore("solver", step=0, request=rng.randint(0, request), attempt=2)
            elif action == 10:
                with pytest.raises(RuntimeError):
                    undo(buffer, request + 1)
            if rng.random() < 0.7:  # else several things happen between two looks
                assert told(buffer) == told(reader)
        assert told(buffer) == told(reader)
        assert violations(buffer.counts()) == []
        reader.close()
        buffer.close()


def test_counts_are_not_summed_over_the_tables_each_time(
    buffer: Buffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer.counts()
    monkeypatch.setattr(accounts, "read_states", lambda db: pytest.fail("summed anew"))
    games = [play(buffer) for _ in range(5)]
    lease(buffer, 1, games[:2])
    buffer.trained("solver", 1, 1, 1)
    lease(buffer, 2, games[2:3], step=9)
    lease(buffer, 3, games[3:4])
    buffer.bad_batch("solver", 3, 1)
    row = groups(buffer)
    assert (row["ready"], row["leased"], row["trained"], row["submitted"]) == (1, 0, 2, 5)
    assert row["dropped"] == {"too_old": 1, "bad_batch": 1}
    buffer.drop_ready("solver", "finished")
    assert groups(buffer)["dropped"] == {"too_old": 1, "bad_batch": 1, "finished": 1}
    assert buffer.ages() == {"solver": {0: 2}}
    assert buffer.funnel()["solver"]["trained"] == 2
    assert buffer.counts()["games"]["finished"] == 5
