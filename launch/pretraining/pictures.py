"""Pictures of scenes as patches for the vision tower, without rendering each of them.

A cell of a scene is exactly one visual token, so a picture is nine tiles out of 25; tiles are
rendered once by cairosvg and patched by the very image processor that is shipped.
"""

import io

import cairosvg
import numpy as np
import torch
from PIL import Image

from evals.scenes.drawing import to_svg
from evals.scenes.scene import CELLS, COLORS, KINDS, SIZES, Scene, Shape
from launch.pretraining.model import image_processor

_PER_CELL = 4


def render(svg: str) -> Image.Image:
    """The picture on white, RGB. For our own drawings only: nothing guards against hostile SVG."""
    png = cairosvg.svg2png(bytestring=svg.encode(), background_color="white")
    return Image.open(io.BytesIO(png)).convert("RGB")


class Tiles:
    """The patches of each possible cell."""

    def __init__(self) -> None:
        self._processor = image_processor()
        kinds = [(color, kind, size) for color in COLORS for kind in KINDS for size in SIZES]
        self._row = {look: i + 1 for i, look in enumerate(kinds)}
        pictures = [self._first_cell(())]
        pictures += [self._first_cell((Shape(0, *look),)) for look in kinds]
        self._tiles = torch.from_numpy(np.stack(pictures))

    def _first_cell(self, scene: Scene) -> np.ndarray:
        values = self._processor(images=[render(to_svg(scene))], return_tensors="np").pixel_values
        return np.asarray(values[:_PER_CELL], np.float32)

    def patches(self, scenes: list[Scene]) -> torch.Tensor:
        """float32 [len(scenes) * 36, patch_dim], as the image processor makes them."""
        rows = torch.zeros(len(scenes), len(CELLS), dtype=torch.long)
        for i, scene in enumerate(scenes):
            for shape in scene:
                rows[i, shape.cell] = self._row[shape.color, shape.kind, shape.size]
        return self._tiles[rows].flatten(0, 2)
