"""Two models on the same rows, and four runs in a table of 2 x 2."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from evals.benchmark import Aggregate, Scored, Unit
from evals.comparison import Pair, compare
from evals.crossed import crossed
from evals.records import Record
from tests.evals.answers import answered
from tests.evals.small_benchmark import JUDGED, SMALL


def records(right: Mapping[str, bool], **how: object) -> list[Record]:
    return [answered(row, "red" if is_so else "blue", **how) for row, is_so in right.items()]  # type: ignore[arg-type]


def pairs(before: Sequence[Record], after: Sequence[Record]) -> dict[str, Pair]:
    return {"small": Pair(SMALL, before, after)}


def test_a_change_by_hand() -> None:
    before = {f"q{n}": n < 4 for n in range(10)}
    after = {f"q{n}": n >= 3 for n in range(10)}
    found = compare(pairs(records(before), records(after)))
    assert found is not None
    change = found.changes["small"]
    assert (change.before, change.after) == (0.4, 0.7)
    assert change.delta.estimate == pytest.approx(0.3)
    assert change.discordant is not None
    assert (change.discordant.only_before, change.discordant.only_after) == (3, 6)
    assert change.p == pytest.approx(2 * (1 + 9 + 36 + 84) / 512)  # of nine coins three or fewer
    assert change.how == "mcnemar"
    assert change.p_holm == change.p
    assert found.overall["micro"].estimate == pytest.approx(0.3)


def test_pairs_are_tighter_than_two_independent_runs() -> None:
    rng = random.Random(0)
    before = {f"q{n}": rng.random() < 0.5 for n in range(400)}
    after = {row: is_so or rng.random() < 0.1 for row, is_so in before.items()}
    found = compare(pairs(records(before), records(after)))
    assert found is not None
    assert found.changes["small"].delta.se < 0.5 * (0.5 / 400 + 0.0) ** 0.5
    assert found.changes["small"].delta.low > 0


def test_what_one_side_lacks_is_counted_and_not_imputed() -> None:
    before = records({"a": True, "b": True, "c": False})
    after = records({"b": False, "c": True, "d": True})
    unscored = [answered("a", "red", benchmark=JUDGED)]
    found = compare(pairs(before, after + unscored))
    assert found is not None
    change = found.changes["small"]
    assert (change.pairs, change.lost_before, change.lost_after) == (2, 1, 1)
    assert (change.before, change.after) == (0.5, 0.5)


def test_no_pair_no_comparison() -> None:
    assert compare(pairs(records({"a": True}), records({"b": True}))) is None
    assert compare({}) is None


def test_other_prompts_are_counted() -> None:
    before = records({"a": True, "b": True})
    after = [*records({"a": True}), *records({"b": True}, prompt="Really, which one?")]
    found = compare(pairs(before, after))
    assert found is not None
    assert found.changes["small"].other_prompt == 1


def test_a_gain_of_format_only_vanishes_where_both_can_be_read() -> None:
    """The base knows as much, but half of its answers can't be read."""
    before = [answered(f"q{n}", "" if n % 2 else "red" if n % 4 else "blue") for n in range(40)]
    after = [answered(f"q{n}", "red" if n % 4 else "blue") for n in range(40)]
    found = compare(pairs(before, after))
    assert found is not None
    change = found.changes["small"]
    assert change.delta.estimate == pytest.approx(0.5)
    assert change.readable.pairs == 20
    assert change.readable.before == change.readable.after == 0.5


def test_rows_of_one_picture_and_samples_are_bootstrapped() -> None:
    by_picture = replace(
        SMALL,
        aggregates=lambda scored: [
            Aggregate("accuracy", [Unit(str(row.fields["picture"]), row.score) for row in scored])
        ],
    )

    def clustered(texts: Sequence[str]) -> list[Record]:
        return [answered(f"q{n}", text, picture=n // 5) for n, text in enumerate(texts)]

    before, after = clustered(["blue"] * 50), clustered(["red"] * 10 + ["blue"] * 40)
    found = compare({"small": Pair(by_picture, before, after)})
    assert found is not None
    change = found.changes["small"]
    assert change.how == "bootstrap"
    assert change.delta.low == pytest.approx(0.0)  # two pictures of ten are no evidence
    assert change.discordant is not None
    assert change.discordant.p < 0.01  # as ten rows on their own would be
    several = [answered("a", "red", sample=n) for n in range(2)]
    found = compare(pairs(several, several))
    assert found is not None
    assert (found.changes["small"].how, found.changes["small"].p) == ("bootstrap", 1.0)


def test_coverage_of_the_difference_is_about_95_percent() -> None:
    rng = random.Random(7)
    hits, trials = 0, 150
    for _ in range(trials):
        before = {f"q{n}": rng.random() < 0.4 for n in range(60)}
        after = {row: rng.random() < 0.6 for row in before}
        found = compare(pairs(fast(before), fast(after)), resamples=600)
        assert found is not None
        delta = found.changes["small"].delta
        hits += delta.low <= 0.2 <= delta.high
    assert 0.89 <= hits / trials <= 0.99


def fast(right: Mapping[str, bool]) -> list[Record]:
    """Records with what a comparison reads, and nothing else."""
    return [
        {"row": row, "sample": 0, "score": float(is_so), "flags": [], "fields": {}}
        | {"prompt": [], "images": [], "seed": 0}
        for row, is_so in right.items()
    ]


def test_holm_is_over_all_benchmarks() -> None:
    before = {f"q{n}": False for n in range(8)}
    after = {f"q{n}": True for n in range(8)}
    one = Pair(SMALL, records(before), records(after))
    other = Pair(SMALL, records(before), records(before))
    found = compare({"one": one, "other": other})
    assert found is not None
    assert found.changes["one"].p == pytest.approx(2 / 256)
    assert found.changes["one"].p_holm == pytest.approx(4 / 256)
    assert found.changes["other"].p_holm == 1.0


def test_ability_apart_from_format() -> None:
    """Cells 20 %, 50 %, 40 %, 90 %."""
    cells = [fast({f"q{n}": n < right for n in range(100)}) for right in (20, 50, 40, 90)]
    found = crossed(SMALL, cells)
    assert found is not None
    assert found.rows == 100
    assert list(found.cells.values()) == pytest.approx([0.2, 0.5, 0.4, 0.9])
    assert found.ability.estimate == pytest.approx((0.2 + 0.4) / 2)
    assert found.format.estimate == pytest.approx((0.3 + 0.5) / 2)
    assert found.interaction.estimate == pytest.approx(0.2)
    assert found.ability.low < 0.3 < found.ability.high


def test_a_table_of_2_x_2_has_four_runs_with_common_rows() -> None:
    run = fast({"a": True})
    assert crossed(SMALL, [run, run, run, fast({"b": True})]) is None
    with pytest.raises(ValueError, match="3 runs"):
        crossed(SMALL, [run, run, run])


def test_the_aggregates_see_the_pairs_only() -> None:
    seen: list[list[str]] = []

    def aggregates(scored: Sequence[Scored]) -> list[Aggregate]:
        seen.append([row.id for row in scored])
        return [Aggregate("accuracy", [Unit(row.id, row.score) for row in scored])]

    benchmark = replace(SMALL, aggregates=aggregates)
    compare(
        {"small": Pair(benchmark, fast({"a": True, "b": True}), fast({"b": True, "c": True}))},
        resamples=10,
    )
    assert seen == [["b"], ["b"]]


def test_a_group_that_one_side_lacks_a_row_of_is_in_neither() -> None:
    def aggregates(scored: Sequence[Scored]) -> list[Aggregate]:
        by_pair: dict[str, list[Scored]] = {}
        for row in scored:
            by_pair.setdefault(next(iter(row.groups)), []).append(row)
        whole = {name: rows for name, rows in by_pair.items() if len(rows) == 2}
        return [Aggregate("pairs", [Unit(n, min(r.score for r in w)) for n, w in whole.items()])]

    benchmark = replace(SMALL, aggregates=aggregates)

    def side(**right: bool) -> list[Record]:
        groups = {row: {f"pair {row[0]}": 2} for row in right}
        return [one | {"groups": groups[one["row"]]} for one in fast(right)]

    before = side(a1=True, a2=False, b1=True, b2=True)
    found = compare({"small": Pair(benchmark, before, side(a1=True, a2=True, b1=True))})
    assert found is not None
    assert (found.changes["small"].before, found.changes["small"].after) == (0.0, 1.0)
    assert compare({"small": Pair(benchmark, before, side(a1=True, b1=True))}) is None
    cells = [before, before, before, side(a1=True)]
    assert crossed(benchmark, cells) is None
