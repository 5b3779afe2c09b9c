"""Drawings to pixels by cairosvg, in this process: only workers import this module."""

import numpy as np
from cairosvg.parser import Tree
from cairosvg.surface import PNGSurface

from render_pool.embedded import embedded_png
from render_pool.svg import Drawing


class _Raster(PNGSurface):
    """Keeps its pixels: cairo's own PNG encoder takes longer than all of the drawing."""

    def finish(self) -> None:
        self.cairo.flush()


def rasterise(drawing: Drawing) -> np.ndarray:
    """Pixels on white: uint8 [height, width, 4], blue, green, red, and 255.

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
    # cairo's buffer does not keep its surface alive: copy it while the surface is in scope.
    pixels = np.frombuffer(bytes(surface.cairo.get_data()), np.uint8)
    return pixels.reshape(drawing.height, surface.cairo.get_stride() // 4, 4)


def _resource(url: str, resource_type: str) -> bytes:
    """The PNG that a document brings along, or nothing at all; no address is ever opened."""
    png = embedded_png(url) if resource_type == "image/*" else None
    return png or b'<svg width="1" height="1"></svg>'
