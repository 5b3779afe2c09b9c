"""Every parser of model text on 100,000 spoilt replies of the tiny base, and on hostile megabytes.

The replies are real (`tiny_outputs/collect.py`); each mutant is a function of its seed.
"""

import importlib
import itertools
import math
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from engine.types import Invalid
from roles.mm_zero.content import CONTENT_TYPES
from roles.mm_zero.parsing import FIELDS, MAX_FIELD_CHARS, Proposal
from tests.processor_time import cheaply
from tests.roles.tiny_outputs import replies

Check = Callable[[str, Any], bool]
"""(text, what the parser made of it) -> is this what the parser promises?"""


def is_proposal(text: str, result: Any) -> bool:
    if isinstance(result, Invalid):
        return bool(result.reason)
    return isinstance(result, Proposal) and all(
        isinstance(value, str) for value in result.as_dict().values()
    )


def is_our_proposal(text: str, result: Any) -> bool:
    """White space is single, lengths are bounded, and only what the parser forgives is empty."""
    if not is_proposal(text, result) or isinstance(result, Invalid):
        return is_proposal(text, result)
    fields = result.as_dict()
    needed = (fields["caption"], fields["easy_question"], fields["easy_answer"])
    return (
        all(needed)
        and bool(fields["hard_question"])
        and fields["content_type"] in CONTENT_TYPES
        and all(value == " ".join(value.split()) for value in fields.values())
        and max(map(len, fields.values())) <= MAX_FIELD_CHARS
    )


def is_strict_proposal(text: str, result: Any) -> bool:
    is_whole = isinstance(result, Invalid) or all(result.as_dict().values())
    return is_our_proposal(text, result) and is_whole


def is_svg_of(text: str, result: Any) -> bool:
    return result is None or (
        result in text and result[:4].lower() == "<svg" and result.endswith(">")
    )


def is_part_of(text: str, result: Any) -> bool:
    return result is None or (isinstance(result, str) and result in text)


def is_text(text: str, result: Any) -> bool:
    return isinstance(result, str)


def is_boxed_text(text: str, result: Any) -> bool:
    return isinstance(result, str) and (result == "None" or result in text)


def is_squeezed(text: str, result: Any) -> bool:
    return isinstance(result, str) and "".join(result.split()) == "".join(text.split())


def is_bool(text: str, result: Any) -> bool:
    return isinstance(result, bool)


PARSERS: dict[str, Check] = {
    "roles.mm_zero.parsing:parse_proposal": is_strict_proposal,
    "roles.mm_zero.parsing:parse_proposal_leniently": is_our_proposal,
    "roles.mm_zero.parsing:extract_svg": is_svg_of,
    "roles.mm_zero.parsing:parse_answer": is_part_of,
    "roles.mm_zero.parsing:is_well_formed": is_bool,
    "roles.mm_zero.released:squeeze": is_squeezed,
    "roles.mm_zero.released:parse_proposal": is_proposal,
    "roles.mm_zero.released:parse_proposal_at_inference": is_proposal,
    "roles.mm_zero.released:content_type": is_text,
    "roles.mm_zero.released:extract_svg": is_text,
    "roles.mm_zero.released:parse_answer": is_text,
    "roles.mm_zero.released:is_well_formed": is_bool,
    "rewards.grading:boxed": is_part_of,
    "rewards.grading:normalise": is_text,
    "rewards.leak:visible_text": is_text,
    "rewards.released.votes:boxed_or_none": is_boxed_text,
}


def parser(name: str) -> Callable[[str], Any]:
    """The function behind "module:name", as a function of one text."""
    module, _, function = name.partition(":")
    found = getattr(importlib.import_module(module), function)
    return (lambda text: found(text, text)) if function == "content_type" else found


MUTANTS, CHUNKS = 100_000, 10

FRAGMENTS = (
    *(f"<{slash}{tag}{end}" for tag in (*FIELDS, "svg", "think")
      for slash in ("", "/") for end in (">", "", " >")),
    *("\\boxed{", "\\boxed", "{", "}", "{{", "\\", "\\{", "\\\\", "<", ">", "/", "</", "/>", "< "),
    *("```", "```svg\n", "```xml\n", "<!--", "-->", "<![CDATA[", "<?xml ", "&lt;", "&#0;", "&"),
    *("caption: ", "\n**hard_answer**: ", "Easy_Question :", "None", "n/a", "\n", "\r\n", "\u2028"),
    *("\0", "\ud800", "\udfff", "\ufeff", "\u200b", "\u0130", "\ufdfa", "\U0001d7d9", "e\u0301"),
)  # fmt: skip


def delete(rng: random.Random, text: str, other: str) -> str:
    start, end = span(rng, text)
    return text[:start] + text[end:]


def double(rng: random.Random, text: str, other: str) -> str:
    start, end = span(rng, text)
    return text[:end] + text[start:]


def swap(rng: random.Random, text: str, other: str) -> str:
    a, b, c = sorted(rng.randrange(len(text) + 1) for _ in range(3))
    return text[:a] + text[b:c] + text[a:b] + text[c:]


def splice(rng: random.Random, text: str, other: str) -> str:
    start, end = span(rng, other)
    at = rng.randrange(len(text) + 1)
    return text[:at] + other[start:end] + text[at:]


def cross(rng: random.Random, text: str, other: str) -> str:
    return text[: rng.randrange(len(text) + 1)] + other[rng.randrange(len(other) + 1) :]


def flip_case(rng: random.Random, text: str, other: str) -> str:
    start, end = span(rng, text)
    return text[:start] + text[start:end].swapcase() + text[end:]


def insert(rng: random.Random, text: str, other: str) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(FRAGMENTS) + text[at:]


def repeat(rng: random.Random, text: str, other: str) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(FRAGMENTS) * rng.choice((2, 3, 10, 100)) + text[at:]


def cut(rng: random.Random, text: str, other: str) -> str:
    return text[: rng.randrange(len(text) + 1)]


def garble(rng: random.Random, text: str, other: str) -> str:
    """Some characters become any others, surrogates included."""
    letters = list(text)
    for at in rng.sample(range(len(letters)), min(3, len(letters))):
        letters[at] = chr(rng.randrange(rng.choice((0x80, 0x3000, 0x110000))))
    return "".join(letters)


MUTATORS = (delete, double, swap, splice, cross, flip_case, insert, insert, repeat, cut, garble)


def span(rng: random.Random, text: str) -> tuple[int, int]:
    start = rng.randrange(len(text) + 1)
    return start, min(len(text), start + rng.choice((1, 2, 5, 20, 100)))


def mutant(rng: random.Random, texts: list[str]) -> str:
    """One to four mutations of a reply, in the company of another of any role."""
    text, other = rng.choice(texts), rng.choice(texts)
    for _ in range(rng.randint(1, 4)):
        text = rng.choice(MUTATORS)(rng, text, other)
    return text


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_parser_fails_on_any_mutant(chunk: int) -> None:
    rng = random.Random(chunk)
    texts = [text for _, text in replies()]
    mutants = [mutant(rng, texts) for _ in range(MUTANTS // CHUNKS)]
    for name, holds in PARSERS.items():
        parse = parser(name)
        for text in mutants:
            result = parse(text)
            assert holds(text, result), (name, text, result)


def test_the_real_replies_are_what_the_mutants_are_made_of() -> None:
    """Most parsers must succeed on them: mutants of garbage would test little."""
    texts: dict[str, list[str]] = {"proposer": [], "coder": [], "solver": []}
    for role, text in replies():
        texts[role].append(text)
    for role, name, failed in (
        ("proposer", "parse_proposal", Invalid),
        ("coder", "extract_svg", type(None)),
        ("solver", "parse_answer", type(None)),
    ):
        parse = parser(f"roles.mm_zero.parsing:{name}")
        read = [not isinstance(parse(text), failed) for text in texts[role]]
        assert len(read) >= 300
        assert 0.5 < sum(read) / len(read) < 1.0  # the base is weak: some of its own are broken


MEGABYTE, SMALL = 1_000_000, (6_000, 24_000)
PIECES = (
    *(f"{start}{tag}{end}" for tag in ("caption", "easy_answer", "hard_answer", "svg", "think")
      for start, end in (("<", ">"), ("</", ">"), ("<", ""), ("</", ""), ("< ", " >"))),
    *("<caption></caption>", "<caption>x</caption><easy_answer>", "<svg></svg>", "<svg/>"),
    *("<think></think>", "<think>\\boxed{", "</think>\\boxed{}", "</think>\\boxed{", "\\boxed{"),
    *("\\boxed{}", "{", "}", "{}", "\\", "\\{", "```", "```svg\n", "```svg <svg>", "```\n<", "`"),
    *("caption: ", "caption: x\n", "\ncaption:", "**caption**:\n", "easy_answer\n", "caption "),
    *("<", ">", "</", "/", "< ", " >", " / ", "<!--", "<![CDATA[", "&", "&amp;", "&#", "&#1"),
    *(" ", "\n", "\r\n", "\t", "\x1c", "a", "1", "a ", "1,", ".", "*", "-", "\u00e9", "\ud800"),
)  # fmt: skip
DRESSES = (
    ("", ""),
    ("<svg <caption>", "</captio</sv"),
    ("<think>", "</think>\\boxed{1} "),
    ("```svg\n<svg>\\boxed{", "``"),
    ("content_type: x\ncaption: ", "\nhard_answer"),
)
"""What stands before and behind the pieces, so that a match begins early and fails late."""
WORST = 10


def hostile(piece: str, dress: tuple[str, str], length: int) -> str:
    return dress[0] + piece * (length // len(piece)) + dress[1]


def seconds(parse: Callable[[str], Any], text: str) -> float:
    start = time.process_time()
    parse(text)
    return time.process_time() - start


@pytest.mark.parametrize("name", PARSERS)
def test_a_megabyte_is_read_in_seconds(name: str) -> None:
    """All is tried in small; of what promises to be slowest, a megabyte."""
    parse = parser(name)

    def promised(case: tuple[str, tuple[str, str]]) -> float:
        """Seconds of a megabyte, if time goes on as a power of the length."""
        short_s, long_s = (max(1e-6, seconds(parse, hostile(*case, size))) for size in SMALL)
        power = math.log(long_s / short_s, SMALL[1] / SMALL[0])
        return long_s * (MEGABYTE / SMALL[1]) ** power

    cases = sorted(itertools.product(PIECES, DRESSES), key=promised, reverse=True)
    # By steps, so that a parser that is far from linear fails before the day is over.
    for length, case in itertools.product((MEGABYTE // 10, MEGABYTE), cases[:WORST]):
        # The slowest takes .23 s where the machine does nothing else.
        text = hostile(*case, length)
        cheaply(partial(parse, text), 3.0, f"{length} characters of {case}")
