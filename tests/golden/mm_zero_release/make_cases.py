"""Writes `computed.jsonl`: what the libraries behind the released code say, one case a line.

    python -m tests.golden.mm_zero_release.make_cases

Needs nltk 3.10.4 and scikit-learn 1.9.1, on which the project does not depend, and takes some
minutes, for it waits for mathruler 0.1.0 where that does not end. `source` names the libraries
(V is by its formula). The cases of `by_hand.jsonl` are no output of anything: "notes on the
release" are results of the released code that were executed and written down elsewhere, with the
section; "hand" was worked out from the rule.
"""

import json
import multiprocessing
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.mm_zero_release import inputs

CASES = Path(__file__).with_name("computed.jsonl")
PATIENCE_S = 20.0
Case = dict[str, Any]


def case(function: str, args: Sequence[Any], expected: Any, source: str) -> Case:
    return {"function": function, "args": list(args), "expected": expected, "source": source}


def equality_cases() -> Iterator[Case]:
    from mathruler.grader import grade_answer

    for given, truth in inputs.PAIRS:
        yield case("grade_answer", [given, truth], grade_answer(given, truth), "mathruler")
    for given, truth in inputs.HOSTILE_PAIRS:
        verdict = _patiently(given, truth)
        source = "mathruler" if verdict is not None else "mathruler does not end"
        yield case("grade_answer", [given, truth], bool(verdict), source)


def _patiently(given: str, truth: str) -> bool | None:
    with multiprocessing.Pool(1) as pool:
        try:
            return pool.apply_async(_grade, (given, truth)).get(PATIENCE_S)
        except multiprocessing.TimeoutError:
            return None


def _grade(given: str, truth: str) -> bool:
    from mathruler.grader import grade_answer

    return bool(grade_answer(given, truth))


def box_cases() -> Iterator[Case]:
    from mathruler.grader import extract_boxed_content

    for text in inputs.BOXES:
        yield case("boxed_or_none", [text], extract_boxed_content(text), "mathruler")


def bleu(hypothesis: str, reference: str) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth = SmoothingFunction().method1
    return float(sentence_bleu([reference.split()], hypothesis.split(), smoothing_function=smooth))


def bleu_cases() -> Iterator[Case]:
    rng = random.Random(1)
    pairs = list(inputs.TEXT_PAIRS)
    for _ in range(25):
        words = rng.choices(inputs.WORDS, k=rng.randint(1, 14))
        other = [word if rng.random() < 0.8 else rng.choice(inputs.WORDS) for word in words]
        pairs.append((" ".join(words), " ".join(other[: rng.randint(1, 14)])))
    for first, second in pairs:
        yield case("bleu4", [first, second], bleu(first, second), "nltk")


def sizes(gaps: np.ndarray, cut: float) -> list[int]:
    from sklearn.cluster import AgglomerativeClustering

    labels = (
        AgglomerativeClustering(
            metric="precomputed", linkage="average", distance_threshold=cut, n_clusters=None
        )
        .fit(gaps)
        .labels_
    )
    return [int((labels == label).sum()) for label in labels]


def cluster_cases() -> Iterator[Case]:
    rng = np.random.default_rng(2)
    for number in range(25):
        n = int(rng.integers(2, 12))
        values = (np.arange(9) / 16, np.array([0, 0.25, 0.3]), rng.random(50) * 0.6)[number % 3]
        upper = np.triu(rng.choice(values, (n, n)), 1)
        gaps = upper + upper.T
        yield case("cluster_sizes", [gaps.tolist(), 0.25], sizes(gaps, 0.25), "scikit-learn")


def batch_cases() -> Iterator[Case]:
    rng = random.Random(3)
    for number in range(20):
        stock = [" ".join(rng.choices(inputs.WORDS, k=rng.randint(3, 9))) for _ in range(4)]
        cards = []
        for _ in range(rng.randint(2, 16)):
            fields = [_misspell(rng.choice(stock), rng) for _ in range(3)]
            cards.append([rng.choice(["map", "table"][: 1 + number % 2]), *fields])
        yield case("text_penalties", [cards], _penalties(cards), "nltk, scikit-learn")


def _misspell(text: str, rng: random.Random) -> str:
    return " ".join(word if rng.random() < 0.92 else word + "s" for word in text.split())


def _penalties(cards: Sequence[Sequence[str]]) -> list[float]:
    """V by its formula, with the libraries' BLEU and clusters."""
    n = len(cards)
    total = [0.0] * n
    for column, weight in ((1, 0.45), (2, 0.20), (3, 0.35)):
        gaps = np.zeros((n, n))
        for i in range(n):
            for j in range(i + 1, n):
                gaps[i, j] = gaps[j, i] = 1 - bleu(cards[i][column], cards[j][column])
        for i, size in enumerate(sizes(gaps, 0.25)):
            total[i] += weight * (size / n - 1 / n)
    return [-min(0.5, max(-0.5, 0.5 * n * value)) for value in total]


def main() -> None:
    made = (equality_cases, box_cases, bleu_cases, cluster_cases, batch_cases)
    cases = [made_case for make in made for made_case in make()]
    lines = [json.dumps(entry, ensure_ascii=True) for entry in cases]
    CASES.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
