"""Takes the forget images out of a report, or makes mosaics of them, before anything is written.

What is blurred by the page can be unblurred by its reader; what is not in the page cannot.
"""

import io
from collections.abc import Sequence

from PIL import Image

from pareto_unlearn.analysis.picking import HIDDEN
from pareto_unlearn.config import ForgetImages
from pareto_unlearn.report.solution import Solution
from pareto_unlearn.report.views import Row

TILES = 4
"""Tiles of a mosaic along its side: what stays is where a picture is light or dark, and of what colour."""


def veil(rows: Sequence[Row], solutions: Sequence[Solution], mode: ForgetImages) -> list[Row]:
    """Return the rows of the samples table as a report may hold them.

    Veiled are inputs and truths of forget images, and the pictures of models less than 90 % complete, the
    original first of all, for these show the image again. Those of other models stay as they are.
    """
    if mode is ForgetImages.SHOWN:
        return list(rows)
    if mode is ForgetImages.NONE:
        return [row for row in rows if row["set"] != "forget"]
    return [
        {**row, "image": make_mosaic(row["image"])} if _shows_the_image(row, solutions) else row
        for row in rows
    ]


def _shows_the_image(row: Row, solutions: Sequence[Solution]) -> bool:
    if row["set"] != "forget":
        return False
    completeness = solutions[row["key"]].train.completeness
    # Written so that NaN, of which nothing is known, counts as shown.
    return row["kind"] != "output" or completeness is None or not completeness >= HIDDEN


def make_mosaic(image: bytes) -> bytes:
    """Return an encoded picture of the same size in which each tile has the mean colour of what it covers."""
    with Image.open(io.BytesIO(image)) as opened:
        pixels = opened.convert("RGB")
    small = pixels.resize((TILES, TILES), Image.Resampling.BOX)
    written = io.BytesIO()
    small.resize(pixels.size, Image.Resampling.NEAREST).save(written, "WEBP", lossless=True)
    return written.getvalue()
