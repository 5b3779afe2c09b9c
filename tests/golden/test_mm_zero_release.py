"""The released code's rules: numbers on record, and laws that they obey.

`mm_zero_release/computed.jsonl` and `by_hand.jsonl` hold the numbers; `make_cases.py` says where
they are from.
"""

import json
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.types import Invalid
from rewards.coder import coder_reward, is_svg_code
from rewards.diversity import Card, DiversityWeights, Repetition
from rewards.grading import Votes
from rewards.proposer import proposer_reward, unparsable_reward
from rewards.released import diversity
from rewards.released.equality import either_way, grade_answer
from rewards.released.votes import boxed_or_none, label_vote, service_vote, solvability
from rewards.reward import Score
from rewards.similarity import cluster_sizes
from rewards.solver import solver_reward
from roles.mm_zero import filters, released
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.parsing import FIELDS, Proposal
from tests.processor_time import cheaply

DATA = Path(__file__).with_name("mm_zero_release")
CODE = MMZeroConfig(preset="mm_zero_code")
WEIGHTS = CODE.proposer_weights


def cases() -> list[Any]:
    lines = [
        (name, number, json.loads(line))
        for name in ("by_hand", "computed")
        for number, line in enumerate((DATA / f"{name}.jsonl").read_text().splitlines(), 1)
    ]
    return [
        pytest.param(case, id=f"{case['function']}-{name}-{number}") for name, number, case in lines
    ]


def difficulty(share: float) -> float:
    return Votes("x", share, 1, 1, {}).difficulty


def score(entry: Sequence[float] | None) -> Score | None:
    return None if entry is None else Score(entry[0], difficulty(entry[1]))


def proposer(drawings: Sequence[Sequence[float] | None] | None) -> float:
    """(s, c) of each drawing, None where it did not render; None for what is no proposal."""
    if drawings is None:
        return unparsable_reward(WEIGHTS).total
    return proposer_reward([score(entry) for entry in drawings], None, WEIGHTS).total


def coder(reply: str, drawing: Sequence[float] | None) -> float:
    return coder_reward(released.extract_svg(reply), score(drawing)).total


def solver(reply: str, label: str) -> float:
    return solver_reward(
        is_correct=grade_answer(released.parse_answer(reply), label),
        is_well_formed=released.is_well_formed(reply),
    ).total


def batch(size: int, repeated: dict[str, int], types: Sequence[int]) -> list[float]:
    """Rewards of proposals worth 0.9 each; the first `repeated[field]` have one text in a field."""

    def text(field: str, i: int) -> str:
        number = 0 if i < repeated.get(field, 0) else i
        return " ".join(f"{field}{number}_{word}" for word in range(5))

    kinds = [str(kind) for kind, count in enumerate(types) for _ in range(count)]
    cards = [Card(kinds[i], *(text(field, i) for field in diversity.FIELDS)) for i in range(size)]
    scores = [Score(1.0, difficulty(0.6))] * 4
    charged = diversity.batch_repetition(cards)
    return [proposer_reward(scores, repetition, WEIGHTS).total for repetition in charged]


def vote(rule: Callable[[Sequence[str]], Votes]) -> Callable[[Sequence[str]], dict[str, Any]]:
    def run(answers: Sequence[str]) -> dict[str, Any]:
        votes = rule(answers)
        assert votes.total == len(answers)
        assert votes.share == (max(votes.counts.values()) / votes.valid if votes.valid else 0.0)
        counts = list(votes.counts.items())
        assert counts == sorted(counts, key=lambda item: -item[1])
        return {"majority": votes.majority, "valid": votes.valid, "counts": dict(counts)}

    return run


def fields_or_missing(result: Proposal | Invalid) -> dict[str, str] | str:
    """The fields of a proposal, or the name of the one that is missing."""
    if isinstance(result, Proposal):
        return result.as_dict()
    assert result.reason == "missing_tag"
    return result.detail


def consistency(majority: str | None, votes: int, ballots: int) -> Votes:
    return Votes(majority, votes / ballots if ballots else 0.0, ballots, ballots, {})


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "grade_answer": grade_answer,
    "boxed_or_none": boxed_or_none,
    "service_vote": vote(service_vote),
    "label_vote": vote(label_vote),
    "solvability": solvability,
    "bleu4": diversity.bleu4,
    "cluster_sizes": lambda gaps, cut: cluster_sizes(np.array(gaps), cut),
    "text_penalties": lambda cards: list(diversity.text_penalties([Card(*card) for card in cards])),
    "type_penalties": lambda types: list(diversity.type_penalties(types)),
    "image_penalties": lambda rows: list(diversity.image_penalties([np.array(r) for r in rows])),
    "proposer": proposer,
    "coder": coder,
    "solver": solver,
    "batch": batch,
    "coder_filter": released.coder_filter,
    "solver_filter": lambda easy, hard: released.solver_filter(
        consistency(*easy), consistency(*hard)
    ),
    "parse_proposal": lambda text: fields_or_missing(released.parse_proposal(text)),
    "parse_proposal_at_inference": lambda text: fields_or_missing(
        released.parse_proposal_at_inference(text)
    ),
    "squeeze": released.squeeze,
    "content_type": released.content_type,
    "extract_svg": released.extract_svg,
    "is_svg_code": is_svg_code,
    "declared_type": released.declared_type,
    "is_well_formed": released.is_well_formed,
    "parse_answer": released.parse_answer,
}
ROUNDED = {"proposer", "coder", "solver", "batch", "type_penalties", "image_penalties"}
"""Written in decimals; all others are equal to the last bit."""


@pytest.mark.parametrize("case", cases())
def test_rule_gives_the_number_on_record(case: dict[str, Any]) -> None:
    result = FUNCTIONS[case["function"]](*case["args"])
    expected = case["expected"]
    if case["function"] in ROUNDED:
        expected = pytest.approx(expected, abs=1e-12)
    assert result == expected, case["source"]


@given(st.integers(1, 8), st.integers(0, 8))
def test_the_presets_coder_filter_is_the_releases(drawn: int, rendered: int) -> None:
    rewards = [2.0] * min(rendered, drawn) + [-0.1] * max(0, drawn - rendered)
    band, spread = CODE.filters.coder_band, CODE.filters.coder_spread
    found = filters.coder_filter(rewards, min(rendered, drawn), band=band, spread=spread)
    assert found == released.coder_filter(min(rendered, drawn), drawn)


def test_the_presets_numbers_are_the_releases() -> None:
    assert CODE.diversity_weights == DiversityWeights()
    assert CODE.filters.hard_band == released.HARD_BAND
    assert CODE.filters.min_easy_share == released.MIN_EASY_SHARE
    assert CODE.filters.coder_band == released.CODER_BAND


def test_every_rule_is_on_record() -> None:
    recorded = [param.values[0]["function"] for param in cases()]
    assert set(recorded) == set(FUNCTIONS)
    assert len(recorded) >= 200


def test_rounding_alone_makes_some_proposals_too_easy() -> None:
    """M1: of all c with a mean difficulty of exactly .15, 32 of 304 are charged."""
    shares = {Fraction(k, n) for n in range(1, 6) for k in range(n + 1)}
    charged = [
        proposer([[1.0, float(share)] for share in drawn]) < 0.5
        for num in range(1, 5)
        for drawn in product(sorted(shares), repeat=num)
        if sum(min(share, 1 - share) for share in drawn) == Fraction(3, 20) * num
    ]
    assert (sum(charged), len(charged)) == (32, 304)


def test_guard_is_quick_where_sympy_is_not() -> None:
    grade_answer("x", "y")  # imports
    towers = ["9**" * k + "9" for k in range(2, 20)] + [f"{n}!!!!" for n in ("9" * 9, "8" * 9)]
    towers += ["(" * 90 + "x" + ")**99" * 90, "x!" * 200, "1e999999999", "(x+y+1)**" * 9 + "9"]
    assert cheaply(lambda: [tower for tower in towers if either_way(tower, "1.5")], 10) == []


@given(st.text(alphabet="0123456789.,/*+-^()[]{}!%$\\=xysqrt fn'\"<&", max_size=12), st.text())
@settings(max_examples=150, deadline=None)
def test_equality_is_total_and_reflexive(first: str, second: str) -> None:
    assert grade_answer(first, first)
    assert grade_answer(first, second) in (True, False)


# The plain patterns of the release, as described; the scans must give the same on short texts.
_SQUEEZED = re.compile(r"\s*([<>/])\s*")
_FORMAT = re.compile(r"<think>.*?</think>\s*\\boxed\{.*?\}\s*", re.DOTALL)
_SVG_PATTERNS = (r"```svg\s*\n(.*?)```", r"```xml\s*\n(.*?)```", r"(?i)(<svg.*?</svg>)")

_PIECES = ("<", ">", "/", " ", "\n", "\u2003", "<think>", "</think>", "\\boxed{", "}", "a", "< svg")
_SVG_PIECES = ("```", "svg", "xml", "\n", "<svg", "</svg>", "<SVG>", "```svg\n", "```xml \n", "x ")
_TAG_PIECES = (
    *(f"<{slash}{name}>" for name in FIELDS for slash in ("", "/")),
    *("caption", "\n caption:", "\neasy_question :", "a", " b\n", ": ", "<", ">", "  ", "\n"),
)


def texts(pieces: Sequence[str], size: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=size).map("".join)


@given(texts(_PIECES, 14))
@settings(max_examples=200, deadline=None)
def test_squeeze_and_format_agree_with_the_plain_patterns(text: str) -> None:
    squeezed = _SQUEEZED.sub(r"\1", text)
    assert released.squeeze(text) == squeezed
    assert released.squeeze(squeezed) == squeezed
    assert released.is_well_formed(text) == bool(_FORMAT.fullmatch(squeezed))


@given(texts(_SVG_PIECES, 12))
@settings(max_examples=200, deadline=None)
def test_extraction_agrees_with_the_plain_patterns(text: str) -> None:
    svg, xml, bare = (re.search(pattern, text, re.DOTALL) for pattern in _SVG_PATTERNS)
    if svg:
        expected = svg[1].strip()
    elif xml and "<svg" in xml[1].lower():
        expected = xml[1].strip()
    else:
        expected = bare[1] if bare else ""
    assert released.extract_svg(text) == expected


@given(texts(_TAG_PIECES, 24))
@settings(max_examples=200, deadline=None)
def test_training_parser_agrees_with_the_plain_patterns(text: str) -> None:
    squeezed = _SQUEEZED.sub(r"\1", text)
    found = {name: re.search(f"<{name}>(.*?)</{name}>", squeezed, re.DOTALL) for name in FIELDS}
    missing = [name for name in FIELDS[1:] if not found[name]]
    result = fields_or_missing(released.parse_proposal(text))
    if missing:
        assert result == missing[0]
    else:
        assert isinstance(result, dict)
        assert [result[name] for name in FIELDS[1:]] == [found[name][1] for name in FIELDS[1:]]


@given(texts(_TAG_PIECES, 24).map(lambda text: text + "<easy_answer>1<easy_question>q<caption>c"))
@settings(max_examples=400, deadline=None)
def test_inference_parser_agrees_with_the_plain_patterns(text: str) -> None:
    def plain(name: str) -> str | None:
        label = rf"(?im)^\s*{name}\s*:\s*"
        tried = (
            rf"(?is)<{name}>(.*?)</{name}>",
            rf"(?ims)<{name}>(.*?)(?=<[^/]|$)",
            rf"{label}([^<\n]+)",
            rf"{label}<([^>]+)>",
        )
        for pattern in tried:
            found = re.search(pattern, text)
            if found and found[1].strip():
                return found[1].strip()
        return None

    result = fields_or_missing(released.parse_proposal_at_inference(text))
    needed = ("caption", "easy_question", "easy_answer")
    missing = [name for name in needed if plain(name) is None]
    if missing:
        assert result == missing[0]
    else:
        assert isinstance(result, dict)
        assert [result[name] for name in FIELDS[1:]] == [plain(name) or "" for name in FIELDS[1:]]


_MEGABYTE = 1_000_000
HOSTILE = (
    *(" ", "\n", "<", "/ ", "<caption>", "<think>", "</think>", "\\boxed{", "```svg\n", "```xml\n"),
    *("<svg", "caption:", "caption: a\n", "}", "{", "< caption > ", "</caption", "\t\t caption"),
)


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_megabyte_is_read_in_a_second(piece: str) -> None:
    text = piece * (_MEGABYTE // len(piece))
    for parse in (
        released.parse_proposal,
        released.parse_proposal_at_inference,
        released.extract_svg,
        released.is_well_formed,
        released.parse_answer,
        boxed_or_none,
    ):
        cheaply(partial(parse, text), 1, parse.__name__)


_WORDS = st.lists(st.sampled_from("abcdef"), max_size=6).map(" ".join)
_CARDS = st.lists(st.builds(Card, st.sampled_from("xyz"), _WORDS, _WORDS, _WORDS), max_size=10)


@given(_CARDS)
@settings(max_examples=100, deadline=None)
def test_penalties_stay_in_bounds(cards: list[Card]) -> None:
    charged = diversity.batch_repetition(cards)
    assert len(charged) == len(cards)
    for repetition in charged:
        assert -0.5 <= repetition.text <= 0.0
        assert -0.15 <= repetition.type <= 0.0
        assert repetition.image == 0.0


@given(st.lists(st.sampled_from("xyz"), max_size=12), st.randoms())
def test_type_penalties_follow_a_permutation(types: list[str], rng: Any) -> None:
    order = list(range(len(types)))
    rng.shuffle(order)
    straight = diversity.type_penalties(types)
    assert diversity.type_penalties([types[i] for i in order]) == tuple(straight[i] for i in order)


def test_a_pair_near_the_cut_depends_on_its_order() -> None:
    """M13: BLEU is asymmetric and the earlier text is the hypothesis."""
    cards = [Card("x", text, "q", "h") for text in ("a b c d e f g h i", "a b c d e f g")]
    assert diversity.text_penalties(cards) == (0.0, 0.0)
    assert diversity.text_penalties(cards[::-1]) == pytest.approx((-0.225, -0.225))


def test_pictures_are_charged_where_they_have_a_weight() -> None:
    row = np.array([1.0, 0.0])
    cards = [
        Card("x", c, c, c, thumbnail) for c, thumbnail in (("a", row), ("b", None), ("c", row))
    ]
    weights = diversity.DiversityWeights(image=0.15)
    charged = diversity.batch_repetition(cards, weights)
    assert [repetition.image for repetition in charged] == [-0.15, 0.0, -0.15]
    assert diversity.batch_repetition(cards) == (Repetition(),) * 3


@given(st.lists(st.sampled_from(["5", "5.0", "None", "", "no x", "7", "n/a"]), max_size=8))
@settings(max_examples=100, deadline=None)
def test_votes_account_for_every_ballot(answers: list[str]) -> None:
    for votes in (service_vote(answers), label_vote(answers)):
        assert sum(votes.counts.values()) == votes.valid <= votes.total == len(answers)
        assert (votes.majority is None) == (votes.valid == 0)
        assert 0.0 <= votes.share <= 1.0
    assert label_vote(answers).valid == sum(answer != "" for answer in answers)
