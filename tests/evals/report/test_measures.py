"""Every number of a result, by hand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from evals.benchmark import Aggregate, Scored, Unit
from evals.report.measures import cohen, measure
from tests.evals.answers import answered, result
from tests.evals.small_benchmark import JUDGED, SMALL


def test_scores_flags_and_what_is_not_scored() -> None:
    records = [
        answered("a", "red"),
        answered("b", "blue"),
        answered("c", ""),
        answered("d", "<think>red", finish="length"),
        answered("e", "crash"),
    ]
    own = measure(
        result(
            records,
            refused=[("f", "no picture"), ("f", "twice told")],
            missing=[("g", 0, "503"), ("g", 1, "503"), ("a", 1, "503")],
        )
    )
    score = own.score()
    assert score is not None
    # Our rule broke down on "e": it is wrong, and counted.
    assert (own.scored, own.unscored, own.missing, own.skipped) == (5, 0, 1, 1)
    assert score.estimate == 1 / 5
    assert score.how == "wilson"
    assert own.rates["unparsed"] == pytest.approx(2 / 5)
    assert own.rates["truncated"] == pytest.approx(1 / 5)
    assert own.rates["empty"] == pytest.approx(2 / 5)
    assert own.rates["scoring_failed"] == pytest.approx(1 / 5)


def test_without_a_judge_rows_that_need_one_are_unscored() -> None:
    own = measure(result([answered("a", "red", benchmark=JUDGED)], benchmark=JUDGED))
    assert own.score() is None
    assert (own.scored, own.unscored) == (0, 1)
    assert own.rule == 1.0
    assert own.with_guesses is None
    assert own.headline == ""


def test_rule_and_judge_beside_each_other_with_their_agreement() -> None:
    told = {"a": ("red", 1.0), "b": ("red", 1.0), "c": ("blue", 1.0), "d": ("blue", 0.0)}
    records = [
        answered(row, text, benchmark=JUDGED, judged=judged) for row, (text, judged) in told.items()
    ]
    own = measure(result(records, benchmark=JUDGED))
    assert (own.rule, own.judge, own.reference) == (0.5, 0.75, 0.5)
    score = own.score()
    assert score is not None
    assert score.estimate == 0.75
    assert own.agreement is not None
    assert (own.agreement.records, own.agreement.share) == (4, 0.75)
    assert own.agreement.kappa == pytest.approx(0.5)  # by chance 0.5: (0.75 - 0.5) / 0.5


def test_kappa_as_published() -> None:
    """Fleiss, Levin & Paik 2003, as often: 20 and 15 agree, 5 and 10 do not; kappa 0.4."""
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10
    assert cohen(pairs + [(False, False)] * 15) == (0.7, pytest.approx(0.4))
    assert cohen([(True, True)] * 3) == (1.0, None)


def test_the_credit_of_a_guess_is_a_column_of_its_own() -> None:
    benchmark = replace(SMALL, options=lambda fields: fields["k"])
    records = [
        answered("a", "red", benchmark=benchmark, k=4),
        answered("b", "", benchmark=benchmark, k=4),
        answered("c", "", benchmark=benchmark, k=None),
        answered("d", "blue", benchmark=benchmark, k=2),
    ]
    own = measure(result(records, benchmark=benchmark))
    score = own.score()
    assert score is not None
    assert score.estimate == 0.25
    assert own.guess == pytest.approx((0.25 + 0.25 + 0 + 0.5) / 4)
    assert own.with_guesses == pytest.approx((1 + 0.25 + 0 + 0) / 4)


def test_several_samples() -> None:
    said = {"a": ["red", "red", "blue", "red"], "b": ["blue", "red", "blue", "blue"]}
    records = [
        answered(row, text, sample=number)
        for row, texts in said.items()
        for number, text in enumerate(texts)
    ]
    short = [answered("c", "red")]  # its other samples are missing
    settings = {"settings": {"samples": 4}}
    own = measure(result([*records, *short], settings=settings))
    score = own.score()
    assert score is not None
    assert score.estimate == pytest.approx((0.75 + 0.25 + 1) / 3)
    assert score.how == "clustered"
    assert own.samples["pass@4"] == 1.0
    assert own.samples["pass@2"] == pytest.approx((1 + 0.5) / 2)
    assert own.samples["maj@4"] == 0.5
    assert own.samples["maj@2"] == pytest.approx((0.75 + 0.25) / 2)


def test_an_aggregate_of_aggregates_has_an_interval() -> None:
    def aggregates(scored: Sequence[Scored]) -> list[Aggregate]:
        units = [Unit(row.fields["set"], row.score) for row in scored]
        sets = [Unit(unit.cluster, unit.value) for unit in units[::2]]
        return [
            Aggregate("mean", of=["all", "sets"]),
            Aggregate("all", units),
            Aggregate("sets", sets),
            Aggregate("never asked"),
        ]

    benchmark = replace(SMALL, aggregates=aggregates)
    texts = ["red", "blue"] * 10 + ["red"] * 20
    records = [
        answered(str(n), text, benchmark=benchmark, set=str(n // 2)) for n, text in enumerate(texts)
    ]
    own = measure(result(records, benchmark=benchmark))
    assert own.headline == "mean"
    assert list(own.aggregates) == ["mean", "all", "sets"]
    assert own.aggregates["mean"].estimate == pytest.approx((0.75 + 1.0) / 2)
    assert own.aggregates["mean"].how == "bootstrap"
    assert own.aggregates["all"].how == "clustered"
    assert own.units == {"all": 40, "sets": 20}


def test_groups_that_are_left_out_are_counted_and_without_any_there_is_no_score() -> None:
    def aggregates(scored: Sequence[Scored]) -> list[Aggregate]:
        whole = [row for row in scored if row.groups.get("pair", 0) <= len(scored)]
        units = [Unit(row.id, row.score) for row in whole]
        return [
            Aggregate("mean", of=["all", "pairs"]),
            Aggregate("all", [Unit(row.id, row.score) for row in scored]),
            Aggregate("pairs", units, left_out=len(scored) - len(whole)),
        ]

    benchmark = replace(SMALL, aggregates=aggregates, options=lambda fields: 2)
    records = [answered(row, "red", benchmark=benchmark) for row in "ab"]
    whole = measure(result(records, benchmark=benchmark))
    assert (whole.left_out, whole.headline) == ({}, "mean")
    assert whole.score() is not None
    for record in records:
        record["groups"] = {"pair": 3}
    lacking = measure(result(records, benchmark=benchmark))
    assert lacking.left_out == {"pairs": 2}
    assert lacking.score() is None
    assert lacking.with_guesses is None
    assert lacking.aggregates["all"].estimate == 1.0


def test_nothing_at_all() -> None:
    own = measure(result([], missing=[("a", 0, "503")], rows=1))
    assert own.score() is None
    assert (own.scored, own.missing) == (0, 1)
