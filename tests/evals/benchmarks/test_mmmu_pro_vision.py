import pytest

from evals.benchmark import Row, Scored
from evals.benchmarks.mmmu_pro_vision import BENCHMARK, extract, score
from tests.evals.benchmarks import mmmu_pro_cases as cases
from tests.evals.benchmarks.prompts import FIXTURES, golden, prompts


@pytest.mark.parametrize("text, prediction", cases.EXTRACT_TEN)
def test_extract(text: str, prediction: str | None) -> None:
    assert extract(text, cases.TEN) == prediction


@pytest.mark.parametrize("prediction, ten, four", cases.SCORE)
def test_score(prediction: str | None, ten: float, four: float) -> None:
    assert score(prediction, cases.TEN) == ten
    assert score(prediction, cases.FOUR) == four


@pytest.mark.parametrize("text, letter", cases.REFERENCE_TEN)
def test_reference_mode_follows_the_authors(text: str, letter: str | None) -> None:
    assert extract(text, cases.TEN, mode="reference") == letter


def test_reference_score_is_exact() -> None:
    assert score("I", cases.TEN, mode="reference") == 1.0
    assert score("i", cases.TEN, mode="reference") == 0.0


def test_prompts() -> None:
    assert prompts(BENCHMARK, FIXTURES) == golden("mmmu_pro_vision")


def test_the_variants_share_their_clusters() -> None:
    rows = [Scored(id="test_Finance_3", fields=cases.TEN, score=1.0)]
    accuracy, *groups = BENCHMARK.aggregates(rows)
    assert [unit.cluster for unit in accuracy.units] == ["mmmu_pro:test_Finance_3"]
    assert [group.name for group in groups] == ["discipline: Business", "subject: Finance"]


def test_a_row_without_a_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="picture"):
        BENCHMARK.ask(Row(id="x", fields={**cases.TEN, "question": "?"}, images={}))
