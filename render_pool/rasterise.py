"""Drawings to pixels by cairosvg, in this process: only workers import this module."""

import numpy as np
from cairosvg.parser import Tree
from cairosvg.surface import PNGSurface

from render_pool.embedded import embedded_png
from render_pool.picture import Canvas
from render_pool.svg import Drawing


class _Raster(PNGSurface):
    """Keeps its pixels: cairo's own PNG encoder takes longer than all of the drawing."""

    def finish(self) -> None:
        self.cairo.flush()


def rasterise(drawing: Drawing) -> Canvas:
    """Pixels on white.

    Raises whatever cairosvg raises on a document that it can't draw, which is any Exception.
    """
    tree = Tree(bytestring=drawing.svg, url_fetcher=_resource)
    surface = _Raster(
        tree,
        None,
        96,
        output_width=drawing.width,
        output_height=drawing.height,
        background_color="white",
    )
    surface.finish()
    pixels = np.frombuffer(surface.cairo.get_data(), np.uint8)
    # cairo's buffer does not keep its surface alive, which therefore goes with it.
    return Canvas(pixels.reshape(drawing.height, surface.cairo.get_stride() // 4, 4), surface.cairo)


def _resource(url: str, resource_type: str) -> bytes:
    """The PNG that a document brings along, or nothing at all; no address is ever opened."""
    png = embedded_png(url) if resource_type == "image/*" else None
    return png or b'<svg width="1" height="1"></svg>'
