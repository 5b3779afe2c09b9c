"""Words, colours and a way to write elements, for the scenes of the ordinary corpus."""

import random

WORDS = (
    "north", "south", "river", "garden", "copper", "silver", "window", "market", "paper",
    "summer", "winter", "signal", "coffee", "planet", "bridge", "harbor", "forest", "engine",
    "yellow", "violet", "number", "letter", "answer", "circle", "square", "orange", "budget",
    "region", "income", "energy", "output", "demand", "supply", "sample", "median", "growth",
    "profit", "volume", "theory",
)  # fmt: skip
PALETTES = (
    ("#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#9c755f"),
    ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf"),
    ("steelblue", "tomato", "seagreen", "goldenrod", "orchid", "slategray", "teal", "crimson"),
    ("#264653", "#2a9d8f", "#e9c46a", "#f4a261", "#e76f51", "#606c38", "#bc6c25", "#6d597a"),
)
FONTS = ("sans-serif", "Arial, sans-serif", "Helvetica", "serif", "Verdana", "monospace")


def tag(name: str, *children: str, **attributes: str | float) -> str:
    """One element; `stroke_width` stands for `stroke-width`, `class_` for `class`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{number(value)}"'
        for key, value in attributes.items()
    )
    inside = "".join(children)
    return f"<{name}{written}>{inside}</{name}>" if inside else f"<{name}{written}/>"


def number(value: str | float) -> str:
    """A number with at most one decimal, as people and programs write coordinates."""
    return value if isinstance(value, str) else f"{round(value, 1):g}"


def points(pairs: list[tuple[float, float]]) -> str:
    """`x,y x,y ...`"""
    return " ".join(f"{number(x)},{number(y)}" for x, y in pairs)


def phrase(rng: random.Random, num_words: int) -> str:
    """Some words with a capital first."""
    return " ".join(rng.choices(WORDS, k=num_words)).capitalize()


def heading(rng: random.Random, w: float) -> str:
    """A title, centred at the top."""
    size = rng.choice((14, 16, 18, 20))
    return tag(
        "text", phrase(rng, 3), x=w / 2, y=size + 6, font_size=size, text_anchor="middle",
        font_weight=rng.choice(("bold", "normal", "600")),
    )  # fmt: skip
