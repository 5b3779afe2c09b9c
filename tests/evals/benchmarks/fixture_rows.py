"""The rows that we made in each data set's schema, loaded as a run loads them."""

from collections.abc import Mapping
from pathlib import Path

from evals.benchmark import Benchmark, Question, Row
from evals.data import load

FIXTURES = Path(__file__).parents[1] / "fixtures"


def rows_of(benchmark: Benchmark) -> Mapping[str, Row]:
    """{id: row} of tests/evals/fixtures; every row loads."""
    loaded = load(benchmark, FIXTURES)
    assert not loaded.refused
    return {row.id: row for row in loaded.rows}


def shown(question: Question) -> str:
    """The user's message as one text, "<picture>" where a picture stands."""
    (message,) = question.messages
    assert message["role"] == "user"
    parts = message["content"]
    assert sum(part["type"] == "image" for part in parts) == len(question.images)
    return "".join(part["text"] if part["type"] == "text" else "<picture>" for part in parts)
