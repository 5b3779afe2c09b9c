"""One SVG document to one PNG, in this process. Imports cairo: only workers import this module."""

import io

from cairosvg.parser import Tree
from cairosvg.surface import PNGSurface
from PIL import Image

from render_pool.svg import Drawing


class _Raster(PNGSurface):
    """Keeps its pixels: cairo's own PNG encoder costs twice what Pillow's does."""

    def finish(self) -> None:
        self.cairo.flush()


def rasterise(drawing: Drawing) -> bytes | None:
    """PNG (opaque RGB on white, `drawing.padded` pixels), or None where nothing can be seen.

    Raises whatever cairosvg raises on a document that it can't draw, which is any Exception.
    """
    tree = Tree(bytestring=drawing.svg, url_fetcher=_nothing)
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
    pixels = bytes(surface.cairo.get_data())
    size = (drawing.width, drawing.height)
    picture = Image.frombuffer("RGB", size, pixels, "raw", "BGRX", surface.cairo.get_stride(), 1)
    if len(picture.getcolors(2) or (0, 0)) == 1:
        return None
    if drawing.padded != size:
        page = Image.new("RGB", drawing.padded, "white")
        page.paste(picture, (0, 0))
        picture = page
    png = io.BytesIO()
    picture.save(png, "PNG", compress_level=1)
    return png.getvalue()


def _nothing(url: str, resource_type: str) -> bytes:
    """Stands for every resource that a document asks for; nothing is ever opened."""
    return b'<svg width="1" height="1"></svg>'
