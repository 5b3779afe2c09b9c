import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.versions import Restore, Version, VersionLedger


def test_versions_of_a_policy_grow_from_one_and_are_its_own() -> None:
    ledger = VersionLedger()
    assert [ledger.reserve("a", step, 1).version for step in (0, 1, 2)] == [1, 2, 3]
    assert ledger.reserve("a", 1, 1).version == 2, "one for a step of an attempt"
    assert ledger.reserve("a", 1, 2).version == 4
    assert ledger.reserve("b", 0, 1).version == 1
    assert (ledger.newest("a"), ledger.newest("c")) == (4, 0)
    assert ledger.find("a", 3) == Version("a", 3, 2, 1)


def test_as_many_versions_are_remembered_as_anything_can_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run of any length takes no more memory."""
    monkeypatch.setattr("engine.versions.KEPT", 3)
    ledger = VersionLedger(Version("a", number, number - 1, 1) for number in range(1, 6))
    assert [ledger.knows("a", number) for number in range(1, 6)] == [False, False, True, True, True]
    assert ledger.reserve("b", 0, 1).version == 1
    assert ledger.reserve("a", 4, 1).version == 5
    assert ledger.reserve("a", 5, 1).version == 6
    assert not ledger.knows("a", 3)
    assert ledger.knows("b", 1)
    assert ledger.age("a", 4, 5) == 2
    with pytest.raises(KeyError):
        ledger.find("a", 3)


def test_age_is_the_distance_in_steps_within_a_lineage() -> None:
    ledger = VersionLedger()
    version = ledger.reserve("a", 3, 1).version
    assert [ledger.age("a", version, step) for step in (3, 4, 9)] == [0, 1, 6]


def test_age_of_weights_that_a_restore_threw_away() -> None:
    ledger = VersionLedger()
    kept, lost = ledger.reserve("a", 40, 1).version, ledger.reserve("a", 43, 1).version
    ledger.record_restore(Restore("a", 2, 40))
    # At step 40 the lost weights are 3 steps away; at 43 they are 6, not 0.
    assert [ledger.age("a", lost, step) for step in (40, 42, 43)] == [3, 5, 6]
    assert [ledger.age("a", kept, step) for step in (40, 43)] == [0, 3]


def test_a_second_restore_further_back_moves_the_fork() -> None:
    ledger = VersionLedger()
    first = ledger.reserve("a", 43, 1).version
    ledger.record_restore(Restore("a", 2, 40))
    second = ledger.reserve("a", 42, 2).version
    ledger.record_restore(Restore("a", 3, 30))
    assert ledger.age("a", first, 31) == 1 + 13
    assert ledger.age("a", second, 31) == 1 + 12
    ledger.record_restore(Restore("a", 4, 31))
    assert ledger.age("a", first, 31) == 14


def test_restores_of_another_policy_do_not_matter() -> None:
    ledger = VersionLedger()
    version = ledger.reserve("a", 5, 1).version
    ledger.record_restore(Restore("b", 2, 0))
    assert ledger.age("a", version, 5) == 0


def test_contradictions_are_errors() -> None:
    ledger = VersionLedger()
    version = ledger.reserve("a", 5, 1).version
    with pytest.raises(ValueError, match="current step is 4"):
        ledger.age("a", version, 4)
    with pytest.raises(KeyError):
        ledger.age("a", version + 1, 9)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 100)), max_size=60))
def test_age_is_the_path_in_the_tree_of_weights(moves: list[tuple[bool, int]]) -> None:
    """Against an independent model that keeps each version's whole list of updates."""
    ledger, lineage, attempt, made = VersionLedger(), [], 1, {}
    for number, (is_step, choice) in enumerate(moves):
        if is_step:
            lineage = [*lineage, number]  # each update is unique
        else:
            attempt += 1
            lineage = lineage[: choice % (len(lineage) + 1)]
            ledger.record_restore(Restore("a", attempt, len(lineage)))
        made[ledger.reserve("a", len(lineage), attempt).version] = lineage
    for version, updates in made.items():
        common = 0
        while common < min(len(updates), len(lineage)) and updates[common] == lineage[common]:
            common += 1
        expected = len(updates) - common + len(lineage) - common
        assert ledger.age("a", version, len(lineage)) == expected
        assert (expected == 0) == (updates == lineage)
