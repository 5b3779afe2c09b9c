"""The authors' other prompts, where they have several."""

from evals.benchmarks import benchmarks
from evals.data import load
from tests.evals.benchmarks.prompts import FIXTURES

COT = "Think step by step before answering."
DIRECT = "Answer with the option letter from the given choices directly."


def texts_of(name: str, prompt: str) -> list[str]:
    """The last text of each question."""
    benchmark = benchmarks("official")[name]
    asked = [benchmark.prompts[prompt](row) for row in load(benchmark, FIXTURES).rows]
    return [str(question.messages[-1]["content"][-1]["text"]) for question in asked]


def test_mmmu_pro_is_asked_directly_or_for_steps() -> None:
    for name in ("mmmu_pro_standard4", "mmmu_pro_standard10", "mmmu_pro_vision"):
        assert all(text.endswith(COT) for text in texts_of(name, "cot"))
        assert all(DIRECT in text and COT not in text for text in texts_of(name, "direct"))
    assert all(text.endswith(f"\n{DIRECT}") for text in texts_of("mmmu_pro_standard10", "direct"))
    assert all("'Answer: $LETTER'" in text for text in texts_of("mmmu_pro_vision", "direct"))


def test_the_first_of_them_is_how_a_benchmark_is_asked() -> None:
    several = [one for one in benchmarks("official").values() if one.prompts]
    assert {one.name for one in several} >= {"mathverse", "mmmu_pro_vision"}
    for one in several:
        assert one.ask is next(iter(one.prompts.values()))
