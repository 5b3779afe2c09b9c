"""What the three variants of MMMU-Pro share: 1730 questions, each asked in three ways.

The prompt is the authors' chain-of-thought one (their headline is the better of it and of their
`direct` one, for each model): it asks for a last line "Answer: $LETTER". Pictures stand where their
tags are, in the order of appearance: options of the ten-option variant are shuffled, tags too.
"""

from collections.abc import Callable, Mapping, Sequence

from evals.benchmark import (
    Aggregate,
    Benchmark,
    Extraction,
    Fields,
    Mode,
    Published,
    Question,
    Row,
    Scored,
)
from evals.benchmarks.choices import accuracy, by_group, exact, gold_option, lettered, listed
from evals.benchmarks.mmmu import discipline_of
from evals.benchmarks.placement import images_first, numbered
from evals.extraction import mmmu_reference
from evals.extraction.letters import read_letter

_LAST_LINE = (
    "The last line of your response should be of the following format: 'Answer: $LETTER' "
    "(without quotes) where LETTER is one of options. Think step by step before answering."
)
STANDARD = f"Answer the preceding multiple choice question. {_LAST_LINE}"
VISION = f"Write out the multiple-choice question in the image and then solve it. {_LAST_LINE}"

DIRECT = "Answer with the option letter from the given choices directly."
DIRECT_VISION = (
    f"{DIRECT} The last line of your response should be of the following format: 'Answer: $LETTER' "
    "(without quotes) where LETTER is one of options."
)

_ROWS = 1730


def options_of(row: Fields) -> dict[str, str]:
    """{letter: option} of a row."""
    return lettered(listed(row["options"]))


def ask_standard(row: Row, instruction: str = STANDARD) -> Question:
    """Question, options and instruction, a line each."""
    options = "\n".join(f"{letter}. {text}" for letter, text in options_of(row.fields).items())
    return numbered(row, f"{row.fields['question']}\n{options}\n{instruction}")


def ask_vision(row: Row, instruction: str = VISION) -> Question:
    """The picture, which has the question and its options in it, and the instruction."""
    return images_first(row, instruction)


def read(text: str, row: Fields, *, mode: Mode = "default") -> Extraction:
    options = options_of(row)
    if mode == "default":
        return read_letter(text, options)
    letter = mmmu_reference.choice_pro(text, options)
    return Extraction(letter, "authors' rules" if letter else "authors choose at random")


def extract(text: str, row: Fields, *, mode: Mode = "default") -> str | None:
    return read(text, row, mode=mode).value


def score(prediction: str | None, row: Fields, *, mode: Mode = "default") -> float:
    gold = str(row["answer"])
    return float(prediction == gold) if mode == "reference" else exact(prediction, gold)


def _cluster(row: Scored) -> str:
    # The three variants ask the same questions.
    return f"mmmu_pro:{row.fields.get('id', row.id)}"


def aggregates(rows: Sequence[Scored]) -> list[Aggregate]:
    """Accuracy over all rows, by discipline and by subject."""
    return [
        accuracy(rows, _cluster),
        *by_group("discipline", rows, lambda row: discipline_of(row.get("subject")), _cluster),
        *by_group("subject", rows, lambda row: row.get("subject"), _cluster),
    ]


def variant(
    name: str,
    title: str,
    config: str,
    ask: Callable[[Row], Question],
    ask_directly: Callable[[Row], Question],
    columns: Mapping[str, type | tuple[type, ...]],
    published: Sequence[Published] = (),
) -> Benchmark:
    """One of the three benchmarks."""
    return Benchmark(
        name=name,
        title=title,
        dataset="MMMU/MMMU_Pro",
        configs=(config,),
        split="test",
        num_rows=_ROWS,
        columns={"id": str, "options": (str, list), "answer": str, "subject": str, **columns},
        licence="Apache-2.0",
        citation="Yue et al., MMMU-Pro, arXiv:2409.02813",
        published=published,
        max_new_tokens=4096,
        row_id=lambda row, number: str(row["id"]),
        ask=ask,
        extract=extract,
        read=read,
        score=score,
        options=lambda row: len(options_of(row)),
        gold=lambda row: gold_option(str(row["answer"]), options_of(row)),
        aggregates=aggregates,
        prompts={"cot": ask, "direct": ask_directly},
    )
