"""What benchmarks of lettered options share: their options, and groups of their rows."""

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from evals.benchmark import Aggregate, Fields, Scored, Unit
from evals.extraction.letters import LETTERS

_ASCII_LETTER = re.compile(r"\(?([A-Za-z])\)?")


def listed(value: Any) -> list[str]:
    """A column that is a list, or the text of one ("['30', '45']"), as texts.

    Raises ValueError where it is neither, or has more items than there are letters.
    """
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(f"no list can be read from the options ({error})") from None
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError(f"options are a list, not {type(value).__name__}")
    if len(value) > len(LETTERS):
        raise ValueError(f"{len(value)} options, and {len(LETTERS)} letters")
    return [str(item) for item in value]


def lettered(options: Iterable[str]) -> dict[str, str]:
    """{letter: option}, from A on."""
    return dict(zip(LETTERS, options, strict=False))


def exact(prediction: str | None, gold: str) -> float:
    """1 where the prediction is the gold letter ("b" and "(B)" are B)."""
    match = _ASCII_LETTER.fullmatch((prediction or "").strip())
    return float(bool(match) and match[1].upper() == gold.strip().upper())  # type: ignore[index]


def by_group(
    kind: str,
    rows: Sequence[Scored],
    group: Callable[[Fields], str | None],
    cluster: Callable[[Scored], str],
) -> list[Aggregate]:
    """One aggregate "kind: group" for each group that has rows, in the order of their names."""
    groups: dict[str, list[Unit]] = {}
    for row in rows:
        if (name := group(row.fields)) is not None:
            groups.setdefault(name, []).append(Unit(cluster(row), row.score))
    return [Aggregate(f"{kind}: {name}", units) for name, units in sorted(groups.items())]


def accuracy(rows: Sequence[Scored], cluster: Callable[[Scored], str]) -> Aggregate:
    """The mean over all rows."""
    return Aggregate("accuracy", [Unit(cluster(row), row.score) for row in rows])


def gold_option(answer: str, options: Mapping[str, str]) -> str:
    """The gold letter with its option, as a reader wants to see it."""
    text = options.get(answer.strip().upper(), "")
    return f"{answer}. {text}" if text else answer
