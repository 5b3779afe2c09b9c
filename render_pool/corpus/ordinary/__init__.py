"""Pictures as language models draw them and as tools export them: none of these may be refused.

`stream` is endless and made by program: charts, diagrams, tables, text, icons, 2 to 3 KB each.
`FIXED` is a cabinet of single features and oddities, each met in real files: those of the folder
`fixed`, and the long ones of `large`. Plain cairosvg draws every one of them.
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from render_pool.corpus.ordinary import charts, diagrams
from render_pool.corpus.ordinary.large import LARGE

__all__ = ["FIXED", "stream"]

_FOLDER = Path(__file__).parent / "fixed"

FIXED: dict[str, str] = LARGE | {
    # Bytes, decoded here: reading as text would mend line ends, which are part of the document.
    path.relative_to(_FOLDER).with_suffix("").as_posix(): path.read_bytes().decode()
    for path in sorted(_FOLDER.glob("*/*.svg"))
}
"""Name of the one feature or oddity: the document."""

_SCENES = (
    charts.bars,
    charts.lines,
    charts.pie,
    charts.scatter,
    charts.heat,
    diagrams.flow,
    diagrams.tree,
    diagrams.table,
    diagrams.geometry,
    diagrams.paragraph,
    diagrams.icons,
    diagrams.timeline,
)
_ASPECTS = ((1, 1), (4, 3), (3, 2), (16, 9), (2, 1), (3, 4), (5, 8))
_UNITS = (400, 500, 640, 800)


def stream(seed: int, side: int = 640) -> Iterator[str]:
    """Endless documents, no two alike; the longer side of each is `side` pixels."""
    rng = random.Random(seed)
    for serial in itertools.count():
        yield _document(rng, side, f"Figure {seed}.{serial}")


def _document(rng: random.Random, side: int, title: str) -> str:
    scene = rng.choice(_SCENES)
    wide, tall = rng.choice(_ASPECTS)
    longer = max(wide, tall)
    units = rng.choice(_UNITS)
    w, h = round(units * wide / longer), round(units * tall / longer)
    size = f'width="{round(side * wide / longer)}" height="{round(side * tall / longer)}"'
    page = rng.choice(("", '<rect width="100%" height="100%" fill="#fdfdfb"/>'))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {w} {h}">'
        f"<title>{title}</title>{page}{scene(rng, w, h)}</svg>"
    )
