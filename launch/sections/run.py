"""All that a report is made from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.buffer import Buffer
from launch.recipe import STREAMS
from launch.sections.proposals import Proposed

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    name: str
    summary: Record | None
    """None: the run has not ended."""
    records: Sequence[Record]
    """The lines of `metrics.jsonl`."""
    buffer: Buffer
    proposals: Sequence[Proposed]
    """Of games evenly spread over the run, oldest first."""

    def of_kind(self, kind: str) -> list[Record]:
        return [row for row in self.records if row["kind"] == kind]


def in_order(streams: Iterable[str]) -> list[str]:
    """As the recipe names them, so that a stream has one colour in all charts; others behind."""
    return sorted(streams, key=lambda stream: ([*STREAMS, stream].index(stream), stream))
