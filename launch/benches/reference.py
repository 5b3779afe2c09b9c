"""What MM-Zero's released renderer does with a picture, and with a batch, in lines of our own.

Source: repository commit 70592bc, MM-zero_final/code_render/render_code.py. Each text is written to
a file of its own, cairosvg reads the file and writes a PNG file at the SVG's own size without a
background, Pillow opens that for its size alone, and the bytes are read back and put into base64.
Each batch has a new pool of at least eight processes, which are spawned: Python 3.11 does so
wherever `max_tasks_per_child` is given.

This module imports little: it is what every spawned process has to load.
"""

import base64
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cairosvg
from PIL import Image


def body(text: str) -> tuple[str, int, int]:
    """One picture, as one of its workers draws it: PNG in base64, width, height."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "input.svg", Path(folder) / "output.png"
        source.write_text(text)
        cairosvg.svg2png(url=str(source), write_to=str(target))
        with Image.open(target) as picture:
            width, height = picture.size
        return base64.b64encode(target.read_bytes()).decode(), width, height


def batch(texts: list[str]) -> None:
    """One batch by its pool."""
    executor = ProcessPoolExecutor(
        max_workers=max(8, (os.cpu_count() or 1) // 2),
        mp_context=multiprocessing.get_context("spawn"),
        max_tasks_per_child=500,
    )
    with executor:
        if len(list(executor.map(body, texts))) != len(texts):
            raise RuntimeError("the reference lost a picture")
