"""Hostile inputs for the render pool: nearly four hundred fixed ones, endless others.

A family is one way to harm: each has recipes, and a recipe writes endless variants of itself from
a `random.Random`. What the pool may answer is part of the attack; the time that it may take for
the answer is not, since every one of them has to be cheap.
"""

from collections.abc import Iterator
from random import Random

from render_pool.corpus.attacks import (
    amounts,
    extremes,
    graphs,
    markup,
    painting,
    references,
    styling,
)
from render_pool.corpus.attacks.book import Attack, Book, Recipe

__all__ = ["FAMILIES", "Attack", "cases", "stream"]

_BOOKS: tuple[Book, ...] = (
    *markup.BOOKS,
    *references.BOOKS,
    *graphs.BOOKS,
    *amounts.BOOKS,
    *styling.BOOKS,
    *extremes.BOOKS,
    *painting.BOOKS,
)
FAMILIES: tuple[str, ...] = tuple(book.family for book in _BOOKS)


def cases() -> tuple[Attack, ...]:
    """The fixed set: every recipe once, always the same."""
    return tuple(_fixed(recipe) for book in _BOOKS for recipe in book.recipes)


def stream(seed: int) -> Iterator[Attack]:
    """Endless and all distinct; of any `len(FAMILIES)` in a row from the start, one per family."""
    rng = Random(seed)
    books = list(_BOOKS)
    while True:
        rng.shuffle(books)
        for book in books:
            yield rng.choice(book.recipes).attack(Random(rng.getrandbits(64)))


def _fixed(recipe: Recipe) -> Attack:
    return recipe.attack(Random(f"{recipe.family} {recipe.name}"))
