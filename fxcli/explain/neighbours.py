"""A sheet of what a network takes for alike: some pictures, each with those whose features are nearest to its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fxcli.console import console
from fxcli.data.dataset import evenly
from fxcli.data.names import without_middle
from fxcli.data.preprocess import Preprocessing
from fxcli.evaluation import representation
from fxcli.evaluation.predictions import notice
from fxcli.explain import outline
from fxcli.explain.png import save_drawn
from fxcli.inference.features import FEATURES, SHEET
from fxcli.inference.opened import Opened

# Rows and neighbours of a sheet that still fits a screen's width.
QUERIES, NEIGHBOURS = 10, 6

_TILE_PX, _GAP_PX, _LINE_PX, _FONT_PX = 150, 10, 15, 12
_HEAD_PX, _TEXT_LINES = 30, 3
_GROUND, _EMPTY, _BRIGHT, _DIM = (16, 16, 16), (0, 0, 0), (235, 235, 235), (170, 170, 170)
# Further from the pictures asked about than from each other.
_MARGIN_PX = 24


def save_sheet(
    folder: Path, readable: Sequence[int], files: Sequence[Path], names: Sequence[PurePath], opened: Opened
) -> None:
    """Draws the sheet beside complete features, as a PNG that says what it is; not of less than two pictures.

    Args:
        folder: Of the features.
        readable: Places of the pictures that could be read.
        files: All pictures, in the order of the features.
        names: What each is called.
        opened: The model that the features are of.

    Raises:
        DataError: It cannot be written.
        UnreadableImage: A picture is no longer there.
    """
    if len(readable) < 2:
        console.note("no sheet of neighbours: it takes two pictures that can be read")
        return
    # Not read as a whole: it may be larger than the memory.
    features = np.load(folder / FEATURES, mmap_mode="r")
    demo = "DEMO  " if opened.model.is_demo else ""
    title = f"{demo}{opened.name}: pictures, and those nearest to them by the cosine of features"
    drawn = sheet(features, readable, files, names, opened.model.preprocessing, title)
    save_drawn(np.asarray(drawn), folder / SHEET, notice(opened.model.info))


def sheet(
    features: np.ndarray,
    readable: Sequence[int],
    files: Sequence[Path],
    names: Sequence[PurePath],
    preprocessing: Preprocessing,
    title: str,
) -> Image.Image:
    """A row for each of QUERIES pictures, evenly spread over all, so that those of a folder show all of its folders.

    Args:
        features: [N, D].
        readable: Places of those that can be compared.
        files: N pictures.
        names: What each is called; its folder stands on a line of its own.
        preprocessing: Reads them.
        title: Stands above.

    Raises:
        UnreadableImage: A picture is no longer there.
    """
    asked = evenly(readable, QUERIES)
    found = representation.nearest(features, asked, readable, NEIGHBOURS)
    step_px, row_px = _TILE_PX + _GAP_PX, _TILE_PX + _TEXT_LINES * _LINE_PX + _GAP_PX
    size = (_GAP_PX + _MARGIN_PX + (1 + len(found[0])) * step_px, _HEAD_PX + len(asked) * row_px)
    drawn = Image.new("RGB", size, _GROUND)
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(_FONT_PX)
    draw.text((_GAP_PX, 8), _fitted(title, font, size[0] - 2 * _GAP_PX), fill=_BRIGHT, font=font)
    for row, (query, others) in enumerate(zip(asked, found, strict=True)):
        shown = [(query, f"picture {query + 1}"), *((other.place, f"{other.cosine:.3f}") for other in others)]
        for column, (place, told) in enumerate(shown):
            left, top = _GAP_PX + column * step_px + (_MARGIN_PX if column else 0), _HEAD_PX + row * row_px
            drawn.paste(_tile(files[place], preprocessing), (left, top))
            for line, text in enumerate((told, "/".join(names[place].parts[:-1]), names[place].name)):
                at = (left, top + _TILE_PX + 1 + line * _LINE_PX)
                draw.text(at, _fitted(text, font, _TILE_PX), fill=_DIM if line else _BRIGHT, font=font)
    return drawn


def _tile(file: Path, preprocessing: Preprocessing) -> Image.Image:
    """The radiograph in the middle of a square."""
    radiograph = Image.fromarray(outline.radiograph(preprocessing.load(file, draft=True)))
    return ImageOps.pad(radiograph, (_TILE_PX, _TILE_PX), Image.Resampling.BICUBIC, color=_EMPTY)


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    """One line of text, with its middle left out where it is too long."""
    line = "".join(sign if sign.isprintable() else "·" for sign in text)
    most, fitted = len(line), line
    while most > 3 and font.getlength(fitted) > width_px:
        most -= 1
        fitted = without_middle(line, most)
    return fitted
