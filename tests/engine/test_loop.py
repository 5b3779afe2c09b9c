"""The real engine on a fake model: bounded age, the conservation law, crashes and restores."""

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.admission import AdmissionRules, StreamRule
from engine.buffer import Buffer
from engine.conservation import violations
from tests.engine.fakes import FakeLearner, FakeRun, random_game

POLICIES = ("a", "b", "c")


def rules(
    max_age: int, games_per_step: int, steps: int, too_old: Literal["wait", "drop"] = "wait"
) -> AdmissionRules:
    streams = {policy: StreamRule(policy=policy, max_age=max_age) for policy in POLICIES}
    return AdmissionRules(
        streams=streams, games_per_step=games_per_step, total_steps=steps, too_old=too_old
    )


def attempt(folder: Path, buffer: Buffer, rule: AdmissionRules, **learner: object) -> FakeRun:
    rng = random.Random(learner.pop("seed", 0))  # type: ignore[arg-type]
    failure_share = learner.pop("failure_share", 0.0)
    address = f"ipc://{folder}/engine.sock"
    fake = FakeLearner(address, POLICIES, rng, **learner)  # type: ignore[arg-type]
    play = random_game(rng, failure_share=failure_share)  # type: ignore[arg-type]
    run = FakeRun(buffer=buffer, rules=rule, folder=folder, play=play, learner=fake)
    asyncio.run(asyncio.wait_for(run.run(), 15.0))
    return run


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 3),
    st.integers(1, 3),
    st.sampled_from(["wait", "drop"]),
    st.sampled_from([0.0, 0.2]),
    st.sampled_from([0.0, 0.2]),
    st.integers(0, 10_000),
)
def test_age_is_bounded_and_nothing_is_lost(
    max_age: int,
    games_per_step: int,
    too_old: Literal["wait", "drop"],
    skip_share: float,
    failure_share: float,
    seed: int,
) -> None:
    if max_age == 0:
        too_old = "wait"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        buffer = Buffer.open(folder / "run.db")
        run = attempt(
            folder,
            buffer,
            rules(max_age, games_per_step, 5, too_old),
            seed=seed,
            skip_share=skip_share,
            failure_share=failure_share,
        )
        counts = buffer.counts()
        assert not violations(counts)
        assert counts["games"]["in_flight"] == 0
        assert run.leased
        trained = [row for _, row in run.leased]
        assert max(row.age for row in trained) <= max_age
        for policy, row in run.leased:  # the same, computed from the versions themselves
            versions = [v for rollout in row.group.rollouts for v in rollout.versions]
            made = buffer.ledger.find(policy, min(versions)).step
            assert row.age >= 0
            assert made >= 0
        assert len({row.id for row in trained}) == len(trained), "a group was trained twice"
        steps = {p: sum(1 for q, _, _ in run.learner.batches if q == p) for p in POLICIES}
        assert all(steps[policy] >= 5 for policy in POLICIES)
        buffer.close()


def test_max_age_0_is_on_policy(tmp_path: Path) -> None:
    buffer = Buffer.open(tmp_path / "run.db")
    run = attempt(tmp_path, buffer, rules(0, 2, 6))
    assert {row.age for _, row in run.leased} == {0}


@pytest.mark.parametrize("seed", range(4))
def test_a_restore_returns_what_the_checkpoint_does_not_contain(tmp_path: Path, seed: int) -> None:
    """The learner vanishes; the next attempt begins at an older step of each policy."""
    buffer = Buffer.open(tmp_path / "run.db")
    rule = rules(2, 2, 8)
    asyncio.run(_dying(tmp_path, buffer, rule, seed))
    before = buffer.counts()
    assert not violations(before)
    rng = random.Random(seed)
    first = list(before["groups"].values())
    assert sum(row["trained"] for row in first) > 0
    checkpoints = {policy: rng.randrange(3) for policy in POLICIES}
    restored = {policy: (step, step) for policy, step in checkpoints.items()}
    run = attempt(tmp_path, buffer, rule, seed=seed + 100, restored=restored)
    counts = buffer.counts()
    assert not violations(counts)
    assert counts["games"]["in_flight"] == 0
    assert counts["games"]["dropped"].get("lost_in_crash", 0) >= 0
    # At most once in the lineage: a row trained now is no row that the checkpoint contains.
    lineage = [row.id for _, row in run.leased]
    assert len(set(lineage)) == len(lineage)
    rows = buffer._rows("SELECT attempt FROM versions WHERE policy = 'a' ORDER BY version")
    attempts = [attempt for (attempt,) in rows]
    assert attempts == sorted(attempts), "a later life goes on counting"
    assert len(set(attempts)) == 2


async def _dying(folder: Path, buffer: Buffer, rule: AdmissionRules, seed: int) -> None:
    rng = random.Random(seed)
    fake = FakeLearner(f"ipc://{folder}/engine.sock", POLICIES, rng, die_after=9)
    run = FakeRun(buffer=buffer, rules=rule, folder=folder, play=random_game(rng), learner=fake)
    engine = asyncio.create_task(run.run())
    assert await asyncio.to_thread(fake.is_gone.wait, 30.0)
    # Nobody asks for batches any more: the engine waits, as it should, until its parent ends it.
    engine.cancel()
    with pytest.raises(asyncio.CancelledError):
        await engine


def test_an_unexpected_error_in_a_game_ends_the_run_with_it(tmp_path: Path) -> None:
    async def play(run: FakeRun, game: int, submit: object) -> None:
        raise ZeroDivisionError("a bug")

    buffer = Buffer.open(tmp_path / "run.db")
    fake = FakeLearner(f"ipc://{tmp_path}/engine.sock", POLICIES, random.Random(0))
    run = FakeRun(buffer=buffer, rules=rules(1, 1, 2), folder=tmp_path, play=play, learner=fake)
    fake_run = run.run()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        asyncio.run(_with_bye(fake_run, run))
    assert not violations(buffer.counts())


async def _with_bye(coroutine: object, run: FakeRun) -> None:
    run.learner.die_after = 0
    await asyncio.wait_for(coroutine, 30.0)  # type: ignore[arg-type]
