"""What a benchmark is: where its rows come from, how one is asked, read, scored and counted. Pure.

Each module of `evals.benchmarks` makes one `Benchmark` of plain functions. What is the same for
all (loading, asking, the judge's cache, intervals, the report) is elsewhere and knows none of them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.types import Message

Fields = Mapping[str, Any]
"""A row's columns by the dataset's own names, without its pictures."""
Mode = Literal["default", "reference"]
"""`default`: our rule, which never guesses; `reference`: the authors' code, bug for bug where it is
deterministic (a random choice of theirs is None here, and counted)."""
Regime = Literal["official", "mm_zero"]
"""Whose prompt, extraction and judge: numbers of two regimes never stand in one table."""
MODES: tuple[Mode, ...] = ("default", "reference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row, loaded and checked."""

    id: str
    """Unique in its benchmark, and the same whenever the dataset is loaded."""
    fields: Fields
    images: Mapping[str, bytes]
    """{column, or column/number in a list: the file as it is (PNG, JPEG, ...)}, in order."""
    pictures: str = ""
    """Hash of them all: rows with the same one show the same."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """{group: its rows in the data set} of `Benchmark.groups`, the largest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One row as it is asked."""

    messages: Sequence[Message]
    """Content parts as in `engine.types.Message`; "image" parts stand where pictures belong."""
    images: Sequence[bytes]
    """In the order of the "image" parts."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was read from a response."""

    value: str | None
    """None: nothing could be read; it is wrong, and counted as unparsed."""
    path: str
    """Which rule read it ("boxed", "last letter", ...), or why none did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a judge made of a response."""

    score: float | None
    """In [0, 1]; None: its replies could not be read, the row is unscored."""
    replies: Sequence[str]
    """As they came, in order."""


Ask = Callable[..., Awaitable[str]]
"""`await ask(prompt, *, system=None, max_tokens=..., temperature=0.0, stop=None, attempt=0)`: the
judge's reply. Cached by the whole request; raises evals.judge.JudgeFailed where none came."""
Judge = Callable[[Fields, str, Ask], Awaitable[Judgement]]
"""(columns, response without its thoughts, ask): asks as often as the authors' own rule does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One row with its score, as the aggregates see it."""

    id: str
    fields: Fields
    score: float
    """In [0, 1]: the mean over the samples of the row."""
    pictures: str = ""
    """As in `Row`, and so `groups`; both are empty in records of before there were any."""
    groups: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unit:
    """Something that is counted: a row, or the rows of one figure."""

    cluster: str
    """Units of one cluster share a picture or a problem: they are drawn together."""
    value: float


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A number of the report: the mean over its units, or over other aggregates of the benchmark.

    `name`: "accuracy", "subject: Math", ...; `of`: names of aggregates whose plain mean it is,
    then `units` is empty.
    """

    name: str
    units: Sequence[Unit] = ()
    of: Sequence[str] = ()
    left_out: int = 0
    """Groups that are not counted, since rows of them have no score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A score that somebody published."""

    model: str
    score: float
    """In percent."""
    source: str
    note: str = ""


def _no_groups(row: Fields) -> Sequence[str]:
    return ()


def _no_caveat(rows: Sequence[Scored]) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One benchmark under one regime."""

    name: str
    """As on the command line: "mmmu_pro_vision"."""
    title: str
    regime: Regime = "official"
    dataset: str
    """On the Hugging Face Hub."""
    configs: Sequence[str | None] = (None,)
    """Of the dataset; several are concatenated in this order."""
    split: str
    revision: str | None = None
    """The commit that is loaded; None: not known to us, the first load pins it."""
    num_rows: int
    """Expected; another number is reported."""
    columns: Mapping[str, type | tuple[type, ...]]
    """The columns that a row needs and their types; a row without one is named and skipped."""
    licence: str
    citation: str
    published: Sequence[Published] = ()
    system: str | None = None
    """System prompt; None: none is sent."""
    max_new_tokens: int
    """Of the regime's own decoding."""
    temperature: float = 0.0
    top_p: float = 1.0
    row_id: Callable[[Fields, int], str]
    """(columns, number in the split) -> `Row.id`."""
    ask: Callable[[Row], Question]
    """Raises ValueError, with the reason, for a row that can't be asked."""
    extract: Callable[..., str | None]
    """`extract(text, fields, *, mode="default")`."""
    read: Callable[..., Extraction]
    """The same with its path."""
    score: Callable[..., float]
    """`score(prediction, fields, *, mode="default")`: in [0, 1]; a prediction of None is 0."""
    judge: Judge | None = None
    """Where the authors' own rule needs one."""
    judged_by_default: bool = False
    """The headline is the judge's score: without a judge it is unscored. False: the rule's."""
    judge_model: str | None = None
    """That the authors used."""
    options: Callable[[Fields], int | None]
    """Among how many a guess would choose: 1/k is the credit of a blind guess. None: open."""
    gold: Callable[[Fields], str]
    """As a reader of the report wants to see it."""
    groups: Callable[[Fields], Sequence[str]] = _no_groups
    """Names of the groups that a row is counted in as a whole; the largest first, which holds the
    others. A limit takes all of that one or nothing; what counts groups leaves out those of which
    a row has no score."""
    has_reference: bool = True
    """False where the authors' rule reads the replies of a judge: of a response it says nothing."""
    aggregates: Callable[[Sequence[Scored]], Sequence[Aggregate]]
    """Of the rows that are there; the first one is the headline, in every table."""
    caveat: Callable[[Sequence[Scored]], str] = _no_caveat
    """What a reader must know of how these rows were counted; "" where there is nothing."""
    prompts: Mapping[str, Callable[[Row], Question]] = field(default_factory=dict)
    """Other ways in which the authors ask, by name ("direct", "cot"); like `ask`."""
