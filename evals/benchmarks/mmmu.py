"""MMMU, validation: 900 questions of 30 college subjects, 847 of choices and 53 open.

Prompt, order of options and decoding as in the authors' scripts; each `<image k>`, in the question
or in an option, is shown where it stands. Open questions: one of several gold answers, numbers to
two decimals.
"""

from collections.abc import Mapping, Sequence

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
from evals.benchmarks.placement import numbered
from evals.extraction import mmmu_reference
from evals.extraction.letters import read_letter
from evals.extraction.open_answers import read_open, same_answer

DISCIPLINES: Mapping[str, Sequence[str]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
SUBJECTS = tuple(sorted(subject for group in DISCIPLINES.values() for subject in group))
_DISCIPLINE = {subject: name for name, group in DISCIPLINES.items() for subject in group}

_CHOICE = "Answer with the option's letter from the given choices directly."
_OPEN = "Answer the question using a single word or phrase."


def is_open(row: Fields) -> bool:
    """True for a question without options."""
    return row.get("question_type", "") == "open" or not listed(row["options"])


def options_of(row: Fields) -> dict[str, str]:
    """{letter: option} of a row; empty for an open question."""
    return {} if is_open(row) else lettered(listed(row["options"]))


def golds(row: Fields) -> list[str]:
    """The gold answers of a row: one, or the text of a list of them."""
    answer = row["answer"]
    if isinstance(answer, str) and not answer.strip().startswith("["):
        return [answer]
    try:
        return listed(answer)
    except ValueError:
        return [str(answer)]


def discipline_of(subject: str | None) -> str | None:
    """The discipline of a subject; None for an unknown one."""
    return _DISCIPLINE.get(subject or "")


def prompt(row: Fields) -> str:
    """The text of a question, tags included."""
    question = str(row["question"])
    if is_open(row):
        return f"{question}\n{_OPEN}"
    options = "\n".join(f"({letter}) {text}" for letter, text in options_of(row).items())
    return f"{question}\n{options}\n\n{_CHOICE}"


def ask(row: Row) -> Question:
    return numbered(row, prompt(row.fields))


def read(text: str, row: Fields, *, mode: Mode = "default") -> Extraction:
    """The letter, or the short answer; in reference mode all that the authors take for one."""
    options = options_of(row)
    if mode == "reference":
        if options:
            letter = mmmu_reference.choice(text, options)
            return Extraction(letter, "authors' rules" if letter else "authors choose at random")
        found = mmmu_reference.open_answers(text)
        return Extraction(mmmu_reference.packed(found), "authors' rules")
    return read_letter(text, options) if options else read_open(text)


def extract(text: str, row: Fields, *, mode: Mode = "default") -> str | None:
    return read(text, row, mode=mode).value


def score(prediction: str | None, row: Fields, *, mode: Mode = "default") -> float:
    """1 or 0. An open prediction of the reference mode is what `extract` gave, or a response."""
    if prediction is None:
        return 0.0
    wanted = golds(row)
    if is_open(row):
        if mode == "reference":
            found = mmmu_reference.unpacked(prediction)
            return float(mmmu_reference.open_is_correct(found, wanted))
        return float(same_answer(prediction, wanted))
    if mode == "reference":
        return float(prediction in wanted)
    return max(exact(prediction, gold) for gold in wanted)


def subject_of(row: Fields) -> str | None:
    """The subject in the row's id ("validation_Art_Theory_3")."""
    name = "_".join(str(row.get("id", "")).split("_")[1:-1])
    return name if name in _DISCIPLINE else None


def _cluster(row: Scored) -> str:
    return f"mmmu:{row.id}"


def aggregates(rows: Sequence[Scored]) -> list[Aggregate]:
    """Accuracy over all rows (micro), by discipline, subject and kind of question."""
    return [
        accuracy(rows, _cluster),
        *by_group("discipline", rows, lambda row: discipline_of(subject_of(row)), _cluster),
        *by_group("subject", rows, subject_of, _cluster),
        *by_group("questions", rows, lambda row: "open" if is_open(row) else "choice", _cluster),
    ]


def gold(row: Fields) -> str:
    return " | ".join(gold_option(answer, options_of(row)) for answer in golds(row))


BENCHMARK = Benchmark(
    name="mmmu",
    title="MMMU (val)",
    dataset="MMMU/MMMU",
    configs=SUBJECTS,
    split="validation",
    num_rows=900,
    columns={
        "id": str,
        "question": str,
        "options": (str, list),
        "answer": (str, list),
        "question_type": str,
        "image_1": bytes,
    },
    licence="Apache-2.0",
    citation="Yue et al., MMMU, CVPR 2024, arXiv:2311.16502",
    published=(
        Published(model="Qwen2.5-VL-3B", score=53.1, source="model card"),
        Published(model="Qwen2.5-VL-3B", score=50.7, source="VLMEvalKit#1092", note="by users"),
        Published(model="Qwen2.5-VL-7B", score=58.6, source="model card"),
        Published(
            model="Qwen2.5-VL-7B", score=52.4, source="users of VLMEvalKit", note="50.6 to 52.4"
        ),
    ),
    max_new_tokens=1024,
    row_id=lambda row, number: str(row["id"]),
    ask=ask,
    extract=extract,
    read=read,
    score=score,
    options=lambda row: len(options_of(row)) or None,
    gold=gold,
    aggregates=aggregates,
)
