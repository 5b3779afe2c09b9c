"""The tiny base that knows the spy game too: what it imitates, and the bands of what is shipped."""

import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from engine.types import Invalid
from evals.scenes.pairs import GridFamily, shapes_named
from evals.scenes.scene import CELLS
from evals.scenes.splits import split_of
from launch.pretraining.bands import measure
from launch.pretraining.corpus import Writer
from launch.pretraining.model import image_processor
from launch.pretraining.pictures import Tiles
from launch.pretraining.sft import Plan
from launch.pretraining.spy_bands import measure_spy
from launch.pretraining.spy_corpus import (
    GUESS,
    PLAYERS,
    SPY_CLEAN,
    SPY_WEAK,
    Mix,
    Round,
    SpyRates,
    SpyWriter,
    clue_reply,
    is_true,
    random_round,
    vote_reply,
)
from launch.tiny_base import SHIPPED, SHIPPED_SPY
from roles.mm_zero.prompts import load_prompts
from roles.vision_zero.parsing import parse_clue, parse_vote
from roles.vision_zero.prompts import load_prompts as load_spy_prompts

LARGEST_BYTES = 8 * 2**20
SLACK = 8.0
seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(SHIPPED_SPY)


@pytest.fixture(scope="module")
def model() -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(SHIPPED_SPY).eval()


@pytest.fixture(scope="module")
def writer(tokenizer: PreTrainedTokenizerFast) -> Writer:
    return Writer(tokenizer, load_prompts("tiny"))


@pytest.fixture(scope="module")
def spy_writer(writer: Writer) -> SpyWriter:
    return SpyWriter(writer, load_spy_prompts("tiny"))


def false_seats(table: Round) -> list[int]:
    """By set algebra over the words of the clues; shares no code with the corpus."""
    there = {(CELLS[s.cell], s.color, s.kind) for s in table.scene}
    return [c.seat for c in table.clues if not c.text or tuple(c.text.split()) not in there]


@given(seeds)
def test_a_careful_vote_is_right_as_far_as_the_clues_allow(seed: int) -> None:
    rng = random.Random(seed)
    table = random_round(rng)
    text = vote_reply(table.scene, table.clues, rng, SPY_CLEAN)
    vote, false = parse_vote(text, PLAYERS), false_seats(table)
    assert not isinstance(vote, Invalid)
    assert vote in false if false else vote in (None, 1, 2, 3, 4)
    thought = text.partition("</think>")[0].removeprefix("<think>")
    verdicts = re.findall(r"([1-4]) [^0-9]*?(yes|no \1)(?= |$)", thought)
    assert [(int(seat), verdict == "yes") for seat, verdict in verdicts] == [
        (seat, seat not in false) for seat in range(1, PLAYERS + 1)
    ]


@given(seeds)
def test_a_careful_clue_names_a_shape_of_its_own_picture_where_nobody_has(seed: int) -> None:
    rng = random.Random(seed)
    table = random_round(rng)
    earlier = table.clues[: rng.randrange(PLAYERS)]
    said = [clue.text for clue in earlier if clue.text]
    clue = parse_clue(clue_reply(table.scene, earlier, rng, SPY_CLEAN), said)
    assert isinstance(clue, str)
    assert GridFamily().is_true(table.scene, clue) is True
    free = {CELLS[s.cell] for s in table.scene} - {text.split()[0] for text in said}
    assert not free or clue.split()[0] in free


@given(seeds)
def test_on_a_blank_picture_a_clue_is_made_up_in_either_mode(seed: int) -> None:
    rng = random.Random(seed)
    table = random_round(rng)
    for hasty in (0.0, 1.0):
        text = clue_reply((), table.clues[:3], rng, SpyRates(hasty_clue=hasty))
        clue = parse_clue(text, [])
        assert isinstance(clue, str)
        assert len(shapes_named(clue)) == 1
        assert (GUESS in text) == (hasty == 1.0)


def test_habits_come_at_their_rates_and_guesses_are_blind() -> None:
    rng = random.Random(0)
    tables = [random_round(rng) for _ in range(2000)]
    votes = [vote_reply(t.scene, t.clues, rng, SPY_WEAK) for t in tables]
    clues = [clue_reply(t.scene, t.clues[:1], rng, SPY_WEAK) for t in tables]
    for texts, rate in ((votes, SPY_WEAK.hasty_vote), (clues, SPY_WEAK.hasty_clue)):
        assert abs(sum(GUESS in text for text in texts) / 2000 - rate) < 0.05
        assert abs(sum("boxed" not in text for text in texts) / 2000 - SPY_WEAK.no_box) < 0.02
    guessed = [
        parse_vote(text, PLAYERS) == table.spy
        for text, table in zip(votes, tables, strict=True)
        if GUESS in text and "boxed" in text
    ]
    assert abs(sum(guessed) / len(guessed) - 1 / (PLAYERS + 1)) < 0.05


def test_tables_hold_true_and_false_clues_of_civilians_and_both_views_of_the_spy() -> None:
    rng = random.Random(1)
    tables = [random_round(rng) for _ in range(1000)]
    true = [is_true(t.scene, c) for t in tables for c in t.clues if c.seat != t.spy]
    assert 0.4 < sum(true) / len(true) < 0.8
    assert 0.4 < sum(not t.seen for t in tables) / 1000 < 0.6
    assert {len(false_seats(t)) for t in tables} == {0, 1, 2, 3, 4}
    assert {t.spy for t in tables} == {1, 2, 3, 4}
    assert {split_of(t.scene) for t in tables} == {"pretrain"}
    assert {split_of(t.seen) for t in tables if t.seen} == {"pretrain"}


def test_the_first_word_of_a_thought_weighs_the_same_in_every_mode(
    spy_writer: SpyWriter, tokenizer: PreTrainedTokenizerFast
) -> None:
    rng = random.Random(2)
    (start,) = tokenizer("<think>", add_special_tokens=False).input_ids
    for _ in range(40):
        table = random_round(rng)
        seat = rng.randint(1, PLAYERS)
        for example in (
            spy_writer.vote(table, rng, SPY_WEAK),
            spy_writer.clue(table, seat, rng, SPY_WEAK),
        ):
            first = example.ids.index(start)
            assert set(example.weights[:first]) == {0.0}
            assert example.weights[first : first + 2] == [1.0, 4.0]
            reply = tokenizer.decode(example.ids[first:])
            if GUESS in reply:
                assert set(example.weights[first + 2 :]) == {1.0}
            elif "boxed" in reply and table.seen:
                assert max(example.weights[first + 2 :]) > 1.0


def test_a_step_holds_both_games_with_two_rows_for_each_picture(
    writer: Writer, spy_writer: SpyWriter
) -> None:
    plan = Plan(10, weak_from=0.0, scenes=4, drawings=3, proposals=2)
    scenes, seeing, reading = Mix(spy_writer, tables=5, spies=2)(plan, 0, writer)
    assert len(scenes) == 4 + 5 + 2
    assert len(seeing) == 2 * len(scenes)
    assert len(reading) == 3 + 2
    again = Mix(spy_writer, tables=5, spies=2)(plan, 0, writer)
    assert again == (scenes, seeing, reading)


def test_the_blank_picture_has_the_patches_of_a_white_page() -> None:
    page = np.full((96, 96, 3), 255, np.uint8)
    seen = image_processor()(images=[page], return_tensors="np").pixel_values
    assert np.array_equal(Tiles().patches([()]).numpy(), seen)


def test_shipped_folder_is_as_small_as_the_other_and_has_its_tokenizer() -> None:
    assert sum(path.stat().st_size for path in SHIPPED_SPY.iterdir()) <= LARGEST_BYTES
    assert {path.name for path in SHIPPED_SPY.iterdir()} == {p.name for p in SHIPPED.iterdir()}
    for name in ("tokenizer.json", "chat_template.jinja", "preprocessor_config.json"):
        assert (SHIPPED_SPY / name).read_bytes() == (SHIPPED / name).read_bytes()


def test_shipped_model_is_weak_but_sane_in_both_games(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    measured = measure_spy(model, tokenizer, items=64, seed=1)
    assert not measured.outside(SLACK), measured.table()
    measured = measure(model, tokenizer, load_prompts("tiny"), items=64, seed=1)
    assert not measured.outside(SLACK), measured.table()
